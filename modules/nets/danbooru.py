"""DeepDanbooru's net (its `resnet_custom_v3`): how likely each of its tags fits a picture.

A ResNet of bottlenecks (He et al. 2015, arXiv:1512.03385), its norms folded into the convolutions, then a 1x1
convolution to the tags and the mean over the picture. Convolutions are called `n_Conv_<k>` in the order in which they
are used, as in the published file; where a stage keeps the width, the one beside the first block is used last. It was
trained in TensorFlow, which pads what a stride of 2 leaves over on the right and below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 512  # pixels, of the pictures it was trained on
WIDTHS = (4, 8, 16, 16, 32, 64)  # of each stage, times the first convolution's
REPEATS = (2, 7, 19, 19, 2, 2)  # blocks of each stage after its first


@dataclass(frozen=True)
class TagNetConfig:
    """Readable off tensor shapes: the width of the first convolution, and how many tags there are."""

    width: int = 64
    tags: int = 9176


class _Block(NamedTuple):
    """Numbers of a bottleneck's convolutions; `beside` leads round them where size or width change."""

    reduce: int
    middle: int
    expand: int
    beside: int | None = None


class TagNet(nn.Module):
    """x [B, 3, 512, 512], RGB in 0…1 -> [B, tags] in 0…1."""

    def __init__(self, config: TagNetConfig) -> None:
        super().__init__()
        self.blocks: list[_Block] = []
        self._count = 0
        self._add(nn.Conv2d(3, config.width, 7, 2))
        inside = config.width
        for stage, (factor, repeats) in enumerate(zip(WIDTHS, REPEATS)):
            width, stride = config.width * factor, 2 if stage else 1
            beside = nn.Conv2d(inside, width, 1, stride)
            first = self._add(beside) if width != inside else None
            block = self._bottleneck(inside, width, stride)
            self.blocks.append(block._replace(beside=self._add(beside) if first is None else first))
            self.blocks += [self._bottleneck(width, width, 1) for _ in range(repeats)]
            inside = width
        self.last = self._add(nn.Conv2d(inside, config.tags, 1, bias=False))

    def _add(self, conv: nn.Conv2d) -> int:
        setattr(self, f"n_Conv_{self._count}", conv)
        self._count += 1
        return self._count - 1

    def _bottleneck(self, inside: int, width: int, stride: int) -> _Block:
        narrow = width // 4
        middle = nn.Conv2d(narrow, narrow, 3, stride, padding=0 if stride == 2 else 1)
        return _Block(*map(self._add, (nn.Conv2d(inside, narrow, 1), middle, nn.Conv2d(narrow, width, 1))))

    def _conv(self, number: int, x: Tensor) -> Tensor:
        return getattr(self, f"n_Conv_{number}")(x)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self._conv(0, F.pad(x, (2, 3, 2, 3))))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)
        for block in self.blocks:
            h = F.relu(self._conv(block.reduce, x))
            if getattr(self, f"n_Conv_{block.middle}").stride == (2, 2):
                h = F.pad(h, (0, 1, 0, 1))
            h = self._conv(block.expand, F.relu(self._conv(block.middle, h)))
            x = F.relu(h + (x if block.beside is None else self._conv(block.beside, x)))
        return torch.sigmoid(self._conv(self.last, x).mean(dim=(2, 3)))
