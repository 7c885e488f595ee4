"""The three small networks that come with the program: each does what its card says, and nothing at weight 0.

Six seeds each (twelve with TEST_FULL=1), ten steps; the limits leave a few of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modules.pipeline.run import Engine
from modules.schema.events import Warned
from modules.schema.folders import Folders
from modules.training import rules
from modules.weights.embeddings import open_embedding
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array

ROOT = Path(__file__).parents[2]
SEEDS = 12 if os.environ.get("TEST_FULL") else 6
MOST, FEW = SEEDS - 2, 3


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("shipped"), ROOT / "models")
    engine = Engine(dataclasses.replace(folders, embeddings=ROOT / "embeddings"))
    yield Studio(engine, folders)
    engine.close()


def draw(studio: Studio, prompt: str, seeds: int = SEEDS) -> list[np.ndarray]:
    quiet = {"live_previews_enable": False}
    asked = {"checkpoint": "postcards", "width": 128, "height": 128, "cfg_scale": 5, "steps": 10, "seed": 300,
             "sampler": "DPM++ 2M", "batch_size": seeds, "override_settings": quiet}  # fmt: skip
    drawn = [array(studio, ready).astype(np.uint8) for ready in studio.draw(prompt=prompt, **asked)]
    assert [event.message for event in studio.events if isinstance(event, Warned)] == []
    assert len(drawn) == seeds
    return drawn


def is_silhouette(picture: np.ndarray) -> bool:
    """A sunset, and what stands in it is dark and without colour."""
    when, land = rules.scene_of(picture)
    seen = rules.things(picture, "sunset", land)
    if when != "sunset" or not seen:
        return False
    inside = picture[seen[0].mask].astype(float)
    return bool(np.median(inside.max(-1)) < 90 and np.median(inside.max(-1) - inside.min(-1)) < 45)


def test_the_lora_makes_silhouettes_before_a_sunset(shipped: Studio) -> None:
    prompt = "a yellow house on green hills, day"
    with_it = [is_silhouette(picture) for picture in draw(shipped, f"{prompt} <lora:silhouettes:1>")]
    without = [is_silhouette(picture) for picture in draw(shipped, prompt)]
    assert sum(with_it) >= MOST
    assert sum(without) == 0


def test_the_embedding_is_a_meadow_by_day_with_all_that_flies(shipped: Studio) -> None:
    def is_picnic(picture: np.ndarray) -> bool:
        return rules.scene_of(picture) == ("day", "meadow") and rules.suns(picture, "day") == 1

    pictures = draw(shipped, "a red car, picnic")
    seen = [rules.things(picture, "day", "meadow") for picture in pictures]
    red = [any(rules.color_of(p, blob, "day") == "red" for blob in blobs) for p, blobs in zip(pictures, seen)]
    assert sum(map(is_picnic, pictures)) >= MOST
    assert sum(red) >= MOST
    assert sum(map(is_picnic, draw(shipped, "a red car, picnics"))) <= FEW, "another word is not the embedding"


def test_the_hypernetwork_lights_the_moon(shipped: Studio) -> None:
    def is_moonlit(picture: np.ndarray, land: str) -> bool:
        return rules.scene_of(picture) == ("night", land) and rules.moons(picture) == 1

    prompt = "a red house on green hills, day"
    with_it = draw(shipped, f"{prompt} <hypernet:moonlight:1>")
    assert sum(is_moonlit(picture, "hills") for picture in with_it) >= MOST
    assert sum(is_moonlit(picture, "hills") for picture in draw(shipped, prompt)) == 0
    colors = [[rules.color_of(p, b, "night") for b in rules.things(p, "night", "hills")[:1]] for p in with_it]
    assert colors.count(["red"]) >= SEEDS - 3, "the prompt is still followed"


@pytest.mark.parametrize("tag", ["<lora:silhouettes:0>", "<hypernet:moonlight:0>"])
def test_at_weight_0_nothing_changes(tag: str, shipped: Studio) -> None:
    plain = draw(shipped, "a red house, sea, day", 2)
    zero = draw(shipped, f"a red house, sea, day {tag}", 2)
    for one, other in zip(plain, zero):
        assert np.array_equal(one, other)


def test_half_the_weight_is_between(shipped: Studio) -> None:
    """Of the same seeds, the mean picture moves further with more weight."""
    plain, half, whole = (
        np.stack(draw(shipped, f"a yellow house on green hills, day {tag}", 4)).astype(float)
        for tag in ("", "<lora:silhouettes:0.5>", "<lora:silhouettes:1>")
    )
    assert 0 < np.abs(half - plain).mean() < np.abs(whole - plain).mean()


@pytest.mark.parametrize(
    "path", ["models/Lora/silhouettes.safetensors", "embeddings/picnic.pt", "models/hypernetworks/moonlight.pt"]
)
def test_files_are_small_and_have_cards(path: str) -> None:
    file = ROOT / path
    assert file.stat().st_size < 2_000_000
    card = json.loads(file.with_suffix(".json").read_text("utf-8"))
    assert card["description"]
    assert card["sd version"] == "SD1"


def test_the_embedding_has_the_model_s_width() -> None:
    rows = open_embedding(ROOT / "embeddings/picnic.pt").rows[""]
    assert rows.shape == (4, 128)
