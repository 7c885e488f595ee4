"""Upscaler models (ESRGAN, RealESRGAN, DAT, HAT, SwinIR …): found by name, opened through the one door for model files.

spandrel tells the architectures apart by their keys and builds them; it is given tensors only, never a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.memory.devices import is_memory
from modules.nets.torchvision_fit import fit_torchvision
from modules.schema.errors import BadFile, NotFound
from modules.weights.reading import open_model

_WRAPPERS = ("params_ema.", "params-ema.", "params.", "model_state_dict.", "state_dict.", "net.")


class UpscalerNet(Protocol):
    """A picture [1, 3, H, W] in 0…1 to one `scale` times as large (1: it is only cleaned)."""

    scale: int

    def __call__(self, image: Tensor) -> Tensor: ...


def load_upscaler(path: Path, device: torch.device, half: bool = False) -> UpscalerNet:
    """The net of a file, on its device; `half`: in float16 where the architecture bears it.

    Raises:
        BadFile: it is damaged, hostile, or no upscaler that is known.
        NotFound: spandrel is not installed.
    """
    try:
        fit_torchvision()
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError  # 2 s, only for those who need it
    except ImportError:
        raise NotFound(
            "Upscaler models need the package spandrel, which is not installed; start Easel once with a connection, "
            "or choose Lanczos."
        ) from None
    with open_model(path) as file:
        weights = dict(file.tensors())
    weights = _unwrapped(weights)
    try:
        found: Any = ModelLoader(torch.device("cpu")).load_from_state_dict(weights)
    except UnsupportedModelError:
        raise BadFile(f"{path.name} is no upscaler of a known kind; put another file in its place.") from None
    except (RuntimeError, KeyError, ValueError, IndexError, AttributeError, AssertionError) as error:
        if is_memory(error):
            raise
        reason = " ".join(str(error).split())[:80]
        raise BadFile(f"{path.name} looks like an upscaler but does not fit together ({reason}).") from None
    if not isinstance(found, ImageModelDescriptor) or found.input_channels != 3 or found.output_channels != 3:
        raise BadFile(f"{path.name} ({found.architecture.name}) does not turn a picture into one; it cannot upscale.")
    found = found.to(device).eval()
    return found.half() if half and found.supports_half else found.float()


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The net's own keys, where a trainer put them below others (of two sets the averaged one)."""
    for head in _WRAPPERS:
        inside = {key[len(head) :]: value for key, value in weights.items() if key.startswith(head)}
        if inside:
            return inside
    return weights
