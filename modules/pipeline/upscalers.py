"""Pictures made larger by a model, in overlapping tiles so that any size fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.imaging.grid import tile_starts
from modules.imaging.resize import Upscale
from modules.imaging.upscale import KNOWN_AS, UPSCALERS, find_upscaler, unknown
from modules.memory.devices import DeviceFacts
from modules.schema.errors import NotANumber
from modules.schema.folders import Folders
from modules.schema.settings import SAVINGS, Drawing, Settings
from modules.weights.library import find_file, upscaler_files
from modules.weights.upscalers import UpscalerNet, load_upscaler

TILES = (None, 192, 96, 64, 64)
"""Largest tile in pixels at each step of SAVINGS."""
MAX_ROUNDS = 3  # as often a model is applied to reach a factor beyond its own


def names(folders: Folders) -> list[str]:
    """All upscalers of pictures, as a list shows them."""
    return [*UPSCALERS, *upscaler_files(folders)]


def check(name: str | None, folders: Folders) -> None:
    """Raises NotFound for a name that no upscaler has."""
    if name and name not in UPSCALERS and find_file(KNOWN_AS.get(name, name), upscaler_files(folders)) is None:
        raise unknown(name, names(folders))


def sparing(settings: Settings) -> Drawing:
    """The options of drawing with tiles as small as the memory asks for; each step against too little of it cuts
    smaller ones."""
    most = TILES[SAVINGS.index(settings.performance.memory_saving)]
    tile = settings.drawing.ESRGAN_tile
    if most is None or 0 < tile <= most:
        return settings.drawing
    overlap = min(settings.drawing.ESRGAN_tile_overlap, most // 4)
    return settings.drawing.model_copy(update={"ESRGAN_tile": most, "ESRGAN_tile_overlap": overlap})


@dataclass
class Upscalers:
    """Finds upscalers by name, and keeps the net that was used last. `check` is called before each tile."""

    folders: Folders
    facts: DeviceFacts
    last: tuple[tuple[Path, int], UpscalerNet] | None = None

    def find(self, name: str | None, drawing: Drawing, check: Callable[[], None] = lambda: None) -> Upscale | None:
        """The upscaler of that name; None for "None". Raises NotFound, and BadFile when it is used."""
        if not name or name in UPSCALERS:
            return find_upscaler(name)
        files = upscaler_files(self.folders)
        path = find_file(KNOWN_AS.get(name, name), files)
        if path is None:
            raise unknown(name, [*UPSCALERS, *files])

        def upscale(image: Image.Image, factor: float) -> Image.Image:
            return enlarged(image, factor, self._net(path), self.facts.device, drawing, check)

        return upscale

    def use(self, facts: DeviceFacts) -> None:
        """The machine to enlarge with from now on."""
        if facts != self.facts:
            self.close()
            self.facts = facts

    def _net(self, path: Path) -> UpscalerNet:
        key = path, path.stat().st_mtime_ns
        if self.last is None or self.last[0] != key:
            self.last = None  # before the next is loaded
            half = self.facts.is_card and self.facts.fp16
            self.last = key, load_upscaler(path, self.facts.device, half)
        return self.last[1]

    @property
    def bytes(self) -> int:
        """Of the net that is kept."""
        return sum(p.nbytes for p in self.last[1].model.parameters()) if self.last else 0  # type: ignore[attr-defined]

    def close(self) -> None:
        self.last = None


def enlarged(
    image: Image.Image, factor: float, net: UpscalerNet, device: torch.device, drawing: Drawing,
    check: Callable[[], None] = lambda: None,
) -> Image.Image:  # fmt: skip
    """The picture (RGB) at that factor, sides rounded down to multiples of 8 as A1111 does; transparency is enlarged by
    itself. The model is applied until the size is reached, then Lanczos brings it there."""
    wanted = int(image.width * factor // 8 * 8), int(image.height * factor // 8 * 8)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    larger = image.convert("RGB")
    for _ in range(MAX_ROUNDS):
        if larger.width >= wanted[0] and larger.height >= wanted[1] and larger.size != image.size:
            break
        before = larger.size
        larger = _applied(larger, net, device, drawing, check)
        if larger.size == before:
            break
    if larger.size != wanted:
        larger = larger.resize(wanted, Image.Resampling.LANCZOS)
    if alpha is not None:
        larger.putalpha(alpha.resize(wanted, Image.Resampling.LANCZOS))
    return larger


@torch.inference_mode()
def _applied(
    image: Image.Image, net: UpscalerNet, device: torch.device, drawing: Drawing, check: Callable[[], None]
) -> Image.Image:
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    result = in_tiles(values, net, device, drawing.ESRGAN_tile, drawing.ESRGAN_tile_overlap, check)
    pixels = (result[0].clamp(0, 1) * 255).round().permute(1, 2, 0).to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def in_tiles(
    image: Tensor, net: UpscalerNet, device: torch.device, tile: int, overlap: int,
    check: Callable[[], None] = lambda: None,
) -> Tensor:  # fmt: skip
    """image [1, 3, H, W] in 0…1 through a net tile by tile -> [1, 3, H·scale, W·scale] on the CPU, float32.

    `tile` 0: all at once. Each tile counts less towards its edges, where it does not see what is beyond; neighbours
    share at least `overlap` pixels and their weights add up to one.
    """
    height, width = image.shape[2:]
    tile = tile or max(height, width)
    overlap = min(overlap, tile - 1)
    dtype = next((p.dtype for p in net.model.parameters()), torch.float32)  # type: ignore[attr-defined]
    scale = net.scale
    total = torch.zeros(1, image.shape[1], height * scale, width * scale)
    weights = torch.zeros(1, 1, height * scale, width * scale)
    for y in tile_starts(height, tile, overlap):
        for x in tile_starts(width, tile, overlap):
            check()
            part = image[..., y : y + tile, x : x + tile]
            out = net(part.to(device, dtype)).float().cpu()
            if not torch.isfinite(out).all():
                raise NotANumber("The upscaler produced numbers that are not finite; choose another one.")
            weight = _fade(out.shape[2], overlap * scale)[:, None] * _fade(out.shape[3], overlap * scale)[None]
            place = (..., slice(y * scale, y * scale + out.shape[2]), slice(x * scale, x * scale + out.shape[3]))
            total[place] += out * weight
            weights[place] += weight
    return total / weights


def _fade(length: int, overlap: int) -> Tensor:
    """Weights of one side of a tile: next to nothing in the outer quarter of the overlap, then rising to 1."""
    from_edge = torch.minimum(torch.arange(length), torch.arange(length - 1, -1, -1)) + 0.5
    return ((from_edge - overlap / 4) / max(overlap / 2, 1)).clamp(1e-6, 1)
