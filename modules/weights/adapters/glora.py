"""GLoRA (Chavan et al., arXiv:2306.07967): ΔW = B + W·A, both of low rank; LyCORIS wrote it in two layouts.

| layout | a1, a2, b1, b2 | ΔW |
|---|---|---|
| new | (I, r), (r, I), (O, r), (r, I·k·k) | b1·b2 + (W·a1)·a2 |
| old | (r, I), (I, r), (r, I·k·k), (O, r) | b2·b1 + (W·a2)·a1 |

W·A acts on the input channels. Scale: alpha / r.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters.parts import Format, Parts, flat


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    a1, a2, b1, b2 = (flat(parts[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
    if not _is_new(a1, a2, b1, b2, weight):
        a1, a2, b1, b2 = a2, a1, b2, b1
    turned = torch.einsum("oi...,ij->oj...", weight, a1 @ a2)
    return (flat(turned) + b1 @ b2) * parts.scale(a1.shape[1])


def _is_new(a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor, weight: Tensor) -> bool:
    out, inputs = weight.shape[:2]
    return (a1.shape[0], a2.shape[1], b1.shape[0]) == (inputs, inputs, out) and b1.shape[1] == b2.shape[0]


FORMAT = Format("GLoRA", lambda parts: "a1.weight" in parts, delta)
