"""Small nets that turn latents into pictures at once: TAESD, and A1111's approximation of the autoencoder.

TAESD (Ollin Boer Bohan, https://github.com/madebyollin/taesd): 64 channels throughout, 3x3 convolutions, ReLU, eight
times enlarged in three steps. A decoder of a small model may have fewer channels. Keys are those of the published
files, numbers of one Sequential. Latents go in as the
sampler has them; pictures come out in 0…1, here as -1…1 like every decoder's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 64


class Block(nn.Module):
    """Three convolutions beside a shortcut."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Conv2d(channels, out_channels, 1, bias=False) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.skip(x))


class Clamp(nn.Module):
    """Latents softly held within -3…3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TaesdDecoder(nn.Sequential):
    """Latents [B, channels, h, w], as the sampler has them -> pictures [B, 3, 8h, 8w] in -1…1."""

    def __init__(self, channels: int = 4, width: int = WIDTH) -> None:
        layers: list[nn.Module] = [Clamp(), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [Block(width, width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        super().__init__(*layers, Block(width, width), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(0, 1) * 2 - 1


APPROX_SHAPES = ((8, 7), (16, 5), (32, 3), (64, 3), (32, 3), (16, 3), (8, 3), (3, 3))


class ApproxDecoder(nn.Module):
    """Eight convolutions over latents twice enlarged [B, channels, h, w] -> [B, 3, 2h, 2w] in -1…1."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        for n, (width, kernel) in enumerate(APPROX_SHAPES, start=1):
            self.add_module(f"conv{n}", nn.Conv2d(channels, width, kernel))
            channels = width

    def forward(self, x: Tensor) -> Tensor:
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        x = F.pad(F.interpolate(x, (height, width)), (11, 11, 11, 11))
        for conv in self.children():
            x = F.leaky_relu(conv(x), 0.1)
        return x
