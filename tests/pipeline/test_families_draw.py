"""A small random file of every family draws: real engine, real files, a few steps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.imaging import inputs
from modules.pipeline.depth import NO_MAP
from modules.pipeline.run import Engine
from modules.schema.errors import BadRequest
from modules.schema.events import Warned
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from tests.pipeline.conftest import Studio
from tests.weights.tiny import LAYOUTS, write_tiny

DRAWN = tuple(label for label in LAYOUTS if "/" not in label)
"""One of each family; other ways of writing the same give the same nets (tests/weights/test_families.py)."""


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("families"))
    for label in DRAWN:
        write_tiny(folders.checkpoint_dirs[0] / f"{label}.safetensors", label, test_seed)
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


def draw(studio: Studio, label: str, options: dict[str, object] | None = None, **request: object) -> list[np.ndarray]:
    asked = {"checkpoint": label, "prompt": "a red house", "negative_prompt": "blue", **request}
    pictures = studio.draw(settings=Settings().with_options(options or {}), **asked)
    found = []
    for picture in pictures:
        assert picture.record.path is not None
        with Image.open(Path(studio.folders.data) / picture.record.path) as image:
            found.append(np.asarray(image.convert("RGB")).astype(int))
    return found


@pytest.mark.parametrize("label", DRAWN)
def test_every_family_draws_and_heeds_its_prompt(families, label):
    (picture,) = draw(families, label)
    warned = [event.message for event in families.events if isinstance(event, Warned)]
    assert warned == ([NO_MAP] if "depth" in label else [])
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 1
    (again,) = draw(families, label)
    assert (again == picture).all()
    (other,) = draw(families, label, prompt="a green boat")
    assert (other != picture).any()


@pytest.mark.parametrize("label", ["SD 2.x (v)", "SDXL", "SDXL refiner", "Playground v2.5"])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "DDIM", "UniPC"])
def test_samplers_reach_a_picture_with_every_kind_of_noise_level(families, label, sampler):
    (picture,) = draw(families, label, sampler=sampler)
    assert picture.std() > 1


@pytest.mark.parametrize("label", ["SD 2.x", "SDXL", "SDXL refiner", "SD 1.x inpainting"])
def test_a_picture_of_a_batch_is_that_seed_alone(families, label):
    batch = draw(families, label, batch_size=2, seed=7)
    (alone,) = draw(families, label, seed=8)
    assert (batch[1] == alone).all()
    assert (batch[0] != alone).any()


@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("SDXL", {"sdxl_crop_top": 64}), ("SDXL", {"sdxl_crop_left": 64}), ("SDXL", {"sdxl_clip_l_skip": True}),
        ("SDXL refiner", {"sdxl_refiner_high_aesthetic_score": 1.0}),
        ("SDXL refiner", {"sdxl_refiner_low_aesthetic_score": 9.0}),
    ],
)  # fmt: skip
def test_settings_of_sdxl_are_heard(families, label, options):
    (before,) = draw(families, label)
    (after,) = draw(families, label, options)
    assert (before != after).any()


def kept(studio: Studio, depth: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(depth).save(data, "PNG")
    return inputs.keep(studio.folders.inputs, data.getvalue())


def test_a_depth_map_is_drawn_along_whatever_its_range(families, test_seed):
    rng = np.random.default_rng(test_seed)
    depth = rng.integers(0, 100, (64, 64)).astype(np.uint8)
    (flat,) = draw(families, "SD 2.x depth")
    (drawn,) = draw(families, "SD 2.x depth", depth_map=kept(families, depth))
    (brighter,) = draw(families, "SD 2.x depth", depth_map=kept(families, depth + 100))
    (deep,) = draw(families, "SD 2.x depth", depth_map=kept(families, depth.astype(np.uint16) * 300))
    (upside,) = draw(families, "SD 2.x depth", depth_map=kept(families, depth[::-1].copy()))
    (even,) = draw(families, "SD 2.x depth", depth_map=kept(families, np.full((9, 9), 80, np.uint8)))
    assert np.abs(brighter - drawn).max() <= 1
    assert np.abs(deep - drawn).max() <= 1
    assert (drawn != flat).any()
    assert (drawn != upside).any()
    assert (even == flat).all()


def test_velocity_and_noise_are_not_taken_for_each_other(families):
    """The same file drawn as either, by its side-car."""
    path = families.folders.checkpoint_dirs[0] / "SD 2.x.safetensors"
    (noise,) = draw(families, "SD 2.x")
    path.with_suffix(".yaml").write_text("model: {params: {parameterization: v}}")
    try:
        (velocity,) = draw(families, "SD 2.x")
    finally:
        path.with_suffix(".yaml").unlink()
    assert (velocity != noise).any()
    assert (draw(families, "SD 2.x")[0] == noise).all()


def refiner(label: str, at: float = 0.5) -> dict[str, object]:
    return {"refiner_checkpoint": label, "refiner_switch_at": at}


def test_an_inpainting_model_hands_over_to_a_plain_one_but_not_the_other_way(families):
    (alone,) = draw(families, "SD 1.x inpainting", steps=6)
    (handed,) = draw(families, "SD 1.x inpainting", steps=6, refiner=refiner("SD 1.x"))
    assert (handed != alone).any()
    with pytest.raises(BadRequest, match="inpainting and cannot go on"):
        draw(families, "SD 1.x", steps=6, refiner=refiner("SD 1.x inpainting"))


def test_sdxl_hands_over_to_its_refiner(families):
    (alone,) = draw(families, "SDXL", steps=6)
    (handed,) = draw(families, "SDXL", steps=6, refiner=refiner("SDXL refiner", 0.8))
    assert (handed != alone).any()
