"""Faces found and made clear again: found by RetinaFace, restored one by one, put back into the picture."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.imaging import faces as place
from modules.imaging.save import safe_write
from modules.memory.devices import DeviceFacts
from modules.nets import retinaface
from modules.schema.errors import EaselError, NotANumber, NotFound
from modules.schema.folders import Folders
from modules.weights.faces import (
    DETECTOR,
    LICENCES,
    Restorer,
    detector_file,
    load_detector,
    load_restorer,
    restorer_files,
)  # fmt: skip

DETECT_AT = 640  # shorter side, in pixels, at which faces are looked for
LEAST_EYES = 5.0  # pixels between the eyes at that size; less is too small, or seen from the side


def check(name: str, folders: Folders, field: str) -> None:
    """Raises NotFound, before anything is drawn, where faces cannot be restored by that name."""
    known = restorer_files(folders)
    if name not in known:
        there = f"there are {', '.join(known)}; choose one of them" if known else "there is none yet"
        raise NotFound(
            f"No face restorer is called {name!r}: {there}, or put GFPGANv1.4.pth into models/GFPGAN or "
            "codeformer-v0.1.0.pth into models/Codeformer.",
            field=field,
        )
    if detector_file(folders) is None:
        raise NotFound(
            f"Faces are restored where they are found, and the detector's file is missing; put {DETECTOR}.pth into "
            "models/GFPGAN.",
            field=field,
        )


@dataclass
class Faces:
    """Keeps the nets that were used last. `told`: where it is written down whose licences were shown."""

    folders: Folders
    facts: DeviceFacts
    _nets: dict[str, tuple[tuple[Path, int], Any]] = field(default_factory=dict)

    def restore(
        self, image: Image.Image, name: str, weight: float, warn: Callable[[str], None],
        check_stop: Callable[[], None] = lambda: None,
    ) -> Image.Image:  # fmt: skip
        """The picture (RGB or RGBA) with every face made clear by that restorer; as it is where there is no face.

        Raises NotFound or BadFile; what `check_stop` raises takes effect between faces.
        """
        path = restorer_files(self.folders).get(name)
        if path is None or detector_file(self.folders) is None:
            check(name, self.folders, "face_restoration_model")
            raise AssertionError("check names what is missing")
        restorer: Restorer = self._net("restorer", path, load_restorer)
        self._tell(restorer.kind, warn)
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        seen = result = image.convert("RGB")
        for points in self.find(seen):
            check_stop()
            matrix = place.similarity(points)
            result = place.put_back(result, self._restored(place.cut_out(seen, matrix), restorer, weight), matrix)
        if alpha is not None:
            result.putalpha(alpha)
        return result

    @torch.inference_mode()
    def find(self, image: Image.Image) -> list[np.ndarray]:
        """Landmarks [5, 2] in pixels of every face of an RGB picture, the surest first; none without a detector."""
        path = detector_file(self.folders)
        if path is None:
            return []
        net = self._net("detector", path, load_detector)
        scale = min(image.size) / DETECT_AT
        size = max(1, round(image.width / scale)), max(1, round(image.height / scale))
        pixels = _tensor(image.resize(size, Image.Resampling.LANCZOS)) * 255
        mean = torch.tensor(retinaface.BGR_MEAN).view(1, 3, 1, 1)
        said = net((pixels.flip(1) - mean).to(self.facts.device))
        boxes, classes, points = (part[0] for part in said)
        found = (spots for _, _, spots in retinaface.read(boxes, classes, points, (size[1], size[0])))
        return [spots.numpy() * scale for spots in found if float((spots[0] - spots[1]).norm()) >= LEAST_EYES]

    def use(self, facts: DeviceFacts) -> None:
        """The machine to work with from now on."""
        if facts != self.facts:
            self.close()
            self.facts = facts

    def close(self) -> None:
        self._nets = {}

    @torch.inference_mode()
    def _restored(self, face: Image.Image, restorer: Restorer, weight: float) -> Image.Image:
        out = restorer.restore(_tensor(face).to(self.facts.device), weight)[0].float().cpu()
        if not torch.isfinite(out).all():
            raise NotANumber(f"{restorer.kind} produced numbers that are not finite; its file may be damaged.")
        return Image.fromarray((out.clamp(0, 1) * 255).round().permute(1, 2, 0).to(torch.uint8).numpy())

    def _net(self, what: str, path: Path, load: Callable[[Path, torch.device], Any]) -> Any:
        key = path, path.stat().st_mtime_ns
        kept = self._nets.get(what)
        if kept is None or kept[0] != key:
            self._nets.pop(what, None)  # before the next is loaded
            self._nets[what] = key, load(path, self.facts.device)
        return self._nets[what][1]

    def _tell(self, kind: str, warn: Callable[[str], None]) -> None:
        """The licences of what is about to be used for the first time in this data folder."""
        path = self.folders.state / "licences.json"
        known: list[str] = []
        with contextlib.suppress(OSError, ValueError):
            known = list(json.loads(path.read_text("utf-8")))
        new = [one for one in (kind, "detector") if one not in known]
        for one in new:
            warn(LICENCES[one])
        if new:
            with contextlib.suppress(EaselError):  # they are told again then
                safe_write(path, json.dumps([*known, *new]).encode(), overwrite=True)


def _tensor(image: Image.Image) -> Tensor:
    """RGB as [1, 3, h, w] in 0…1."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
