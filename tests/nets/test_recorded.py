"""Calls that save work give what plain ones give: keys and values kept, the deep part left out, recorded, compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modules.nets.hypertile import Tiling
from modules.nets.layers import seamless
from modules.nets.recorded import Compiled, Recorded, calling
from modules.nets.streamed import STORED
from modules.nets.unet import SHALLOW, Deep, FirstBlock, Prompted, UNet
from tests.weights.tiny import UNET, randomise


@pytest.fixture
def net(test_seed: int) -> Any:
    return randomise(UNet(UNET), torch.Generator().manual_seed(test_seed))


def inputs(seed: int, rows: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, side, side, generator=generator)
    return x, torch.full((rows,), 500.0), torch.randn(rows, 77, 32, generator=generator)


def count_calls(layers: list[Any]) -> list[int]:
    calls = [0]
    for layer in layers:
        layer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    return calls


def test_keys_and_values_of_a_prompt_are_made_once(net, test_seed):
    x, t, context = inputs(test_seed)
    names = [name for name, _ in net.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    calls = count_calls([net.get_submodule(name) for name in names])
    with torch.inference_mode():
        plain = [net(x, t, context), net(2 * x, t, context)]
        assert calls[0] == 2 * len(names)
        prompted = Prompted(context)
        kept = [net(x, t, prompted), net(2 * x, t, prompted)]
    assert calls[0] == 3 * len(names)
    assert all(torch.equal(a, b) for a, b in zip(plain, kept))
    assert prompted.bytes > context.nbytes


def test_the_deep_part_is_left_out_and_taken_from_the_last_call(net, test_seed):
    x, t, context = inputs(test_seed)
    calls = count_calls([net.middle_block])
    deep = Deep()
    with torch.inference_mode():
        plain = net(x, t, context)
        assert torch.equal(net(x, t, context, cache=deep), plain)
        deep.fresh = False
        again = net(x, t, context, cache=deep)
        assert calls[0] == 2
        assert torch.allclose(again, plain, atol=1e-5)  # the same x: nothing has changed in the deep part
        near = net(x + 0.01, t, context, cache=deep)
        right = net(x + 0.01, t, context)
        deep.fresh = True
        assert torch.equal(net(x + 0.01, t, context, cache=deep), right)
    assert not torch.equal(near, right)
    assert (near - right).norm() < 0.5 * (plain - right).norm() + 0.1 * right.norm()
    assert len(net.input_blocks) > SHALLOW


def test_what_follows_the_first_blocks_is_left_out_where_they_have_hardly_changed(net, test_seed):
    x, t, context = inputs(test_seed)
    calls = count_calls([net.middle_block])
    cache = FirstBlock(0.1)
    with torch.inference_mode():
        plain, right = net(x, t, context), net(1.01 * x, t, context)
        assert torch.equal(net(x, t, context, cache=cache), plain)
        near = net(1.01 * x, t, context, cache=cache)
        assert (calls[0], cache.asked, cache.taken) == (3, 1, 1)
        far = -2 * x
        assert torch.equal(net(far, t, context, cache=cache), net(far, t, context))
        assert (cache.asked, cache.taken) == (2, 1)
    assert not torch.equal(near, right)
    assert (near - right).norm() < 0.1 * right.norm()


def test_first_blocks_are_compared_row_by_row(net, test_seed):
    x, t, context = inputs(test_seed)
    cache = FirstBlock(0.1)
    with torch.inference_mode():
        net(x, t, context, cache=cache)
        x[1] *= -2
        assert torch.equal(net(x, t, context, cache=cache), net(x, t, context))


def test_queries_keys_and_values_by_one_product_are_the_same(net, test_seed):
    x, t, context = inputs(test_seed)
    layers = [layer for name, layer in net.named_modules() if name.endswith(("attn1.to_q", "attn1.to_k", "attn1.to_v"))]
    with torch.inference_mode():
        plain = net(x, t, context)
        held = sum(parameter.nbytes for parameter in net.parameters())
        net.fuse()
        calls = count_calls(layers)
        fused = net(x, t, context)
        assert calls[0] == 0
        assert torch.allclose(fused, plain, atol=1e-5)
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in net.parameters()}
        assert sum(storages.values()) == held  # nothing is held twice
        mapped = net(
            x, t, context, context_map=lambda tokens: (2 * tokens, tokens)
        )  # a hypernetwork: keys of something else
        assert calls[0] == len(layers)
        assert not torch.allclose(mapped, plain, atol=1e-3)


def test_what_changes_weights_is_heard_where_they_are_parts_of_one(net, test_seed):
    x, t, context = inputs(test_seed)
    other = randomise(UNet(UNET), torch.Generator().manual_seed(test_seed))
    with torch.inference_mode():
        net.fuse()
        for change in (
            lambda layer: layer.weight.mul_(1.5),  # a LoRA on a card
            lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight * 0.5, requires_grad=False)),
        ):
            for one in (net, other):
                change(one.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_k"))
            assert torch.allclose(net(x, t, context), other(x, t, context), atol=1e-5)
        double = net.double()
        assert all(part.dtype == torch.float64 for part in net.middle_block[1].transformer_blocks[0].attn1.parts)
        assert torch.allclose(double(x.double(), t, context.double()).float(), other(x, t, context), atol=1e-4)


def test_a_compiled_net_takes_over_when_it_is_ready(net, test_seed):
    call = Compiled(net, backend="eager")
    x, t, context = inputs(test_seed)
    with torch.inference_mode():
        first = call(x, t, Prompted(context))  # not waited for
        call.wait()
        assert len(call._ready) == 1
        assert torch.allclose(call(x, t, Prompted(context)), first, atol=1e-5)
        parameter = net.out[2].weight
        parameter.mul_(2)  # a LoRA, say: heard without compiling anew
        assert torch.allclose(call(x, t, context), net(x, t, context), atol=1e-5)
        assert len(call._ready) == 1
        larger = inputs(test_seed, side=16)
        call(*larger)
        call.wait()
        assert len(call._ready) == 2
        assert torch.allclose(call(*larger), net(*larger), atol=1e-5)


def test_what_cannot_be_compiled_is_left_to_the_net(net, test_seed):
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no")

    call = Compiled(net, backend=refuse)
    given = inputs(test_seed)
    with torch.inference_mode():
        first = call(*given)
        call.wait()
        assert torch.equal(call(*given), first)
    assert not call._ready


def test_on_a_processor_nothing_is_recorded(net, test_seed):
    call = calling(net, "CUDA graphs")
    assert isinstance(call, Recorded)
    given = inputs(test_seed)
    with torch.inference_mode():
        assert torch.equal(call(*given), net(*given))
    assert calling(net, "Plain") is net


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_net_answers_as_itself(net, test_seed):
    net = net.cuda()
    call = Recorded(net)
    with torch.inference_mode():
        for side in (8, 16, 8):
            for seed in range(3):
                given: Any = tuple(tensor.cuda() for tensor in inputs(test_seed + seed, side=side))
                assert torch.allclose(call(given[0], given[1], Prompted(given[2])), net(*given), atol=1e-4)
        assert sum(isinstance(entry, tuple) for entry in call._graphs.values()) == 2
        net.out[2].weight.mul_(2)  # a LoRA is merged in place
        assert torch.allclose(call(*given), net(*given), atol=1e-4)
        assert sum(isinstance(entry, tuple) for entry in call._graphs.values()) == 2
        with seamless([net]):  # the same sizes, another picture
            for _ in range(3):
                assert torch.allclose(call(*given), net(*given), atol=1e-4)
        for _ in range(3):
            assert torch.allclose(call(*given, merging=0.5), net(*given, merging=0.5), atol=1e-4)
        assert all(isinstance(entry, tuple) for entry in call._graphs.values())
        call.forget()
        assert torch.allclose(call(*given), net(*given), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_net_answers_as_itself_on_a_card(net, test_seed):
    net = net.cuda()
    call = Compiled(net)
    given: Any = tuple(tensor.cuda() for tensor in inputs(test_seed))
    with torch.inference_mode():
        call(*given)
        call.wait()
        assert call._ready
        for _ in range(3):  # from the second on as a graph of what was compiled
            assert torch.allclose(call(*given), net(*given), atol=1e-2)
        assert call._compiled is not None
        assert all(isinstance(entry, tuple) for entry in call._compiled._graphs.values())


def test_what_draws_otherwise_is_not_taken_for_the_same_call(net, test_seed):
    call, given = Recorded(net), list(inputs(test_seed))
    before = call.key(given)
    with seamless([net]):
        assert call.key(given) != before  # a graph of the other would show seams
    assert call.key(given) == before


def test_what_adapters_change_from_beside_is_left_to_the_net(test_seed):
    """A graph would go on without them: they make weights anew at each call."""
    net = randomise(UNet(UNET, STORED), torch.Generator().manual_seed(test_seed))
    given = inputs(test_seed)
    call = Compiled(net, backend="eager")
    with torch.inference_mode():
        call(*given)
        call.wait()
        layer: Any = net.get_submodule("input_blocks.1.1.transformer_blocks.0.attn2.to_q")
        layer.delta = lambda weight, bias: (2 * weight, bias)
        changed = net(*given)
        assert Recorded(net).altered()
        assert torch.equal(call(*given), changed)
        layer.delta = None
        assert not torch.allclose(call(*given), changed)


def test_a_net_that_stays_where_it_is_keeps_its_addresses(net):
    """Graphs know weights by them, and every job brings its model to the card, where it is already."""
    net.fuse()
    before = {name: parameter.data_ptr() for name, parameter in net.named_parameters()}
    net.to("cpu")
    assert {name: parameter.data_ptr() for name, parameter in net.named_parameters()} == before
    attention = net.middle_block[1].transformer_blocks[0].attn1
    assert attention.fused is not None
    assert attention.fused.data_ptr() == attention.to_q.weight.data_ptr()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 12), (16, 7)])
def test_tiles_put_a_feature_map_together_again(test_seed, height, width):
    x = torch.randn(3, height * width, 5, generator=torch.Generator().manual_seed(test_seed))
    found = [Tiling(4).tiles(height, width, number=number) for number in range(9)]
    assert len({(tiles.rows, tiles.columns) for tiles in found if tiles}) > 1
    for tiles in filter(None, found):
        parts = tiles.merge(x)
        assert parts.shape == (3 * tiles.rows * tiles.columns, height // tiles.rows * (width // tiles.columns), 5)
        assert min(height // tiles.rows, width // tiles.columns) >= 4
        first = x.view(3, height, width, 5)[0, : height // tiles.rows, : width // tiles.columns]
        assert torch.equal(parts[0], first.reshape(-1, 5))
        assert torch.equal(tiles.unmerge(parts), x)


def test_deep_levels_and_small_maps_stay_whole():
    assert Tiling(8).tiles(8, 8) is None
    assert Tiling(4, depth=1).tiles(64, 64, level=2) is None
    level = Tiling(8).tiles(64, 64, level=1)
    assert level is not None
    assert 64 // level.rows == 16


def test_attention_in_tiles_changes_a_call_and_not_with_its_batch(net, test_seed):
    x, t, context = inputs(test_seed, rows=2, side=16)
    tiling = Tiling(4)
    with torch.inference_mode():
        whole = net(x, t, context)
        tiled = net(x, t, context, tiling=tiling)
        assert not torch.allclose(whole, tiled, atol=1e-4)
        assert torch.equal(net(x, t, context, tiling=Tiling(16)), whole)  # one tile is the picture
        moved = x.clone()
        moved[1] += 1
        assert torch.equal(net(moved, t, context, tiling=tiling)[0], tiled[0])
        assert torch.equal(Recorded(net)(x, t, context, tiling=tiling), tiled)
