"""What img2img and inpainting do to pixels: the original's own results, and what holds for any picture."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modules.imaging import colour, inputs, masks, upscale
from modules.imaging.resize import resize
from modules.schema.errors import BadFile, BadRequest, NotFound
from tests.reference.golden import golden_folder

GOLDEN = golden_folder()
golden = pytest.mark.skipif(not (GOLDEN / "unit").is_dir(), reason="no golden runs here")


def given(name: str) -> Image.Image:
    return Image.open(GOLDEN / "inputs" / name)


def distance(image: Image.Image, recorded: str) -> np.ndarray:
    """How far each value is from the recorded picture's."""
    expected = Image.open(GOLDEN / "unit" / recorded)
    assert (image.size, image.mode) == (expected.size, expected.mode)
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int))


@golden
@pytest.mark.parametrize("name", ["128", "128_alpha", "128_empty", "128_gradient", "192_small", "200x150"])
def test_masks_are_read_as_by_the_original(name: str) -> None:
    assert distance(masks.read_mask(given(f"mask{name}.png")), f"binary_mask{name}.png").max() == 0


@golden
@pytest.mark.parametrize("sigma", [1, 4, 12])
def test_blur_is_the_originals(sigma: int) -> None:
    assert distance(masks.blur(masks.read_mask(given("mask128.png")), sigma, sigma), f"blur_{sigma}.png").max() == 0


@golden
@pytest.mark.parametrize(
    ("picture", "mask", "recorded"),
    [
        ("pic128.png", "mask128.png", "fill_pic128_mask128.png"),
        ("pic192.png", "mask192_small.png", "fill_pic192_small.png"),
    ],
)
def test_filling_is_the_originals(picture: str, mask: str, recorded: str) -> None:
    filled = masks.fill(given(picture).convert("RGB"), masks.read_mask(given(mask)))
    assert distance(filled, recorded).max() == 0


@golden
def test_colours_are_matched_as_by_the_original() -> None:
    got = colour.match_colours(given("pic128.png").convert("RGB"), given("pic192.png").convert("RGB"))
    off = distance(got, "color_correct_pic128_to_pic192.png")
    assert off.max() <= 2
    assert (off > 1).mean() < 0.001


@golden
def test_transparency_lies_on_the_colour_asked_for() -> None:
    assert distance(colour.flatten(given("pic128_rgba.png"), "#204080"), "flatten_204080.png").max() == 0


@golden
@pytest.mark.parametrize("name", upscale.UPSCALERS)
def test_upscalers_are_the_originals(name: str) -> None:
    picture = given("pic160x96.png").convert("RGB")
    got = resize(picture, "stretch", (400, 240), upscale.find_upscaler(name))
    assert distance(got, f"upscale_{name}_400x240.png").max() == 0


@golden
@pytest.mark.parametrize("size", [(128, 128), (320, 120), (64, 64), (96, 160)])
@pytest.mark.parametrize(("number", "mode"), list(enumerate(("stretch", "cover", "fit"))))
def test_resize_modes_are_the_originals(number: int, mode: str, size: tuple[int, int]) -> None:
    got = resize(given("pic200x150.png").convert("RGB"), mode, size)  # type: ignore[arg-type]
    assert distance(got, f"resize_{number}_{size[0]}x{size[1]}.png").max() == 0


def random_mask(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))


def test_blur_keeps_what_is_even_and_spreads_no_further_than_it_says(test_seed: int) -> None:
    grey = Image.new("L", (33, 20), test_seed % 256)
    assert masks.blur(grey, 7, 3).tobytes() == grey.tobytes()
    dot = Image.new("L", (64, 64))
    dot.putpixel((32, 32), 255)
    reached = masks.blur(dot, 4, 0).getbbox()
    assert reached is not None
    assert reached[1:4:2] == (32, 33)
    assert 32 - 10 <= reached[0] < 32 < reached[2] <= 32 + 11


def test_what_is_kept_of_a_picture_stays_bit_for_bit(test_seed: int) -> None:
    rng = np.random.default_rng(test_seed)
    picture = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    mask = random_mask(test_seed).point([0] * 129 + [255] * 127)
    kept = np.asarray(masks.unmasked(picture, mask))
    black = np.asarray(mask) == 0
    assert np.array_equal(kept[black][:, :3], np.asarray(picture)[black])
    assert (kept[black][:, 3] == 255).all()
    assert (kept[~black][:, 3] == 0).all()
    assert np.array_equal(np.asarray(masks.fill(picture, mask))[black], np.asarray(picture)[black])


def test_colours_matched_with_the_picture_itself_stay(test_seed: int) -> None:
    rng = np.random.default_rng(test_seed)
    ramp = np.linspace(0, 255, 48 * 48 * 3).reshape(48, 48, 3)
    picture = Image.fromarray(np.clip(ramp + rng.normal(0, 8, ramp.shape), 0, 255).astype(np.uint8))
    off = np.abs(np.asarray(colour.match_colours(picture, picture)).astype(int) - np.asarray(picture))
    assert off.mean() < 3


def test_pictures_of_every_mode_become_rgb(test_seed: int) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        image = Image.new(mode, (5, 4))
        assert colour.flatten(image, "#ffffff").mode == "RGB"
        assert masks.read_mask(image).mode == "L"
    with pytest.raises(BadRequest, match="no colour"):
        colour.flatten(Image.new("RGBA", (2, 2)), "no such thing")


def encoded(image: Image.Image, **extra: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG" if extra else "PNG", **extra)  # type: ignore[arg-type]
    return out.getvalue()


def test_inputs_are_kept_once_by_content_and_found_again(tmp_path: Path, test_seed: int) -> None:
    data = encoded(Image.new("RGB", (12, 9), (test_seed % 256, 1, 2)))
    name = inputs.keep(tmp_path / "in", data)
    assert inputs.keep(tmp_path / "in", data) == name
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]
    assert inputs.load(tmp_path / "in", name).size == (12, 9)


def test_an_input_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    name = inputs.keep(tmp_path, encoded(Image.new("RGB", (12, 9)), exif=exif.tobytes()))
    assert inputs.load(tmp_path, name).size == (9, 12)


def test_inputs_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile):
        inputs.keep(tmp_path, b"not a picture")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFound, match="send it again"):
        inputs.load(tmp_path, "0" * 64)
    for name in ("../../etc/passwd", "", "0" * 63, "A" * 64):
        with pytest.raises(BadRequest):
            inputs.load(tmp_path, name)


def test_sweeping_leaves_what_is_wanted_and_what_is_fresh(tmp_path: Path) -> None:
    names = [inputs.keep(tmp_path, encoded(Image.new("RGB", (side, 4)))) for side in (4, 5, 6)]
    for name in names[:2]:
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "mine.txt").write_text("stays")
    assert inputs.sweep(tmp_path, {names[0]}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], names[2], "mine.txt"])
