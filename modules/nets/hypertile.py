"""Hypertile: self-attention within tiles of a feature map (https://github.com/tfernd/HyperTile).

Its work grows with the square of a picture's pixels, that within tiles only with their number. How a side is divided
changes from layer to layer, so that tiles do not meet at the same place twice; it is chosen in turn, without chance,
and every picture is tiled by itself, so that it does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from modules.nets.merging import Match, Merging


@dataclass(frozen=True)
class Tiling:
    """`side`: least side of a tile in latent pixels; each level below full resolution doubles it, in its own pixels.
    `depth`: levels below the first that are tiled as well. `ways`: of dividing a side, the smallest tiles first."""

    side: int
    depth: int = 3
    ways: int = 3

    def tiles(self, height: int, width: int, level: int = 0, number: int = 0) -> Tiles | None:
        """How the `number`th layer at a level divides its feature map; None where it does not."""
        if level > self.depth:
            return None
        down, across = self._ways(height, level), self._ways(width, level)
        # Both sides of a square picture would else always have the same share.
        rows, columns = down[number % len(down)], across[number // len(down) % len(across)]
        return Tiles(height, width, rows, columns) if rows * columns > 1 else None

    def _ways(self, length: int, level: int) -> list[int]:
        """Into how many tiles a side may be divided, most first."""
        least = self.side << level
        counts = [count for count in range(length, 0, -1) if length % count == 0 and length // count >= least]
        return counts[: self.ways] or [1]


@dataclass(frozen=True)
class Tiles:
    """A feature map [B, height * width, C] in rows * columns tiles, used like `merging.Match`."""

    height: int
    width: int
    rows: int
    columns: int

    def merge(self, x: Tensor) -> Tensor:
        """-> [B * tiles, pixels of a tile, C]."""
        high, wide = self.height // self.rows, self.width // self.columns
        parts = x.reshape(x.shape[0], self.rows, high, self.columns, wide, x.shape[-1]).transpose(2, 3)
        return parts.reshape(-1, high * wide, x.shape[-1])

    def unmerge(self, tiles: Tensor) -> Tensor:
        """The inverse."""
        high, wide = self.height // self.rows, self.width // self.columns
        parts = tiles.reshape(-1, self.rows, self.columns, high, wide, tiles.shape[-1]).transpose(2, 3)
        return parts.reshape(-1, self.height * self.width, tiles.shape[-1])


@dataclass
class Tiled:
    """One call of a denoiser over latents of `height`: its layers are counted. What it leaves whole, `merging` may
    have."""

    tiling: Tiling
    height: int
    merging: Merging | None = None
    layers: int = field(default=0, init=False)

    def match(self, x: Tensor, height: int, width: int) -> Match | Tiles | None:
        level = max(0, (self.height // height).bit_length() - 1)
        self.layers += 1
        found = self.tiling.tiles(height, width, level, self.layers - 1)
        return found or (self.merging.match(x, height, width) if self.merging else None)
