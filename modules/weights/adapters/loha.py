"""LoHa: ΔW is the elementwise product of two low-rank matrices (Hyeon-Woo et al., arXiv:2108.06098; LyCORIS).

| parts | shapes |
|---|---|
| hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b | (O, r), (r, I·k·k), (O, r), (r, I·k·k) |
| with hada_t1, hada_t2 (r, r, k, k) | w*_a (r, O), w*_b (r, I): each side is Σ t[i,j,x,y] a[i,o] b[j,c] |

Scale: alpha / r, r being the rows of w1_b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters.parts import Format, Parts, flat


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    first, second = (_side(parts, side) for side in ("1", "2"))
    return first * second * parts.scale(parts["hada_w1_b"].shape[0])


def _side(parts: Parts, side: str) -> Tensor:
    a, b, core = flat(parts[f"hada_w{side}_a"]), flat(parts[f"hada_w{side}_b"]), parts.get(f"hada_t{side}")
    return a @ b if core is None else flat(torch.einsum("ijxy,io,jc->ocxy", core, a, b))


FORMAT = Format("LoHa", lambda parts: "hada_w1_a" in parts, delta)
