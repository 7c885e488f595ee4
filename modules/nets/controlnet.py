"""ControlNet: a copy of a U-Net's first half that looks at a picture and tells the U-Net what to draw along it.

Zhang et al., arXiv:2302.05543. Attribute names follow the keys of the original files and are not free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.nets.attention import Attention, sdp
from modules.nets.layers import PLAIN, Ops
from modules.nets.unet import Context, Encoder, Residuals, UNetConfig

HINT_DOWNSCALE = 8
"""Pixels of the picture to one of the latents, along each side."""
_HINT_WIDTHS = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))
"""Channels and stride of the convolutions that look at the picture."""


class ControlNet(Encoder):
    """hint [B, 3, 8h, 8w] in 0…1 -> `looked(hint)` [B, model_channels, h, w], once for a picture; then at every step
    forward(x [B, 4, h, w], looked, timesteps [B], context [B, T, D], y [B, adm] or None) -> what the U-Net adds.
    """

    def __init__(self, config: UNetConfig, ops: Ops = PLAIN, attention: Attention = sdp) -> None:
        super().__init__(config, ops, attention)
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in _HINT_WIDTHS:
            layers += [ops.Conv2d(channels, width, 3, padding=1, stride=stride), nn.SiLU()]
            channels = width
        self.input_hint_block = nn.Sequential(*layers, ops.Conv2d(channels, config.model_channels, 3, padding=1))
        self.zero_convs = nn.ModuleList(nn.Sequential(ops.Conv2d(each, each, 1)) for each in self.skip_channels)
        last = self.skip_channels[-1]
        self.middle_block_out = nn.Sequential(ops.Conv2d(last, last, 1))

    def looked(self, hint: Tensor) -> Tensor:
        """The picture as the net works with it."""
        return self.input_hint_block(hint)

    def forward(
        self, x: Tensor, looked: Tensor, timesteps: Tensor, context: Context, y: Tensor | None = None
    ) -> Residuals:
        emb = self.embedded(timesteps, y, x.dtype)
        h, skips = x, []
        for number, (block, zero) in enumerate(zip(self.input_blocks, self.zero_convs)):
            h = block(h, emb, context)
            if number == 0:
                h = h + looked
            skips.append(zero(h))
        h = self.middle_block(h, emb, context)
        return Residuals(tuple(skips), self.middle_block_out(h))


def scaled(residuals: Residuals, scales: list[float], pooled: bool) -> Residuals:
    """Each residual times its own number, the middle's last; `pooled`: everywhere their mean (of nets taught so)."""
    parts = [part * scale for part, scale in zip((*residuals.skips, residuals.middle), scales, strict=True)]
    if pooled:
        parts = [torch.mean(part, dim=(2, 3), keepdim=True) for part in parts]
    return Residuals(tuple(parts[:-1]), parts[-1])
