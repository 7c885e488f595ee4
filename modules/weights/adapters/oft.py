"""OFT (Qiu et al., arXiv:2306.07280): W' = blockdiag(R)ᵀ · W, with R orthogonal, by blocks of output rows.

`oft_blocks` (blocks, size, size) are free matrices B: Q = B - Bᵀ, shrunk to the norm alpha · O where alpha is given
and that is exceeded, R = (I + Q)(I - Q)⁻¹ (Cayley). `oft_diag` is R itself. `rescale` (O, 1, ...) multiplies W'.
Alpha is that limit here, not a scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.weights.adapters.parts import Format, Parts


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    rotation = parts.get("oft_diag")
    if rotation is None:
        rotation = cayley(parts["oft_blocks"], parts.number("alpha"), weight.shape[0])
    blocks, size = rotation.shape[:2]
    rows = weight.reshape(blocks, size, -1)
    turned = torch.einsum("knm,knx->kmx", rotation, rows).reshape(weight.shape)
    return rescaled(turned, parts) - weight


def cayley(blocks: Tensor, alpha: float | None, out: int) -> Tensor:
    """Free matrices [..., b, b] -> orthogonal ones."""
    skew = blocks - blocks.transpose(-1, -2)
    if alpha:
        norm = skew.norm()
        skew = skew * ((norm.clamp(max=alpha * out) + 1e-8) / (norm + 1e-8))
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return (eye + skew) @ torch.linalg.inv(eye - skew)


def rescaled(weight: Tensor, parts: Parts) -> Tensor:
    """Each output row times `rescale`, where the file has it."""
    rescale = parts.get("rescale")
    return weight if rescale is None else weight * rescale.reshape(-1, *[1] * (weight.dim() - 1))


def _belongs(parts: Parts) -> bool:
    return "oft_diag" in parts or ("oft_blocks" in parts and parts["oft_blocks"].dim() == 3)


FORMAT = Format("OFT", _belongs, delta)
