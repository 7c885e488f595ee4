"""Layers in oneDNN's order give what plain ones give, and take new weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modules.nets import winograd
from modules.nets.autoencoder import Autoencoder
from modules.nets.clip import TextEncoder
from modules.nets.layers import seamless
from modules.nets.packed import PACKED, ExactGroupNorm, Packed, PackedConv2d, PackedLinear, PackedUpConv2d, dtypes
from modules.nets.unet import ROWS, FeedForward, UNet
from tests.weights.tiny import TEXT, UNET, VAE, randomise

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
    "make",
    [lambda: PackedLinear(24, 40), lambda: PackedConv2d(24, 40, 3), lambda: PackedUpConv2d(24, 40, 3, padding=1)],
    ids=["linear", "conv", "up"],
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
@pytest.mark.parametrize("wrap", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_enlarging_inside_the_convolution_is_exact(generator, wrap, last, dtype):
    if dtype not in dtypes():
        pytest.skip("the processor has no bfloat16")
    layer: Any = PackedUpConv2d(16, 24, 3, padding=1)
    layer.wrap = wrap
    x = torch.randn(2, 16, 5, 9, generator=generator)
    order = torch.channels_last if last else torch.contiguous_format
    with torch.inference_mode():
        right = layer.double()(x.double())
        layer.to(dtype).to(memory_format=order)
        layer.pack()
        assert layer.packed is not None
        found = layer(x.to(dtype, memory_format=order))
    assert found.is_contiguous(memory_format=order)
    assert (found - right).abs().max() < (1e-5 if dtype == torch.float32 else 0.05)


@needs_onednn
@pytest.mark.parametrize("wrap", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("size", [(24, 16), (15, 9)])
def test_convolutions_with_fewer_products_are_as_exact_alone_and_among_others(generator, monkeypatch, wrap, size):
    monkeypatch.setattr(winograd, "TILES", 256 * 20)  # in several slices
    layer: Any = randomise(PackedConv2d(256, 264, 3, padding=1), generator).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer.wrap = wrap
    x = torch.randn(2, 256, *size, generator=generator).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        plain = layer(x)
        right = layer.double()(x.double())
        layer.float().pack()
        assert layer.positions
        found = layer(x)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - right).abs().max() < 2 * (plain - right).abs().max()
        assert torch.equal(layer(x[1:]), found[1:])


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_with_channels_last_is_as_exact_as_in_the_plain_layout(generator, silu):
    layer: Any = randomise(ExactGroupNorm(8, 32, 1e-6, silu=silu), generator)
    far = torch.randn(1, 32, 1, 1, generator=generator) * 4  # a mean far from zero is what makes it hard
    x = torch.randn(3, 32, 90, 131, generator=generator) + far  # in slices, the last one shorter
    with torch.inference_mode():
        right = nn.functional.group_norm(x.double(), 8, layer.weight.double(), layer.bias.double(), 1e-6)
        right = nn.functional.silu(right) if silu else right
        plain = layer(x)
        last = layer(x.to(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert (last - right).abs().max() < 2 * (plain - right).abs().max() + 1e-6
        for k in range(3):
            assert torch.equal(layer(x[k : k + 1].to(memory_format=torch.channels_last)), last[k : k + 1])


@needs_onednn
def test_a_packed_autoencoder_lets_no_norm_of_torch_see_channels_last(generator):
    net: Any = randomise(Autoencoder(VAE, PACKED), generator)
    z = torch.randn(1, 4, 8, 8, generator=generator)
    kinds = {type(layer) for layer in net.modules() if isinstance(layer, nn.GroupNorm)}
    assert kinds == {ExactGroupNorm}
    seen: list[bool] = []
    for layer in net.decoder.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_hook(lambda _, __, out: seen.append(out.is_contiguous()))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        pack(net).decode(z)
    assert not any(seen)


@needs_onednn
def test_a_packed_text_encoder_answers_as_a_plain_one(generator):
    net: Any = randomise(TextEncoder(TEXT, PACKED), generator)
    ids = torch.randint(0, TEXT.vocab, (2, 77), generator=generator)
    with torch.inference_mode():
        plain = net.hidden_states(net.embed(ids))[-1]
        assert sum(isinstance(layer, Packed) for layer in pack(net).modules()) == 6 * TEXT.layers
        packed = net.hidden_states(net.embed(ids))[-1]
    assert (plain - packed).abs().max() / plain.abs().max() < 1e-5


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_feed_forward_net_of_many_tokens_is_the_same_in_slices(generator, dtype):
    net = pack(randomise(FeedForward(16, PACKED), generator).to(dtype))
    x = torch.randn(2, 5 * ROWS + 7, 16, generator=generator).to(dtype)
    lengths: list[int] = []
    net.net[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    with torch.inference_mode():
        sliced = net(x)
        assert lengths == [ROWS] * 5 + [7]
        torch.testing.assert_close(sliced, net.net(x))
        lengths.clear()
        net(x[:, : 4 * ROWS - 1])
        assert lengths == [4 * ROWS - 1]
