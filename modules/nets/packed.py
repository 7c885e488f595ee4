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
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets import winograd
from modules.nets.layers import Conv2d, GroupNorm, Linear, Ops, UpConv2d

ROWS_HINT = 1024
SIDE_HINT = 32
"""oneDNN picks an order for a size; these are in the middle of what a U-Net sees, and others are as fast with it."""

WINOGRAD = 256, 640
"""Between so many channels a float32 convolution goes by `winograd`: processor time falls by 43 % with 512 channels at
128x128, by 33 % with 256 at 256x256; with 128 at 512x512 it grows by 9 %. With more channels pictures are small, and
the transformed weights are nearly twice as large. In bfloat16 its sums would be too coarse."""
SLICE = 2**18
"""Numbers of a feature map looked at together: 1 MB (measured: the best of 2^15 … 2^20)."""


@functools.cache
def dtypes() -> frozenset[torch.dtype]:
    """The number types in which oneDNN works on this processor; none where torch was built without it."""
    names = ("linear", "convolution", "convolution_transpose")
    names = [*(f"_{name}_pointwise" for name in names), *(f"_reorder_{name}_weight" for name in names)]
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
        if self.would_pack(weight.device, weight.dtype):
            self.packed = self._reordered(weight)
            self.weight = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)

    @staticmethod
    def would_pack(device: torch.device, dtype: torch.dtype) -> bool:
        """Whether `pack` has its weight put in order, on that device in that number type."""
        return device.type == "cpu" and dtype in dtypes()

    @property
    def held(self) -> int:
        """Bytes of the weight in oneDNN's order; 0 where the plain one is there."""
        return 0 if self.packed is None else self.packed.nbytes

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
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_HINT)


class PackedConv2d(Packed, Conv2d):  # type: ignore[misc]
    """`channels_last`: the channels of a pixel lie together in what it is given and gives, as in the weight packed.
    `positions`: the weight as `winograd` has it, where that takes less time."""

    channels_last = False
    positions: Sequence[Tensor] = ()

    def forward(self, input: Tensor) -> Tensor:
        if self.packed is None:
            return Conv2d.forward(self, input)
        if self.channels_last:  # a plain weight's layout would have said so; a packed one's says nothing
            input = input.contiguous(memory_format=torch.channels_last)
        input, padding = self.wrapped(input)
        if self.positions:
            pictures = [winograd.convolve(one, self.positions, self.bias, padding) for one in input.permute(0, 2, 3, 1)]
            out = pictures[0][None] if len(pictures) == 1 else torch.stack(pictures)
            return out.contiguous().permute(0, 3, 1, 2)
        return torch.ops.mkldnn._convolution_pointwise(
            input, self.packed, self.bias, padding, self.stride, self.dilation, self.groups, "none", [], ""
        )

    @property
    def held(self) -> int:
        return sum(position.nbytes for position in self.positions) or super().held

    def pack(self) -> None:
        if not self.weight.is_contiguous():
            self.channels_last = self.weight.is_contiguous(memory_format=torch.channels_last)
        super().pack()

    def _reordered(self, weight: Tensor) -> Tensor:
        if self._wants_winograd(weight):
            self.positions = winograd.ordered(weight)
            return self.positions[0]
        size = [1, self.in_channels, SIDE_HINT, SIDE_HINT]
        weight = weight.contiguous(memory_format=torch.channels_last)  # from there oneDNN takes a third of the time
        return torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, size
        )

    def _wants_winograd(self, weight: Tensor) -> bool:
        usual = self.kernel_size == (3, 3) and self.stride == self.dilation == (1, 1) and self.groups == 1
        few, many = sorted((self.in_channels, self.out_channels))
        fits = WINOGRAD[0] <= few and many <= WINOGRAD[1]
        return fits and usual and self.channels_last and weight.dtype == torch.float32


class PackedUpConv2d(Packed, UpConv2d):  # type: ignore[misc]
    """Enlarging and convolution in one: as a transposed convolution over the small picture, whose 4x4 kernel is the 3x3
    one summed over the pixels that are alike. 16 products for four pixels instead of 36, and no large picture."""

    channels_last = False

    def forward(self, input: Tensor) -> Tensor:
        if self.packed is None:
            return UpConv2d.forward(self, input)
        if self.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        x, y = map(int, self.wrap)
        if x or y:
            input = F.pad(input, (x, x, y, y), mode="circular")
        padding = (1 + 2 * y, 1 + 2 * x)  # of what comes out, so much is cut off
        out = torch.ops.mkldnn._convolution_transpose_pointwise(
            input, self.packed, self.bias, padding, (0, 0), (2, 2), (1, 1), 1, "none", [], ""
        )
        return out if self.channels_last else out.contiguous()

    def pack(self) -> None:
        if not self.weight.is_contiguous():
            self.channels_last = self.weight.is_contiguous(memory_format=torch.channels_last)
        super().pack()

    def _reordered(self, weight: Tensor) -> Tensor:
        lines = weight.permute(2, 3, 1, 0).float().contiguous()  # rows, columns, in, out
        # In this order of memory oneDNN takes a fifth of the time that the usual one takes it.
        kernel = weight.new_empty(self.in_channels, 4, 4, self.out_channels)
        for row, (a, b, c) in enumerate((lines[2], lines[1] + lines[2], lines[0] + lines[1], lines[0])):
            for column, value in enumerate((c, b + c, a + b, a)):
                kernel[:, row, column] = value
        size = [1, self.in_channels, SIDE_HINT, SIDE_HINT]
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(
            kernel.permute(0, 3, 1, 2), (1, 1), (0, 0), (2, 2), (1, 1), 1, size
        )


class ExactGroupNorm(GroupNorm):
    """For float32 pictures whose channels lie together: torch adds up all pixels of a group one by one there, and its
    mean and variance are a hundred times less exact than in the plain layout.

    Here each slice of pixels, small enough for a core's cache, has its own mean and squares about it, joined in float64
    (Chan, Golub & LeVeque 1979, eq. 2.1).
    """

    def forward(self, input: Tensor) -> Tensor:
        last = input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)
        if input.dtype != torch.float32 or not last or input.is_contiguous() or torch.is_grad_enabled():
            return super().forward(input)
        weight, bias = self.weights(input)
        out = torch.empty_like(input)
        for picture, normed in zip(_pixels(input), _pixels(out)):  # each by itself: alike alone and among others
            slices = picture.split(max(1, SLICE // self.num_channels))
            scale, shift = self._affine(slices, weight, bias)
            for some, target in zip(slices, normed.split(len(slices[0]))):
                torch.addcmul(shift, some, scale, out=target)
                if self.silu:
                    F.silu(target, inplace=True)
        return out

    def _affine(self, slices: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of each channel: what its values are to be multiplied by, and what added."""
        means, squares = [], []
        for some in slices:
            means.append(some.mean(0))
            squares.append((some - means[-1]).square_().sum(0))
        counts = torch.tensor([len(some) for some in slices], dtype=torch.float64)[:, None]
        mean = torch.stack(means).double()
        width = self.num_channels // self.num_groups
        number = counts.sum() * width

        def over_group(sums: Tensor) -> Tensor:
            return (sums.sum(0).view(-1, width).sum(1) / number).repeat_interleave(width)

        middle = over_group(mean * counts)
        variance = over_group(torch.stack(squares).double() + counts * (mean - middle).square())
        scale = weight.double() * (variance + self.eps).rsqrt()
        shift = -middle * scale if bias is None else bias.double() - middle * scale
        return scale.float(), shift.float()


def _pixels(picture: Tensor) -> Tensor:
    """[B, C, h, w], channels last -> [B, h * w, C], the same memory."""
    return picture.permute(0, 2, 3, 1).flatten(1, 2)


PACKED = Ops(Linear=PackedLinear, Conv2d=PackedConv2d, UpConv2d=PackedUpConv2d, GroupNorm=ExactGroupNorm)
