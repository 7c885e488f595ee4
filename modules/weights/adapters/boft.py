"""BOFT (Liu et al., arXiv:2311.06243): m rotations one after the other, each in blocks of rows mixed as a butterfly.

`oft_blocks` (m, blocks, b, b) as in OFT. Stage i reads the rows as (c, g = 2, k = 2^i · b/2), orders them (c, k, g),
turns each b of them by R_i (not transposed), and puts them back. `rescale` as in OFT.
"""

from __future__ import annotations

from torch import Tensor

from modules.weights.adapters.oft import cayley, rescaled
from modules.weights.adapters.parts import Format, Parts


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    rotations = cayley(parts["oft_blocks"], parts.number("alpha"), weight.shape[0])
    stages, blocks, size = rotations.shape[:3]
    rows = weight.reshape(weight.shape[0], -1)
    for i in range(stages):
        width = 2**i * size // 2
        mixed = rows.reshape(-1, 2, width, rows.shape[1]).transpose(1, 2).reshape(blocks, size, -1)
        turned = (rotations[i] @ mixed).reshape(-1, width, 2, rows.shape[1])
        rows = turned.transpose(1, 2).reshape(rows.shape)
    return rescaled(rows.reshape(weight.shape), parts) - weight


def _belongs(parts: Parts) -> bool:
    return "oft_blocks" in parts and parts["oft_blocks"].dim() == 4


FORMAT = Format("BOFT", _belongs, delta)
