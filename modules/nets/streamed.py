"""Layers whose weights are kept elsewhere or in another number type than they compute in.

`STORED` layers compute in the number type of their input whatever their weights are stored in (float8, say).
`STREAMED` ones ask for their weights at every call, as told by `source`, and may be stored as well.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from modules.nets.layers import Conv2d, Linear, Ops, Slot, UpConv2d

Source = Callable[[], tuple[Tensor, ...]]
"""Gives (weight,) on the device that computes."""


class Stored(Slot):
    """Weights are cast to the input's number type at each call."""

    def stored(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they lie there, on the device that computes."""
        return self.weight, self.bias

    def weights(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._ready(*self.stored(), like)

    def _ready(self, weight: Tensor, bias: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.delta is not None:
            weight, bias = self.delta(weight.to(like.dtype), bias)
        return weight.to(like.dtype), None if bias is None else bias.to(like.dtype)


class Streamed(Stored):
    """Weights come from `source`, where there is one; biases, which are small, lie where all is computed."""

    source: Source | None = None

    def stored(self) -> tuple[Tensor, Tensor | None]:
        if self.source is None:
            return super().stored()
        (weight,) = self.source()
        return weight, self.bias


class StoredLinear(Stored, Linear):  # type: ignore[misc]  # Linear declares weight more loosely
    """`Linear`, its weights stored in any float type."""


class StoredConv2d(Stored, Conv2d):  # type: ignore[misc]
    """`Conv2d`, its weights stored in any float type."""


class StoredUpConv2d(Stored, UpConv2d):  # type: ignore[misc]
    """`UpConv2d`, its weights stored in any float type."""


class StreamedLinear(Streamed, Linear):  # type: ignore[misc]
    """`Linear`, its weights elsewhere."""


class StreamedConv2d(Streamed, Conv2d):  # type: ignore[misc]
    """`Conv2d`, its weights elsewhere."""


class StreamedUpConv2d(Streamed, UpConv2d):  # type: ignore[misc]
    """`UpConv2d`, its weights elsewhere."""


STORED = Ops(Linear=StoredLinear, Conv2d=StoredConv2d, UpConv2d=StoredUpConv2d)
STREAMED = Ops(Linear=StreamedLinear, Conv2d=StreamedConv2d, UpConv2d=StreamedUpConv2d)


def connect(net: nn.Module, add: Callable[[int, tuple[Tensor, ...]], None], take: Callable[[int], tuple]) -> None:
    """Let every streamed layer of a filled net take its weights from where `add` put them."""
    for layer in net.modules():
        if isinstance(layer, Streamed):
            key = id(layer)
            add(key, (layer.weight.detach(),))
            layer.source = lambda key=key: take(key)
