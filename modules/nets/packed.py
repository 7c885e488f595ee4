"""Layers for processors whose weights lie in oneDNN's own blocked order.

torch hands oneDNN plain weights and has them put in order at every call; where a picture is small and the weights are
many (the lower half of a U-Net) that costs as much as the product. `PACKED` layers act like `PLAIN` ones until
`pack()`, and then hold their weight in that order alone, in the number type asked for. Their `weight` is then a shape
without content; a new one (an adapter's) is handed over with `put`.

Linear layers gain besides: torch's own float32 product is MKL's, which takes half oneDNN's speed on AMD processors.
The operators are those that torch's compiler emits for processors.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from modules.nets.layers import Conv2d, Linear, Ops

ROWS_HINT = 1024
SIDE_HINT = 32
"""oneDNN picks an order for a size; these are in the middle of what a U-Net sees, and others are as fast with it."""


@functools.cache
def dtypes() -> frozenset[torch.dtype]:
    """The number types in which oneDNN works on this processor; none where torch was built without it."""
    names = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight", "_reorder_convolution_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return frozenset()
    fast_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return frozenset((torch.float32, torch.bfloat16) if fast_bf16 else (torch.float32,))


class Packed:
    """What both layers share. `dtype`: the number type they were packed for, None before."""

    packed: Tensor | None = None
    weight: nn.Parameter
    bias: nn.Parameter | None
    dtype: torch.dtype | None = None

    def pack(self) -> None:
        """Put the weight in order and let go of the plain one; where oneDNN cannot, nothing changes."""
        weight = self.weight.detach()
        self.dtype = weight.dtype
        if weight.device.type == "cpu" and weight.dtype in dtypes():
            self.packed = self._reordered(weight.contiguous())
            self.weight = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)

    def put(self, name: str, value: Tensor) -> None:
        """Another weight or bias ("weight", "bias") of the same shape, in any float type; packed again where it was."""
        setattr(self, name, nn.Parameter(value.to(self.dtype or value.dtype), requires_grad=False))
        if name == "weight" and self.packed is not None:
            self.pack()

    def _reordered(self, weight: Tensor) -> Tensor:
        raise TypeError("packed layers say how")


class PackedLinear(Packed, Linear):  # type: ignore[misc]  # Linear declares weight more loosely
    def forward(self, input: Tensor) -> Tensor:
        if self.packed is None:
            return Linear.forward(self, input)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")

    def _reordered(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)


class PackedConv2d(Packed, Conv2d):  # type: ignore[misc]
    """`channels_last`: the channels of a pixel lie together in what it is given and gives, as in the weight packed."""

    channels_last = False

    def forward(self, input: Tensor) -> Tensor:
        if self.packed is None:
            return Conv2d.forward(self, input)
        if self.channels_last:  # a plain weight's layout would have said so; a packed one's says nothing
            input = input.contiguous(memory_format=torch.channels_last)
        input, padding = self.wrapped(input)
        return torch.ops.mkldnn._convolution_pointwise(
            input, self.packed, self.bias, padding, self.stride, self.dilation, self.groups, "none", [], ""
        )

    def pack(self) -> None:
        if not self.weight.is_contiguous():
            self.channels_last = self.weight.is_contiguous(memory_format=torch.channels_last)
        super().pack()

    def _reordered(self, weight: Tensor) -> Tensor:
        size = [1, self.in_channels, SIDE_HINT, SIDE_HINT]
        return torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, size
        )


PACKED = Ops(Linear=PackedLinear, Conv2d=PackedConv2d)
