"""Every sampler draws the right postcard, and the same one alone and in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.pipeline.run import Engine
from modules.sampling.table import SAMPLER_NAMES
from modules.schema.events import ImageReady
from modules.schema.folders import Folders
from modules.training import rules
from tests.pipeline.conftest import Studio

ROOT = Path(__file__).parents[2]
PROMPT = "a big red house in the middle, snow, day"
# Consistency samplers take few steps, and none of ours is distilled for them: only the scene is asked of them.
SCENE_ONLY = {"LCM", "TCD"}


@pytest.fixture(scope="module")
def postcards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("postcards"), ROOT / "models")
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


def _pixels(studio: Studio, picture: ImageReady) -> np.ndarray:
    with Image.open(studio.folders.data / str(picture.record.path)) as image:
        return np.asarray(image.convert("RGB"))


def _draw(studio: Studio, **request: object) -> list[np.ndarray]:
    asked = {
        "prompt": PROMPT, "checkpoint": "postcards", "width": 128, "height": 128, "cfg_scale": 5, "steps": 20, **request
    }  # fmt: skip
    return [_pixels(studio, picture) for picture in studio.draw(**asked)]  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler_draws_what_is_asked_for(sampler: str, postcards: Studio) -> None:
    (picture,) = _draw(postcards, sampler=sampler, seed=3)
    assert rules.scene_of(picture) == ("day", "snow")
    if sampler in SCENE_ONLY:
        return
    seen = rules.things(picture, "day", "snow")
    assert seen, "nothing stands in the picture"
    assert rules.color_of(picture, seen[0], "day") == "red"


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "DPM++ SDE", "UniPC"])
def test_a_postcard_of_a_batch_equals_that_seed_alone(sampler: str, size: int, postcards: Studio) -> None:
    together = _draw(postcards, sampler=sampler, seed=40, batch_size=size, steps=6)
    (alone,) = _draw(postcards, sampler=sampler, seed=40 + size - 1, steps=6)
    assert np.array_equal(together[-1], alone)
