"""Layers in oneDNN's order give what plain ones give, and take new weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modules.nets.autoencoder import Autoencoder
from modules.nets.layers import seamless
from modules.nets.packed import PACKED, Packed, PackedConv2d, PackedLinear, dtypes
from modules.nets.unet import UNet
from tests.weights.tiny import UNET, VAE, randomise

needs_onednn = pytest.mark.skipif(torch.float32 not in dtypes(), reason="torch was built without oneDNN")


@pytest.fixture
def generator(test_seed) -> torch.Generator:
    return torch.Generator().manual_seed(test_seed)


def pack(net: nn.Module) -> Any:
    for layer in net.modules():
        if isinstance(layer, Packed):
            layer.pack()
    return net


@needs_onednn
@pytest.mark.parametrize("wrap", [(False, False), (True, False), (True, True)])
def test_packed_nets_answer_as_plain_ones(generator, wrap):
    nets: list[Any] = [randomise(UNet(UNET, PACKED), generator), randomise(Autoencoder(VAE, PACKED), generator)]
    x, context = torch.randn(2, 4, 8, 16, generator=generator), torch.randn(2, 77, 32, generator=generator)
    t = torch.tensor([3.0, 801.0])
    with torch.inference_mode(), seamless(nets, *wrap):
        plain = [nets[0](x, t, context), nets[1].decode(x), *nets[1].encode_moments(x[:, :3].repeat(1, 1, 4, 4))]
        pack(nets[0])
        pack(nets[1])
        packed = [nets[0](x, t, context), nets[1].decode(x), *nets[1].encode_moments(x[:, :3].repeat(1, 1, 4, 4))]
    for before, after in zip(plain, packed):
        assert ((before - after).abs().max() / before.abs().max()) < 1e-5


@needs_onednn
@pytest.mark.parametrize(
    "make", [lambda: PackedLinear(24, 40), lambda: PackedConv2d(24, 40, 3)], ids=["linear", "conv"]
)
def test_a_new_weight_counts_and_the_old_one_comes_back_exactly(generator, make):
    layer, fresh = make(), make()
    x = torch.randn(2, 24, 8, 24, generator=generator)
    old = {name: value.detach().clone() for name, value in layer.named_parameters()}
    new = {name: torch.randn(value.shape, generator=generator) for name, value in old.items()}
    layer.pack()
    with torch.inference_mode():
        before = layer(x)
        for name, value in new.items():
            layer.put(name, value.double())
            fresh.put(name, value)
        assert torch.allclose(layer(x), fresh(x), atol=1e-4)
        assert not torch.allclose(layer(x), before, atol=1e-2)
        for name, value in old.items():
            layer.put(name, value)
        assert torch.equal(layer(x), before)


@needs_onednn
def test_packed_weights_are_held_once():
    layer = PackedLinear(64, 32)
    layer.pack()
    assert layer.weight.is_meta
    assert layer.weight.shape == (32, 64)


def test_what_onednn_cannot_do_stays_plain():
    layer = PackedLinear(8, 8).double()
    layer.pack()
    assert layer.packed is None
    assert layer(torch.ones(1, 8, dtype=torch.float64)).dtype == torch.float64
