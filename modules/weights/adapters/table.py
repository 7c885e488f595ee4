"""All formats, and the one place where a weight is changed. A new format is one file and one line in FORMATS."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters import boft, dora, full, glora, ia3, loha, lokr, lora, norm, oft
from modules.weights.adapters.parts import Format, Parts

FORMATS: tuple[Format, ...] = (
    lora.FORMAT,
    loha.FORMAT,
    lokr.FORMAT,
    ia3.FORMAT,
    full.FORMAT,
    norm.FORMAT,
    glora.FORMAT,
    oft.FORMAT,
    boft.FORMAT,
)
BIAS_PARTS = ("diff_b", "b_norm")
PART_NAMES: frozenset[str] = frozenset({
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
    "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1",
    "lokr_t2", "weight", "on_input", "diff", "diff_b", "set_weight", "w_norm", "b_norm", "a1.weight", "a2.weight",
    "b1.weight", "b2.weight", "oft_blocks", "oft_diag", "rescale", "alpha", "scale", "dora_scale",
    "lora_magnitude_vector",
})  # fmt: skip
"""Every part a format reads, under kohya's and LyCORIS's names."""


def format_of(parts: Parts) -> Format | None:
    """The format a layer is of; None where it changes no weight (a bias alone, or parts nobody knows)."""
    return next((one for one in FORMATS if one.belongs(parts)), None)


def changed(parts: Parts, weight: Tensor, multiplier: float, ranks: int | None = None) -> Tensor:
    """W' = W + multiplier · ΔW, float32. `ranks` uses only the first so many of a LoRA.

    Raises:
        ValueError, RuntimeError: the parts do not fit a weight of this shape.
    """
    chosen = format_of(parts)
    if chosen is None:
        return weight
    own = weight.dtype != torch.float32  # then what follows is a copy
    weight = weight.float()
    if chosen.added and not dora.belongs(parts):
        done = chosen.added(parts, weight, multiplier, ranks, own)
        if done is not None:
            return done
    delta = chosen.delta(parts, weight, ranks)
    if delta.numel() < weight.numel() and weight.dim() == 4 and weight.shape[1] in (5, 7, 8, 9):
        # The first convolution of inpainting and editing models has channels that come after the four of the latent.
        narrow = delta.reshape(weight.shape[0], 4, *weight.shape[2:])
        delta = torch.nn.functional.pad(narrow, (0, 0, 0, 0, 0, weight.shape[1] - 4))
    delta = dora.decomposed(parts, weight, delta.reshape(weight.shape))
    return torch.add(weight, delta, alpha=multiplier)


def changed_bias(parts: Parts, bias: Tensor, multiplier: float) -> Tensor:
    """The bias with `diff_b` or `b_norm` added, float32."""
    for name in BIAS_PARTS:
        if name in parts:
            bias = bias.float() + multiplier * parts[name].reshape(bias.shape)
    return bias


def changes_bias(parts: Parts) -> bool:
    return any(name in parts for name in BIAS_PARTS)
