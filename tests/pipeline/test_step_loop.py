"""What the loop of steps does besides drawing: it never waits for the device, and makes nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modules.prompt import infotext
from modules.schema.events import ImageReady
from modules.schema.request import Hires
from modules.schema.settings import Settings
from tests.pipeline.conftest import Studio

Pixels = Callable[[Studio, ImageReady], bytes]
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero"}
"""Operations whose answer the program has to wait for. Bringing a tensor to the CPU counts by its copy on a card only,
so it is the reading of numbers that is counted here."""
QUIET = Settings().with_options({"live_previews_enable": False})


class Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.seen[name] += name in WAITS
        return func(*args, **(kwargs or {}))


def waits(studio: Studio, steps: int, **request: Any) -> int:
    with Waits() as seen:
        studio.draw(settings=QUIET, steps=steps, **request)
    return sum(seen.seen.values())


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "Heun", "DDIM"])
def test_the_loop_of_steps_reads_no_number_off_the_device(studio: Studio, sampler: str) -> None:
    waits(studio, 4, sampler=sampler)  # what is prepared once is prepared
    few, many = (waits(studio, steps, sampler=sampler) for steps in (4, 9))
    assert many - few == 0, f"{(many - few) / 5} a step"


def test_a_read_number_is_seen(studio: Studio) -> None:
    """NGMS asks for the noise level, so it has to be read: that the test above can fail."""
    settings = QUIET.with_options({"s_min_uncond": 0.5})
    counts = []
    for steps in (4, 9):
        with Waits() as seen:
            studio.draw(settings=settings, steps=steps)
        counts.append(sum(seen.seen.values()))
    assert counts[1] - counts[0] >= 5


@pytest.mark.parametrize("options", [{}, {"pad_cond_uncond": True}])
def test_keys_and_values_of_a_prompt_are_made_once_a_job(studio: Studio, options: dict[str, bool]) -> None:
    studio.draw(settings=QUIET, steps=1)
    net = next(iter(studio.engine.residency._kept.values())).unet
    layers = [layer for name, layer in net.named_modules() if name.endswith("attn2.to_k")]
    made = [0]
    hooks = [layer.register_forward_hook(lambda *_: made.__setitem__(0, made[0] + 1)) for layer in layers]
    settings = QUIET.with_options(options)
    studio.draw(settings=settings, steps=4, prompt="a cat " * 40)  # longer than the negative prompt: two calls a step
    studio.draw(settings=settings, steps=4, prompt="a dog", batch_size=2)
    for hook in hooks:
        hook.remove()
    calls = 2 if options else 3
    assert made[0] == calls * len(layers)


@pytest.fixture
def asked(studio: Studio) -> Iterator[list[int]]:
    """How often the middle of the net has been asked."""
    studio.draw(settings=QUIET, steps=1)
    calls = [0]
    net = next(iter(studio.engine.residency._kept.values())).unet
    hook = net.middle_block.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    yield calls
    hook.remove()


def test_a_cached_deep_part_is_told_and_asked_as_often_as_set(studio: Studio, asked: list[int]) -> None:
    studio.draw(settings=QUIET, steps=6)
    assert asked[0] == 6
    (picture,) = studio.draw(settings=QUIET.with_options({"deep_cache_interval": 3}), steps=6)
    assert asked[0] - 6 == 2
    assert infotext.read(picture.record.infotext).fields["Deep cache interval"] == "3"


@pytest.mark.parametrize("cache", [{"deep_cache_interval": 2}, {"first_block_cache_threshold": 0.2}])
def test_a_cache_draws_a_picture_alone_as_in_a_batch(studio: Studio, pixels: Pixels, cache: dict[str, float]) -> None:
    settings = QUIET.with_options(cache)
    together = studio.draw(settings=settings, steps=6, seed=5, batch_size=3)
    found = [pixels(studio, picture) for picture in together]
    assert found == [pixels(studio, studio.draw(settings=settings, steps=6, seed=seed)[0]) for seed in (5, 6, 7)]


@pytest.mark.parametrize("cache", [{"deep_cache_interval": 2}, {"first_block_cache_threshold": 0.2}])
def test_prompts_that_take_turns_have_a_cache_each(studio: Studio, pixels: Pixels, cache: dict[str, float]) -> None:
    """One row at a time must not find what another row's call left behind."""
    drawn = []
    for batched in (True, False):
        settings = QUIET.with_options({**cache, "batch_cond_uncond": batched})
        (picture,) = studio.draw(settings=settings, steps=4, prompt="a cat AND a tree", negative_prompt="night")
        drawn.append(torch.frombuffer(bytearray(pixels(studio, picture)), dtype=torch.uint8).int())
    assert (drawn[0] - drawn[1]).abs().max() <= 1


def test_first_blocks_that_have_changed_too_much_draw_as_without_a_cache(studio: Studio, pixels: Pixels) -> None:
    plain, close, far = (
        studio.draw(settings=QUIET.with_options({"first_block_cache_threshold": limit}), steps=6)[0]
        for limit in (0, 0.0001, 0.5)
    )
    assert pixels(studio, plain) == pixels(studio, close) != pixels(studio, far)
    told = [infotext.read(p.record.infotext).fields.get("First block cache threshold") for p in (plain, close, far)]
    assert told == [None, "0.0001", "0.5"]


def test_what_first_blocks_left_behind_is_dropped_with_the_pass_and_the_prompt(
    studio: Studio, asked: list[int]
) -> None:
    settings = QUIET.with_options({"first_block_cache_threshold": 1})

    def whole(**request: Any) -> int:
        before = asked[0]
        studio.draw(settings=settings, steps=6, **request)
        return asked[0] - before

    assert whole() == 1
    assert whole(prompt="a [cat:house:0.5]") == 2
    assert whole(hires=Hires(hr_scale=1.5, denoising_strength=0.7)) == 2
    assert whole(n_iter=2) == 2
