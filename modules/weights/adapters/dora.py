"""DoRA (Liu et al., arXiv:2402.09353) on any format: W + ΔW keeps its direction and gets trained magnitudes.

`dora_scale` tells its axis by its shape: (O, 1, ...) are magnitudes of output rows, (1, I, ...) of input columns.
PEFT's `lora_magnitude_vector` are output rows in any shape. The norm is that of W + ΔW, as LyCORIS, PEFT and A1111
take it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters.parts import Parts


def belongs(parts: Parts) -> bool:
    """Whether a layer has magnitudes."""
    return "lora_magnitude_vector" in parts or "dora_scale" in parts


def decomposed(parts: Parts, weight: Tensor, delta: Tensor) -> Tensor:
    """The ΔW that gives W + `delta` its magnitudes; `delta` itself where the file has none. Shapes as W's."""
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is not None:
        magnitude = magnitude.reshape(-1, *[1] * (weight.dim() - 1))
    else:
        magnitude = parts.get("dora_scale")
        if magnitude is None:
            return delta
        by_column = magnitude.dim() > 1 and magnitude.shape[0] == 1 and weight.shape[0] != 1
        shape = (1, -1) if by_column else (-1, 1)
        magnitude = magnitude.reshape(*shape, *[1] * (weight.dim() - 2))
    moved = weight + delta
    others = [axis for axis in range(weight.dim()) if magnitude.shape[axis] == 1]
    norm = moved.square().sum(dim=others, keepdim=True).sqrt() if others else moved.abs()
    return moved * (magnitude / (norm + torch.finfo(norm.dtype).eps)) - weight
