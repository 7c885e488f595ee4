"""Pictures changed by the shipped model, read by its card's rules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.pipeline.run import Engine
from modules.schema.folders import Folders
from modules.schema.request import Hires, Mask, Outpaint, Source
from modules.training import rules
from modules.training.drawing import Scene, draw_scene
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array, disc, keep

ROOT = Path(__file__).parents[2]
FIELD = (36, 52, 92, 112)
HOUSES = 30 if os.environ.get("TEST_FULL") else 10
RIGHT = 24 if HOUSES == 30 else 7


@pytest.fixture(scope="module")
def postcards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("changed"), ROOT / "models")
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


def draw(studio: Studio, **request: object) -> list[np.ndarray]:
    quiet = {"live_previews_enable": False, **request.pop("override_settings", {})}  # type: ignore[dict-item]
    asked = {"checkpoint": "postcards", "width": 128, "height": 128, "cfg_scale": 5, "steps": 12, "seed": 1,
             "sampler": "DPM++ 2M", "override_settings": quiet, **request}  # fmt: skip
    return [array(studio, ready).astype(np.uint8) for ready in studio.draw(**asked)]  # type: ignore[arg-type]


def scene(time: str, land: str) -> Image.Image:
    return Image.fromarray(draw_scene(Scene(time, land, ())))


def test_a_little_strength_keeps_the_layout_and_much_follows_the_prompt(postcards: Studio) -> None:
    (before,) = draw(postcards, prompt="a big red house on the left, meadow, day")
    name = keep(postcards, Image.fromarray(before))
    prompt = "a big blue boat on the right, sea, night"
    (near,), (far,) = (
        draw(postcards, prompt=prompt, source=Source(images=(name,), denoising_strength=strength), steps=20)
        for strength in (0.3, 0.9)
    )
    assert rules.scene_of(near) == ("day", "meadow")
    assert rules.scene_of(far) == ("night", "sea")


def test_a_house_of_the_asked_colour_is_put_into_an_empty_field(postcards: Studio) -> None:
    before = scene("day", "meadow")
    source = Source(
        images=(keep(postcards, before),), denoising_strength=1.0,
        mask=Mask(image=keep(postcards, disc((128, 128), FIELD)), inpainting_fill=2),
    )  # fmt: skip
    drawn = draw(postcards, prompt="a big red house in the middle, meadow, day", source=source, n_iter=HOUSES, steps=10)
    left, top, right, bottom = FIELD
    blur = 14  # of the mask, as far as it reaches
    outside = np.ones((128, 128), bool)
    outside[top - blur : bottom + blur, left - blur : right + blur] = False
    good = 0
    for picture in drawn:
        assert np.array_equal(picture[outside], np.asarray(before)[outside])
        seen = rules.things(picture, "day", "meadow")
        if seen and rules.color_of(picture, seen[0], "day") == "red":
            good += rules.kind_and_size_of(picture, seen[0], "day", "meadow", "red")[0] == "house"
    assert good >= RIGHT, f"{good} of {HOUSES} are red houses"


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_horizon_goes_on_beyond_the_edge(side: str, postcards: Studio) -> None:
    before = np.asarray(scene("sunset", "sea")).astype(int)
    beyond = Outpaint(left=48) if side == "left" else Outpaint(right=48)
    source = Source(images=(keep(postcards, scene("sunset", "sea")),), denoising_strength=0.9, outpaint=beyond)
    (after,) = draw(postcards, prompt="sea, sunset", source=source)
    assert after.shape == (128, 176, 3)
    new = after[:, :40] if side == "left" else after[:, -40:]
    rows, were = new.astype(int).mean(axis=1), before.mean(axis=1)
    assert np.abs(rows - were).mean() < 15, "each row is what it was in the picture, on average"
    steepest = [int(np.abs(np.diff(one.sum(axis=1)))[24:104].argmax()) for one in (rows, were)]
    assert abs(steepest[0] - steepest[1]) <= 4, "the sea begins where it began"


def test_hires_fix_is_sharper_than_lanczos_and_keeps_the_scene(postcards: Studio) -> None:
    asked = {"prompt": "a big red house in the middle, snow, day", "seed": 3}
    (small,) = draw(postcards, **asked)
    (large,) = draw(postcards, **asked, hires=Hires(denoising_strength=0.7, hr_upscaler="Latent"))
    lanczos = np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.LANCZOS))

    def sharpness(picture: np.ndarray) -> float:
        """How strong the strongest edges are: the mean of the steepest hundredth of all steps."""
        steps = np.sort(np.abs(np.diff(picture.astype(float), axis=1)).ravel())
        return float(steps[-len(steps) // 100 :].mean())

    assert sharpness(large) > 1.1 * sharpness(lanczos)  # 1.26 to 1.97 over four seeds
    assert rules.scene_of(np.asarray(Image.fromarray(large).reduce(2))) == ("day", "snow")


def test_a_seamless_picture_has_no_seam(postcards: Studio) -> None:
    (picture,) = draw(
        postcards, prompt="green hills, day, clouds", override_settings={"tiling": True, "tiling_axes": "x"}
    )
    values = picture.astype(int)
    inside = np.abs(np.diff(values, axis=1)).mean(axis=(0, 2))
    seam = np.abs(values[:, 0] - values[:, -1]).mean()
    assert seam <= inside.max() + 1


def test_a_first_picture_imports_nothing_that_takes_seconds_for_nothing(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from modules.pipeline.run import Engine
from modules.schema.folders import Folders
from tests.pipeline.conftest import Studio
folders = Folders.under(Path({str(tmp_path)!r}), Path("models").resolve())
engine = Engine(folders)
assert len(Studio(engine, folders).draw(checkpoint="postcards", width=128, height=128, steps=1)) == 1
engine.close()
late = {{"torch._dynamo", "torch._inductor", "sympy", "transformers", "spandrel", "gradio"}} & set(sys.modules)
assert not late, late
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
