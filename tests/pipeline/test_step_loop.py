"""What the loop of steps does besides drawing: it never waits for the device, and makes nothing twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from modules.prompt import infotext
from modules.schema.settings import Settings
from tests.pipeline.conftest import Studio

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


def test_a_cached_deep_part_is_told_and_asked_as_often_as_set(studio: Studio) -> None:
    with studio.engine.residency.lease(
        studio.engine.catalogue.find("tiny"), next(iter(studio.engine.residency._kept.values())).policy
    ) as model:
        calls = [0]
        hook = model.unet.middle_block.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
        try:
            studio.draw(settings=QUIET, steps=6)
            whole = calls[0]
            settings = QUIET.with_options({"deep_cache_interval": 3})
            (picture,) = studio.draw(settings=settings, steps=6)
        finally:
            hook.remove()
    assert whole == 6
    assert calls[0] - whole == 2
    assert infotext.read(picture.record.infotext).fields["Deep cache interval"] == "3"


def test_deep_cache_draws_a_picture_alone_as_in_a_batch(studio: Studio) -> None:
    settings = QUIET.with_options({"deep_cache_interval": 2})

    def pixels(index: int, **request: Any) -> bytes:
        from PIL import Image

        record = studio.draw(settings=settings, steps=4, **request)[index].record
        assert record.path is not None
        with Image.open(studio.folders.data / record.path) as image:
            return image.tobytes()

    assert pixels(1, seed=5, batch_size=3) == pixels(0, seed=6)
