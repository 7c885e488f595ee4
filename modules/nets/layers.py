"""The layers every net is built from, handed in as an argument.

A net never decides how a matrix product is carried out: it is built with an `Ops`, so casting, fp8 storage, weight
streaming or a fused training kernel are other `Ops`, not patches. `PLAIN` are torch's own layers with a slot for
adapters (`Slot`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Delta = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(weight, bias) as stored -> (weight, bias) to compute with, in any float type, not the same memory."""


class Slot:
    """A place in a layer for what adapters change about its weights, without touching them.

    `delta` is None, or asked at every call. It is used where stored weights must stay as they are (they are packed, or
    streamed in from elsewhere); else adapters are merged into the weights, which costs nothing per call. Only
    `weights.adapters.apply` fills it.
    """

    delta: Delta | None = None
    weight: Tensor
    bias: Tensor | None

    def weights(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias to compute with; changed ones in the number type of `like`, the input."""
        if self.delta is None:
            return self.weight, self.bias
        weight, bias = self.delta(self.weight, self.bias)
        return weight.to(like.dtype), None if bias is None else bias.to(like.dtype)


class Linear(Slot, nn.Linear):
    """torch's, with a slot for adapters."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, *self.weights(input))


class LayerNorm(Slot, nn.LayerNorm):
    """torch's, with a slot for adapters."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, *self.weights(input), self.eps)


class GroupNorm(Slot, nn.GroupNorm):
    """Group normalisation (Wu & He, arXiv:1803.08494), optionally followed by SiLU, as the nets here always use it."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__(groups, channels, eps=eps)
        self.silu = silu

    def forward(self, input: Tensor) -> Tensor:
        y = F.group_norm(input, self.num_groups, *self.weights(input), self.eps)
        return F.silu(y, inplace=not torch.is_grad_enabled()) if self.silu else y


class Conv2d(Slot, nn.Conv2d):
    """torch's, with a slot for adapters, and one, `wrap`: along which directions (x, y) a picture goes on at its
    opposite edge.

    `seamless` fills that for a while; otherwise the padding is zeros.
    """

    wrap: tuple[bool, bool] = (False, False)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weights(input)
        if not any(self.wrap):
            return self._conv_forward(input, weight, bias)
        padded, padding = self.wrapped(input)
        return F.conv2d(padded, weight, bias, self.stride, padding, self.dilation, self.groups)

    def wrapped(self, input: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input with its opposite edges put around it where asked, and the padding (high, wide) left to do."""
        x, y = self.wrap
        high, wide = (int(side) for side in self.padding)  # a pair of numbers: none of our nets names its padding
        if not (x and wide) and not (y and high):
            return input, (high, wide)
        around = (wide * x, wide * x, high * y, high * y)
        return F.pad(input, around, mode="circular"), (high * (not y), wide * (not x))


class UpConv2d(Conv2d):
    """A 3x3 convolution over a picture of twice the size, whose every pixel there are four of."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))


@contextmanager
def seamless(nets: Iterable[nn.Module], x: bool = True, y: bool = True) -> Iterator[None]:
    """Within it the nets draw pictures that can be laid side by side (x) and one above the other (y)."""
    layers = [layer for net in nets for layer in net.modules() if isinstance(layer, Conv2d)]
    before = [layer.wrap for layer in layers]
    for layer in layers:
        layer.wrap = (x, y)
    try:
        yield
    finally:
        for layer, wrap in zip(layers, before):
            layer.wrap = wrap


@dataclass(frozen=True)
class Ops:
    """Factories for the layers that carry weights. Signatures are those of torch.nn, but for GroupNorm (see above)."""

    Linear: Callable[..., nn.Module] = Linear
    Conv2d: Callable[..., nn.Module] = Conv2d
    UpConv2d: Callable[..., nn.Module] = UpConv2d
    GroupNorm: Callable[..., nn.Module] = GroupNorm
    LayerNorm: Callable[..., nn.Module] = LayerNorm


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
