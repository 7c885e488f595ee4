"""The ControlNets on this machine: found, called by name or hash, and what their headers tell. Torch-free.

control = find_control(folders, "control_v11p_sd15_canny [d14c016b]")
facts = read_control(control.path)
facts.config["context_dim"]        # 768: it reads the text of SD 1.x
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.schema.errors import BadFile, NotFound
from modules.schema.folders import Folders
from modules.weights import assembly, hashing, layouts
from modules.weights.families.shapes import Shapes, read_encoder
from modules.weights.headers import Header, read_header
from modules.weights.library import control_folders
from modules.weights.walk import walk

ENDINGS = (".pth", ".safetensors", ".pt", ".ckpt", ".bin", ".sft")
FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""By the width of the text that is read."""
SUPPORTED = "ControlNets for SD 1.x, SD 2.x and SDXL, in the original and the diffusers layout, are supported"
_HASHED = re.compile(r"\s*\[([0-9a-fA-F]{8,64})\]\s*$")
# What else lies in such folders, told by the beginning of a key.
_OTHERS: tuple[tuple[str, str], ...] = (
    ("lora_controlnet", "a Control-LoRA"),
    ("difference", "a ControlNet stored as a difference"),
    ("task_embedding", "a ControlNet Union"),
    ("control_add_embedding.", "a ControlNet Union"),
    ("lllite_unet", "a ControlLLLite net"),
    ("ip_adapter.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("body.0.", "a T2I-Adapter"),
    ("adapter.body.0.", "a T2I-Adapter"),
    ("controlnet_blocks.", "a ControlNet for another family of models"),
    ("motion_modules.", "a SparseCtrl net"),
)


@dataclass(frozen=True)
class ControlFile:
    """`name` is that of lists and infotexts without the hash; `hash` has 8 digits ("" where it cannot be read)."""

    name: str
    path: Path
    hash: str

    @property
    def title(self) -> str:
        return f"{self.name} [{self.hash}]" if self.hash else self.name


@dataclass(frozen=True)
class ControlFacts:
    """`header` has the original's bare keys, `config` the fields of nets.unet.UNetConfig that a file tells: all but the
    heads and the outputs. `pooled`: its residuals are taken as their means (of nets that see no places). `stamp`: the
    file's size and time."""

    header: Header
    config: dict[str, Any]
    pooled: bool
    stamp: tuple[int, int]

    @property
    def family(self) -> str:
        width = self.config["context_dim"]
        return FAMILIES.get(width, f"a model whose text is {width} wide")

    @property
    def parameters(self) -> int:
        return sum(prod(info.shape) for info in self.header.tensors.values())

    def fits(self, unet: dict[str, Any]) -> bool:
        """Whether its feature maps are those of a U-Net with this configuration. How deep its transformers are, and
        what that is shown beside the latents, is no matter."""
        alike = ("model_channels", "channel_mult", "num_res_blocks", "context_dim", "adm_channels")
        mine = dict(self.config)
        if not mine["context_dim"]:  # one without transformers reads no text
            mine["context_dim"] = unet["context_dim"]
        return all(mine[name] == unet[name] for name in alike)


def control_files(folders: Folders) -> list[ControlFile]:
    """All files in the folders of ControlNets, by name; of several with one name the first."""
    found: dict[str, ControlFile] = {}
    for folder in control_folders(folders):
        for file in walk(folder, ENDINGS):
            path = Path(file.path)
            found.setdefault(path.stem, ControlFile(path.stem, path, _hash(file.path, file.stamp)))
    return sorted(found.values(), key=lambda file: file.name.lower())


def find_control(folders: Folders, name: str) -> ControlFile:
    """A ControlNet by name, with or without "[hash]", or by its hash where a file of that name is not there.

    Raises:
        NotFound: with the nearest names.
    """
    files = control_files(folders)
    hashed = _HASHED.search(name)
    stem = Path(_HASHED.sub("", name).strip()).name
    wanted = {stem.lower(), next((stem[: -len(e)].lower() for e in ENDINGS if stem.lower().endswith(e)), stem.lower())}
    for file in files:
        if file.name.lower() in wanted:
            return file
    digits = (hashed[1] if hashed else name.strip()).lower()
    for file in files:
        if file.hash and file.hash == digits[:8]:
            return file
    folder = control_folders(folders)[0]
    if not files:
        raise NotFound(f"No ControlNet is called {name!r:.120}: there is none in {folder}; put one there.")
    near = difflib.get_close_matches(stem, [file.name for file in files], n=3, cutoff=0.3) or [files[0].name]
    raise NotFound(f"No ControlNet is called {name!r:.120}. Nearest: {', '.join(near)}. They lie in {folder}.")


@lru_cache(4096)
def _hash(path: str, _stamp: tuple[int, int]) -> str:
    try:
        return hashing.old_hash(Path(path))
    except OSError:
        return ""


def read_control(path: Path) -> ControlFacts:
    """What a ControlNet's header tells.

    Raises:
        BadFile: it is damaged, or of a kind that is not supported; the sentence says which are.
    """
    return _read(str(path), _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read: {error.strerror or error}.") from None
    return status.st_size, status.st_mtime_ns


@lru_cache(16)
def _read(name: str, stamp: tuple[int, int]) -> ControlFacts:
    path = Path(name)
    header = bare(read_header(path))
    shape = Shapes(header, "a ControlNet")
    config = read_encoder(shape, "")
    if config["in_channels"] != 4:
        raise shape.odd(f"it takes latents of {config['in_channels']} channels")
    return ControlFacts(header, config, "shuffle" in path.stem.lower(), stamp)


def bare(header: Header) -> Header:
    """The header with the original's keys without a prefix, whatever the file's layout; BadFile as `read_control`."""
    for key, what in _OTHERS:
        if any(each.startswith(key) for each in header.tensors):
            raise BadFile(f"{header.path.name} is {what}, which is not supported; {SUPPORTED}.")
    keys = header.tensors
    if layouts.is_diffusers_control(keys):
        return replace(header, tensors=MappingProxyType(assembly.moved(header, layouts.control_moves(keys), "")))
    for prefix in ("control_model.", "controlnet.", ""):
        if f"{prefix}input_hint_block.0.weight" in keys:
            moves = [layouts.Move(key[len(prefix) :], (key,)) for key in keys if key.startswith(prefix)]
            return replace(header, tensors=MappingProxyType(assembly.moved(header, moves, "")))
    raise BadFile(f"{header.path.name} is no ControlNet; {SUPPORTED}.")
