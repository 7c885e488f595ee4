"""Linear layers that multiply in 8 bits, for cards that do so at twice the speed of half precision.

Weights lie in float8 (e4m3: Micikevicius et al., arXiv:2209.05433) as `streamed.Stored` ones do. Of what is fed in,
every row is brought into the range of that type by its own largest number, so that no row hears of the others; products
are added up in float32. A layer that an adapter changes multiplies as before.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.nets.layers import Ops
from modules.nets.streamed import (
    Stored,
    StoredConv2d,
    StoredLinear,
    StoredUpConv2d,
    StreamedConv2d,
    StreamedLinear,
    StreamedUpConv2d,
)

TYPE = torch.float8_e4m3fn
TOP = 448.0
"""The largest number of that type."""
LEAST = 2.0**-14
"""The smallest scale: that of a row without numbers to speak of, still a normal one in float16."""
MULTIPLE = 16
"""Both sides of a weight are of so many numbers, or their multiple: what cards ask for."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times weight [N, K], in float8, transposed -> [..., N] in the number type of x."""
    rows = x.reshape(-1, x.shape[-1])
    scale = (rows.abs().amax(-1, keepdim=True) / TOP).clamp_(min=LEAST)
    # Not yet times the scale: in float16 what a row of up to 448 sums up to could overflow, what one of 1 does cannot.
    down, one = _scales(x.device)
    out = torch._scaled_mm((rows / scale).to(TYPE), weight.t(), scale_a=down, scale_b=one, out_dtype=x.dtype)
    scale = scale * TOP
    out = out.mul_(scale) if bias is None else torch.addcmul(bias.to(out.dtype), out, scale)
    return out.reshape(*x.shape[:-1], weight.shape[0])


@functools.cache
def _scales(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(1 / TOP, device=device), torch.tensor(1.0, device=device)


class Float8(Stored):
    """Rows of tokens are multiplied in float8 where the weight is kept in it; all else as `Stored` does."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.stored()
        fits = weight.dtype == TYPE and all(side % MULTIPLE == 0 for side in weight.shape)
        if self.delta is None and fits and input.dim() == 3:
            return product(input, weight, bias)
        return F.linear(input, *self._ready(weight, bias, input))


class Float8Linear(Float8, StoredLinear):  # type: ignore[misc]  # Linear declares weight more loosely
    """`StoredLinear`, multiplying in 8 bits."""


class Float8StreamedLinear(Float8, StreamedLinear):  # type: ignore[misc]
    """`StreamedLinear`, multiplying in 8 bits."""


FLOAT8 = Ops(Linear=Float8Linear, Conv2d=StoredConv2d, UpConv2d=StoredUpConv2d)
FLOAT8_STREAMED = Ops(Linear=Float8StreamedLinear, Conv2d=StreamedConv2d, UpConv2d=StreamedUpConv2d)
