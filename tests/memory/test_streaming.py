"""Weights through a device too small for them, on a made-up device that counts bytes and time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.memory.streaming import IN_FLIGHT, CardLink, Stream
from modules.nets.streamed import STREAMED, connect
from modules.nets.unet import UNet
from tests.weights.tiny import UNET, randomise


class CountingLink:
    """A device of which only the bytes, and a clock, are real: copies run beside computing, one after the other."""

    def __init__(self, bytes_per_second: float = 1.0) -> None:
        self.copied, self.now, self.copier_free, self.waited = 0, 0.0, 0.0, 0.0
        self.speed = bytes_per_second

    def fetch(self, tensors):
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.copied += size
        self.copier_free = max(self.copier_free, self.now) + size / self.speed
        return tuple(tensor.clone() for tensor in tensors), self.copier_free

    def wait(self, fetched) -> tuple[Tensor, ...]:
        copies, ready = fetched
        self.waited += max(0.0, ready - self.now)
        self.now = max(self.now, ready)
        return copies

    def release(self, fetched) -> None:
        pass

    def compute(self, seconds: float) -> None:
        self.now += seconds


def layers(count: int, size: int) -> dict[int, tuple[Tensor, ...]]:
    return {key: (torch.full((size,), key, dtype=torch.uint8),) for key in range(count)}


def walk(stream: Stream, link: CountingLink, weights: dict[int, tuple[Tensor, ...]], seconds: float = 0.0) -> int:
    """One pass through all layers; the most bytes seen on the device."""
    most = 0
    for key in weights:
        (found,) = stream.take(key)
        assert torch.equal(found, weights[key][0])
        most = max(most, stream.on_device)
        link.compute(seconds)
    return most


@pytest.mark.parametrize("budget", [30, 55, 100, 640, 10_000])
def test_the_budget_is_kept_and_what_fits_stays(budget):
    link, weights = CountingLink(), layers(64, 10)
    stream = Stream(link, budget)
    for key, tensors in weights.items():
        stream.add(key, tensors)
    peaks = [walk(stream, link, weights) for _ in range(3)]
    assert max(peaks) <= max(budget, 10)
    before = link.copied
    walk(stream, link, weights)
    each_time = link.copied - before
    assert each_time == 0 if budget >= 640 else each_time <= 640 - (budget - (IN_FLIGHT + 2) * 10)


def test_layers_that_are_gone_take_no_room_and_are_not_fetched():
    link, weights, more = CountingLink(), layers(8, 10), {key: (torch.full((10,), key),) for key in range(100, 104)}
    stream = Stream(link, budget=10_000)
    for key, tensors in (weights | more).items():
        stream.add(key, tensors)
    for _ in range(2):
        walk(stream, link, weights | more)
    stream.remove(more)
    assert stream.on_device == 80
    copied = link.copied
    walk(stream, link, weights)
    walk(stream, link, weights)
    assert link.copied == copied
    with pytest.raises(KeyError):
        stream.take(100)


def test_copying_hides_behind_computing():
    link, weights = CountingLink(bytes_per_second=10.0), layers(50, 10)  # a copy takes 1 s
    stream = Stream(link, budget=100)
    for key, tensors in weights.items():
        stream.add(key, tensors)
    walk(stream, link, weights, seconds=1.2)
    assert link.waited == pytest.approx(50.0)  # the order is not known yet: every layer is waited for
    link.waited = 0.0
    walk(stream, link, weights, seconds=1.2)
    assert link.waited <= 1.0


def test_another_net_takes_the_room_of_one_that_is_done():
    link, weights = CountingLink(), layers(20, 10)
    stream = Stream(link, budget=100)
    for key, tensors in weights.items():
        stream.add(key, tensors)
    one, other = dict(list(weights.items())[:10]), dict(list(weights.items())[10:])
    for net in (one, one, other, other):
        walk(stream, link, net)
    before = link.copied
    walk(stream, link, other)
    assert link.copied == before
    stream.clear()
    assert stream.on_device == 0


def test_a_net_that_asks_for_room_has_what_another_left_go():
    link, weights = CountingLink(), layers(20, 10)
    stream = Stream(link, budget=100)
    for key, tensors in weights.items():
        stream.add(key, tensors, budget=40 if key >= 10 else None)
    one, other = dict(list(weights.items())[:10]), dict(list(weights.items())[10:])
    assert walk(stream, link, one) == 100
    assert max(walk(stream, link, other) for _ in range(3)) <= 40
    assert max(walk(stream, link, one) for _ in range(2)) == 100


def test_a_changed_weight_is_copied_anew():
    stream = Stream(CountingLink(), budget=100)
    stream.add("a", (torch.zeros(4),))
    stream.take("a")
    stream.add("a", (torch.ones(4),))
    assert torch.equal(stream.take("a")[0], torch.ones(4))


def test_a_streamed_net_answers_as_a_resident_one(test_seed):
    net = randomise(UNet(UNET, STREAMED), torch.Generator().manual_seed(test_seed))
    x, context, t = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32), torch.tensor([500.0])
    link = CountingLink()
    stream = Stream(link, budget=200_000)
    with torch.inference_mode():
        resident = net(x, t, context)
        connect(net, stream.add, stream.take)
        assert torch.equal(net(x, t, context), resident)
        assert torch.equal(net(x, t, context), resident)
    assert link.copied > 200_000
    assert stream.on_device <= 200_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_streamed_net_answers_as_a_resident_one_on_a_card(test_seed):
    device = torch.device("cuda")
    net = randomise(UNet(UNET, STREAMED), torch.Generator().manual_seed(test_seed))
    x, context, t = (v.to(device) for v in (torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32), torch.tensor([500.0])))
    stream = Stream(CardLink(device), budget=200_000)
    with torch.inference_mode():
        connect(net, lambda key, tensors: stream.add(key, [tensor.pin_memory() for tensor in tensors]), stream.take)
        for name, parameter in net.named_parameters():
            owner = net.get_submodule(name.rpartition(".")[0])
            if getattr(owner, "source", None) is None or name.endswith("bias"):
                parameter.data = parameter.data.to(device)
        first, second = net(x, t, context), net(x, t, context)
        assert torch.equal(first, second)
        for layer in net.modules():
            layer.source = None  # type: ignore[assignment]
        assert torch.allclose(net.to(device)(x, t, context), first, atol=1e-4)
