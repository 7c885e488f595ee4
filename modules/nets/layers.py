"""The layers every net is built from, handed in as an argument.

A net never decides how a matrix product is carried out: it is built with an `Ops`, so casting, fp8 storage, weight
streaming or a fused training kernel are other `Ops`, not patches. `PLAIN` is torch's own layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He, arXiv:1803.08494), optionally followed by SiLU, as the nets here always use it."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__(groups, channels, eps=eps)
        self.silu = silu

    def forward(self, input: Tensor) -> Tensor:
        y = F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(y, inplace=not torch.is_grad_enabled()) if self.silu else y


@dataclass(frozen=True)
class Ops:
    """Factories for the layers that carry weights. Signatures are those of torch.nn, but for GroupNorm (see above)."""

    Linear: Callable[..., nn.Module] = nn.Linear
    Conv2d: Callable[..., nn.Module] = nn.Conv2d
    GroupNorm: Callable[..., nn.Module] = GroupNorm
    LayerNorm: Callable[..., nn.Module] = nn.LayerNorm


PLAIN = Ops()


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, cosines first (LDM). timesteps [B] -> [B, width] float32.

    Vaswani et al. 2017 (arXiv:1706.03762) section 3.5, in the order the LDM checkpoints were trained with.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(exponents * (-9.210340371976184 / half))  # ln(10000)
    angles = timesteps.float()[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
