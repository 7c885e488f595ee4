"""LoKr: ΔW is a Kronecker product, each factor whole or of low rank (Yeh et al., arXiv:2309.14859; LyCORIS).

ΔW[a·B + b, c·D + d] = w1[a, c] · w2[b, d]; a factor is `lokr_w1`, or `lokr_w1_a` · `lokr_w1_b`, and likewise w2, which
may also be Tucker: `lokr_t2` (r, r, k, k) with w2_a (r, B), w2_b (r, D). Scale: alpha / r, r being the rows of w2_b,
else of w1_b; where both factors are whole there is no rank, so alpha is not heeded (PEFT writes a scale all the same).
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters.parts import Format, Parts, flat


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    w1, w2 = _factor(parts, "1"), _factor(parts, "2")
    if w2.dim() == 4:
        w1 = w1.reshape(*w1.shape[:2], 1, 1)
    rank = next((parts[name].shape[0] for name in ("lokr_w2_b", "lokr_w1_b") if name in parts), None)
    return torch.kron(w1.contiguous(), w2.contiguous()) * parts.scale(rank)


def _factor(parts: Parts, side: str) -> Tensor:
    whole = parts.get(f"lokr_w{side}")
    if whole is not None:
        return whole
    a, b, core = flat(parts[f"lokr_w{side}_a"]), flat(parts[f"lokr_w{side}_b"]), parts.get(f"lokr_t{side}")
    return a @ b if core is None else torch.einsum("ijxy,ip,jr->prxy", core, a, b)


FORMAT = Format("LoKr", lambda parts: "lokr_w1" in parts or "lokr_w1_a" in parts, delta)
