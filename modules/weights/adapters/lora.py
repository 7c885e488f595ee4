"""LoRA (Hu et al., arXiv:2106.09685): ΔW = up · down; of convolutions, plain (LoCon) or with a Tucker core.

| parts | shapes |
|---|---|
| lora_up.weight, lora_down.weight | (O, r), (r, I); as convolutions (O, r, 1, 1), (r, I, k, k); either may be 2-D |
| lora_mid.weight | (r, r, k, k) with down (r, I, 1, 1): ΔW[o,i,x,y] = Σ up[o,n] mid[n,j,x,y] down[j,i] |

Scale: alpha / r, r being the rows of down. Using fewer ranks ("dyn") leaves that r as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters.parts import Format, Parts, flat


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    up, down = flat(parts["lora_up.weight"]), parts["lora_down.weight"]
    scale = parts.scale(down.shape[0])
    mid = parts.get("lora_mid.weight")
    if mid is not None:
        down = flat(down)
        return torch.einsum("on,njxy,ji->oixy", up, mid, down) * scale
    return (up[:, :ranks] * scale) @ flat(down)[:ranks]  # scaling the smaller one saves a pass over W


def added(parts: Parts, weight: Tensor, multiplier: float, ranks: int | None, writable: bool) -> Tensor | None:
    """One product that adds itself to W: two passes over memory less, which are most of the time."""
    up, down = flat(parts["lora_up.weight"]), flat(parts["lora_down.weight"])
    if "lora_mid.weight" in parts or down.shape[1] != weight[0].numel() or not weight.is_contiguous():
        return None
    up, down = up[:, :ranks] * (parts.scale(down.shape[0]) * multiplier), down[:ranks]
    rows = flat(weight)
    return (rows.addmm_(up, down) if writable else torch.addmm(rows, up, down)).reshape(weight.shape)


FORMAT = Format("LoRA", lambda parts: "lora_up.weight" in parts and "lora_down.weight" in parts, delta, added)
