"""Every sampler draws the right postcard, and the same one alone and in a batch.

A batch of five; batches of 2, 3 and 5 with TEST_FULL=1. (test_generate.py draws batches of three with a small random
model.)
"""

from __future__ import annotations

import os
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
FULL = bool(os.environ.get("TEST_FULL"))
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
        "prompt": PROMPT, "checkpoint": "postcards", "width": 128, "height": 128, "cfg_scale": 5,
        "steps": 20, "override_settings": {"live_previews_enable": False}, **request,
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


# DPM adaptive takes its hundred calls, however few steps are asked for.
@pytest.mark.parametrize("sampler", [name for name in SAMPLER_NAMES if FULL or name != "DPM adaptive"])
def test_a_postcard_of_any_batch_equals_that_seed_alone(sampler: str, postcards: Studio) -> None:
    """Batches that share their last picture; small, short and without what costs time."""
    cheap = {"skip_early_cond": 1.0, "live_previews_enable": False}
    small = {"sampler": sampler, "steps": 2, "width": 64, "height": 64, "override_settings": cheap}
    (alone,) = _draw(postcards, seed=44, batch_size=1, **small)
    for size in (2,) if sampler == "DPM adaptive" else (2, 3, 5) if FULL else (5,):
        together = _draw(postcards, seed=45 - size, batch_size=size, **small)
        assert np.array_equal(together[-1], alone)
