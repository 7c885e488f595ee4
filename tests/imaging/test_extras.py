"""Extras' tools on pictures: split, cropped, flipped, in order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modules.imaging.extras import auto_crop, flipped, focal_crop, processed, split
from modules.imaging.upscale import find_upscaler
from modules.schema.errors import BadRequest
from modules.schema.request import AutoCrop, Extras, FocalCrop, SplitOversized


def ramp(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row, both from 0 to 255."""
    rows, columns = np.mgrid[0:height, 0:width]
    values = np.stack([columns * 255 / (width - 1), rows * 255 / (height - 1), np.zeros_like(rows)], axis=-1)
    return Image.fromarray(values.round().astype(np.uint8))


@pytest.mark.parametrize(("size", "axis"), [((100, 420), 1), ((420, 100), 0)])
def test_a_long_picture_is_cut_into_overlapping_parts_that_cover_it(size: tuple[int, int], axis: int) -> None:
    parts = split(ramp(*size), (100, 100), SplitOversized(overlap_ratio=0.2))
    assert len(parts) == 5
    assert {part.size for part in parts} == {(100, 100)}
    spans = [np.asarray(part)[..., axis] for part in parts]
    assert spans[0].min() == 0
    assert spans[-1].max() == 255
    for one, two in pairwise(spans):
        share = (float(one.max()) - float(two.min())) / (float(one.max()) - float(one.min()))
        assert 0.15 < share < 0.3


def test_a_picture_of_nearly_that_shape_is_not_split() -> None:
    image = ramp(100, 150)
    assert split(image, (100, 100), SplitOversized()) == [image]
    assert len(split(image, (100, 100), SplitOversized(split_threshold=0.8))) == 2
    with pytest.raises(BadRequest, match="64 is the most"):
        split(ramp(8, 800), (8, 8), SplitOversized(overlap_ratio=0.5))


def scene(spot: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "#557")
    pen = ImageDraw.Draw(image)
    random = np.random.default_rng(1)
    for _ in range(40):
        x, y = random.integers(-14, 14, 2)
        colour = tuple(int(v) for v in random.integers(0, 255, 3))
        pen.rectangle((spot[0] + x, spot[1] + y, spot[0] + x + 4, spot[1] + y + 4), fill=colour)
    return image


@pytest.mark.parametrize("weights", [(0, 0, 1), (0, 1, 0), (0.9, 0.15, 0.5)])
@pytest.mark.parametrize("at", [40, 160, 280])
def test_a_crop_goes_where_something_is(weights: tuple[float, float, float], at: int) -> None:
    asked = FocalCrop(**dict(zip(("face_weight", "entropy_weight", "edges_weight"), weights)))
    for size, spot in (((320, 100), (at, 50)), ((100, 320), (50, at))):
        (crop,) = focal_crop(scene(spot, size), (100, 100), asked)
        assert crop.size == (100, 100)
        changed = (np.asarray(crop) != (0x55, 0x55, 0x77)).any(axis=2)
        whole = (np.asarray(scene(spot, size)) != (0x55, 0x55, 0x77)).any(axis=2)
        assert changed.sum() == whole.sum(), "all of it is seen"


def test_a_face_weighs_more_than_edges_and_the_debug_picture_shows_both() -> None:
    image = scene((40, 50), (320, 100))
    face = np.array([[278.0, 45], [286, 45], [282, 50], [279, 55], [285, 55]])

    def faces(picture: Image.Image) -> list[np.ndarray]:
        assert picture.size == (320, 100)
        return [face]

    asked = FocalCrop(face_weight=1, entropy_weight=0, edges_weight=0, debug=True)
    crop, shown = focal_crop(image, (100, 100), asked, faces)
    assert crop.tobytes() == image.crop((220, 0, 320, 100)).tobytes()
    assert shown.size == (320, 100)
    assert shown.tobytes() != image.tobytes()
    (middle,) = focal_crop(image, (100, 100), FocalCrop(face_weight=0, entropy_weight=0, edges_weight=0), faces)
    assert middle.tobytes() == image.crop((110, 0, 210, 100)).tobytes()


def test_an_auto_sized_crop_is_the_largest_or_the_nearest_within_the_bounds() -> None:
    image = ramp(850, 600)
    assert auto_crop(image, AutoCrop()).size == (768, 512)
    assert auto_crop(image, AutoCrop(objective="Minimize error")).size == (640, 448)
    assert auto_crop(ramp(900, 100), AutoCrop()).size == (900, 100), "no size is near enough"
    cropped = np.asarray(auto_crop(image, AutoCrop(mindim=512, maxdim=512, threshold=0.5)))
    assert cropped.shape == (512, 512, 3)
    assert abs(int(cropped[:, 0, 0].mean()) + int(cropped[:, -1, 0].mean()) - 255) <= 3, "about the middle"


def test_copies_are_flipped_and_all_steps_go_in_order(test_seed: int) -> None:
    image = Image.fromarray(np.random.default_rng(test_seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    values = np.asarray(image)
    for how, expected in (("Horizontal", values[:, ::-1]), ("Vertical", values[::-1]), ("Both", values[::-1, ::-1])):
        assert np.array_equal(np.asarray(flipped(image, how)), expected)
    made = processed(
        image.resize((60, 240)),
        Extras(
            upscaler_1="Nearest", resize_mode=1, upscaling_resize_w=120, upscaling_resize_h=120, upscaling_crop=False,
            split_oversized=SplitOversized(), flip=("Horizontal", "Both"),
        ),
        find_upscaler,
    )  # fmt: skip
    parts = len(made) // 3
    assert parts == 5
    assert {each.size for each in made} == {(120, 120)}
    assert made[parts].tobytes() == flipped(made[0], "Horizontal").tobytes()


def test_the_longest_side_bounds_a_factor() -> None:
    asked = Extras(upscaler_1="Lanczos", upscaling_resize=4, max_side_length=160)
    (made,) = processed(ramp(80, 40), asked, find_upscaler)
    assert made.size == (160, 80)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"focal_crop": FocalCrop()}, "resize_mode"),
        ({"split_oversized": SplitOversized()}, "resize_mode"),
        ({"flip": ("Diagonal",)}, "flip"),
        ({"auto_crop": AutoCrop(mindim=700, maxdim=600)}, "auto_crop"),
        ({"auto_crop": AutoCrop(objective="Best")}, "objective"),
    ],
)
def test_what_makes_no_sense_is_said(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        processed(ramp(32, 32), Extras(**asked), find_upscaler)
    assert caught.value.field == field
