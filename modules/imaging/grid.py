"""A picture cut into overlapping tiles that cover it evenly."""

from __future__ import annotations

import math


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one direction begin: as few as cover the length with at least that overlap, spread evenly."""
    if tile >= length:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [k * (length - tile) // (count - 1) for k in range(count)]
