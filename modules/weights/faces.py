"""Files that restore faces (GFPGAN, RestoreFormer, CodeFormer) and the one that finds them (RetinaFace).

All are opened through the one door for model files. spandrel builds GFPGAN and RestoreFormer; CodeFormer, which it has
only in a package for non-commercial use, and RetinaFace are nets of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.memory.devices import is_memory
from modules.nets.codeformer import CodeFormer, CodeFormerConfig
from modules.nets.retinaface import RetinaFace, RetinaFaceConfig
from modules.nets.torchvision_fit import fit_torchvision
from modules.schema.errors import BadFile, EaselError, NotFound
from modules.schema.folders import Folders
from modules.weights.headers import read_header
from modules.weights.kinds import kind_of
from modules.weights.library import places, restorer_names
from modules.weights.reading import open_model
from modules.weights.walk import walk

ENDINGS = (".pth", ".safetensors", ".pt", ".ckpt")
DETECTOR = "detection_Resnet50_Final"
_WRAPPERS = ("params_ema.", "params.", "state_dict.", "module.")
# What their publishers ask of those who use the weights; told before the first use.
LICENCES = {
    "GFPGAN": "GFPGAN's code is under Apache-2.0, but its weights stem in part from StyleGAN2 and DFDNet, whose "
    "licences allow non-commercial use only.",
    "CodeFormer": "CodeFormer's weights are under the S-Lab License 1.0: non-commercial use only.",
    "RestoreFormer": "RestoreFormer's weights are under Apache-2.0.",
    "detector": "The face detector's weights were trained on WIDER FACE, a data set for research.",
}


@dataclass(frozen=True)
class Restorer:
    """`restore(face, weight)`: a face [1, 3, 512, 512] in 0…1, upright and centred, made clear, in the same range.
    `weight`: how much of the given picture is kept, 0…1, heeded by CodeFormer alone. `kind` is a key of LICENCES."""

    kind: str
    restore: Callable[[Tensor, float], Tensor]


def restorer_files(folders: Folders) -> dict[str, Path]:
    """Face restorers by name, told by their content; damaged files are left out."""
    found = []
    for place in places(folders):
        if place.kind == "face restorer":
            for file in walk(place.folder, ENDINGS):
                path = Path(file.path)
                try:
                    if kind_of(read_header(path)) == "face restorer":
                        found.append(path)
                except EaselError:
                    continue
    return restorer_names(found, folders.extra.get("gfpgan_model"))


def detector_file(folders: Folders) -> Path | None:
    """The face detector, where A1111 keeps it; None where there is none."""
    for place in places(folders):
        if place.kind == "face restorer":
            for file in walk(place.folder, ENDINGS):
                if Path(file.path).stem == DETECTOR:
                    return Path(file.path)
    return None


def load_detector(path: Path, device: torch.device) -> RetinaFace:
    """BadFile where it is damaged or another net."""
    weights = _read(path)
    try:
        blocks = tuple(_count(weights, f"body.layer{stage}.") for stage in range(1, 5))
        config = RetinaFaceConfig(
            weights["body.conv1.weight"].shape[0], blocks, weights["fpn.output1.0.weight"].shape[0]
        )
    except (KeyError, IndexError):
        raise BadFile(f"{path.name} is no RetinaFace detector with a ResNet; get it again.") from None
    with torch.device("meta"):
        net = RetinaFace(config)
    return _filled(net, weights, path, device)


def load_restorer(path: Path, device: torch.device) -> Restorer:
    """BadFile where the file is damaged or no face restorer; NotFound where spandrel is missing."""
    weights = _read(path)
    if "position_emb" in weights:
        return _codeformer(path, weights, device)
    try:
        fit_torchvision()
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError  # 2 s, only for those who need it
    except ImportError:
        raise NotFound(
            f"{path.name} needs the package spandrel, which is not installed; start Easel once with a connection."
        ) from None
    try:
        found: Any = ModelLoader(torch.device("cpu")).load_from_state_dict(weights)
    except UnsupportedModelError:
        raise BadFile(f"{path.name} restores no faces that are known; put another file in its place.") from None
    except (RuntimeError, KeyError, ValueError, IndexError, AttributeError, AssertionError) as error:
        if is_memory(error):
            raise
        reason = " ".join(str(error).split())[:80]
        raise BadFile(f"{path.name} looks like a face restorer but does not fit together ({reason}).") from None
    kind = found.architecture.name
    if not isinstance(found, ImageModelDescriptor) or kind not in LICENCES:
        raise BadFile(f"{path.name} ({kind}) restores no faces; put it where its kind belongs.")
    found = found.to(device).eval().float()
    if kind != "GFPGAN":
        return Restorer(kind, lambda face, weight: found(face))
    # Called by itself: its descriptor passes pixels on as they are, where the net wants -1…1. Its noise is the file's
    # own instead of fresh, so that the same picture comes out each time.
    net: Any = found.model
    return Restorer(
        kind, lambda face, weight: net(face * 2 - 1, return_rgb=False, randomize_noise=False)[0].clamp(-1, 1) / 2 + 0.5
    )


def _codeformer(path: Path, weights: dict[str, Tensor], device: torch.device) -> Restorer:
    try:
        config = CodeFormerConfig(
            width=weights["encoder.blocks.0.weight"].shape[0], code=weights["quantize.embedding.weight"].shape[1],
            codes=weights["quantize.embedding.weight"].shape[0], model=weights["position_emb"].shape[1],
            mlp=weights["ft_layers.0.linear1.weight"].shape[0], layers=_count(weights, "ft_layers."),
        )  # fmt: skip
    except (KeyError, IndexError):
        raise BadFile(f"{path.name} looks like CodeFormer, but parts of it are missing; get it again.") from None
    if config.width % 32 or config.model % config.heads:
        raise BadFile(f"{path.name} looks like CodeFormer, but its sizes make no sense; get it again.")
    with torch.device("meta"):
        net = CodeFormer(config)
    net = _filled(net, weights, path, device)
    return Restorer("CodeFormer", lambda face, weight: net(face * 2 - 1, weight).clamp(-1, 1) / 2 + 0.5)


def _read(path: Path) -> dict[str, Tensor]:
    """The net's own keys, where a trainer put them below others."""
    with open_model(path) as file:
        weights = dict(file.tensors())
    for head in _WRAPPERS:
        inside = {key[len(head) :]: value for key, value in weights.items() if key.startswith(head)}
        if inside:
            weights = inside
    return weights


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """How many parts are numbered below a prefix."""
    return len({key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)})


def _filled(net: Any, weights: dict[str, Tensor], path: Path, device: torch.device) -> Any:
    """The net with these weights in float32, on its device."""
    wanted = net.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    wrong = [
        name for name, tensor in wanted.items()
        if name not in counters and (name not in weights or weights[name].shape != tensor.shape)
    ]  # fmt: skip
    if wrong:
        raise BadFile(
            f"{path.name} does not fit together: {len(wrong)} parts are wrong, first {wrong[0]}; get it again."
        )
    state = {name: weights[name].to(device, torch.float32) for name in wanted if name not in counters}
    state |= {name: torch.zeros((), dtype=torch.long, device=device) for name in counters}
    module: nn.Module = net
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
