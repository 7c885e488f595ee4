"""3x3 convolutions with fewer products: Winograd's F(2x2, 3x3) (Lavin & Gray 2015, arXiv:1509.09308, section 4.1).

For every 2x2 pixels of the answer a 4x4 tile of the picture is transformed, multiplied position by position with the
transformed kernel, and transformed back: 16 products instead of 36. The positions are matrix products over all tiles,
done by oneDNN; the rest are sums, slice by slice of the picture, so that they stay in the cache. In float32 the answer
is nearer to the right one than that of the usual way, whose sums are nine times as long.

Picture and answer are [H, W, channels].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TILES = 2**18
"""Numbers per position and thread in one slice, 1 MB (measured: better than fewer; twice as many gain 5 % more)."""
THREADS = 4
"""More do not make slices longer: what these hold stays below 200 MB."""
ROWS_HINT = 256


def ordered(weight: Tensor) -> list[Tensor]:
    """[O, C, 3, 3] -> for each of the 16 positions, columns first, [O, C] in oneDNN's order."""
    columns = _kernel(weight.permute(3, 2, 0, 1).contiguous())
    positions = [position for column in columns for position in _kernel(column)]
    return [torch.ops.mkldnn._reorder_linear_weight(position, ROWS_HINT) for position in positions]


def _kernel(lines: Tensor) -> Tensor:
    """The three lines of a kernel, [3, …] -> their transforms, [4, …]: a, (a + b + c) / 2, (a - b + c) / 2, c."""
    a, b, c = lines
    out = a.new_empty(4, *a.shape)
    out[0], out[3] = a, c
    torch.add(a, c, out=out[2]).mul_(0.5)
    torch.add(out[2], b, alpha=0.5, out=out[1])
    out[2].sub_(b, alpha=0.5)
    return out


def convolve(picture: Tensor, positions: Sequence[Tensor], bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The convolution of one picture with `ordered` weights; `padding`: rows and columns of zeros around it, 0 or 1."""
    high, wide = padding
    height, width = picture.shape[0] + 2 * high - 2, picture.shape[1] + 2 * wide - 2  # of the answer
    channels = positions[0].shape[0]
    columns = -(-width // 2)
    out = picture.new_empty(-(-height // 2), 2, columns, 2, channels)
    rows = max(1, TILES * min(THREADS, torch.get_num_threads()) // (picture.shape[2] * columns))
    for top in range(0, out.shape[0], rows):
        here = out[top : top + rows]
        begin, end = 2 * top - high, 2 * (top + len(here)) - high + 2
        above, below = max(0, -begin), max(0, end - picture.shape[0])
        seen = picture[max(0, begin) : end]
        seen = F.pad(seen, (0, 0, wide, 2 * columns + 2 - wide - picture.shape[1], above, below))
        _back([_product(tiles, weight, bias if number == 5 else None)  # that position goes into all four pixels, once
               for number, (tiles, weight) in enumerate(zip(_tiles(seen), positions))], here)  # fmt: skip
    return out.flatten(2, 3).flatten(0, 1)[:height, :width]


def _tiles(seen: Tensor) -> Tensor:
    """[2 n + 2, 2 m + 2, C] -> the 4x4 tiles two pixels apart, transformed: [16, n * m, C], columns first."""
    down = _forth([seen[k : seen.shape[0] - 2 + k : 2] for k in range(3)] + [seen[3::2]])
    both = _forth([down[:, :, k : seen.shape[1] - 2 + k : 2] for k in range(3)] + [down[:, :, 3::2]])
    return both.flatten(0, 1).flatten(1, 2)


def _forth(lines: list[Tensor]) -> Tensor:
    """Four neighbouring lines -> their transforms, [4, …]."""
    a, b, c, d = lines
    out = a.new_empty(4, *a.shape)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def _back(products: list[Tensor], out: Tensor) -> None:
    """16 times [n * m, O], which are spent -> out [n, 2, m, 2, O]."""
    grid = [product.view(out.shape[0], out.shape[2], -1) for product in products]
    for row in (0, 1):
        lines = []
        for a, b, c, d in (grid[column : column + 4] for column in range(0, 16, 4)):
            lines.append(a.add_(b).add_(c) if row == 0 else b.sub_(c).sub_(d))
        torch.add(lines[0], lines[1], out=out[:, row, :, 0]).add_(lines[2])
        torch.sub(lines[1], lines[2], out=out[:, row, :, 1]).sub_(lines[3])


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
