"""Maps for ControlNet: what each preprocessor makes of a picture, and how a map is brought to size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from modules.imaging.preprocess import MAX_PIXELS, at_resolution, canny, fitted, pixel_perfect, preprocess
from modules.schema.control import PREPROCESSORS, RESIZE_MODES


def noise(seed: int, size: tuple[int, int] = (40, 24)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def square(side: int = 32, inner: tuple[int, int, int, int] = (8, 8, 24, 24)) -> Image.Image:
    image = Image.new("RGB", (side, side), (20, 20, 20))
    image.paste((220, 220, 220), inner)
    return image


def white(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    assert set(np.unique(values)) <= {0, 255}
    assert (values == values[..., :1]).all()
    return values[..., 0] == 255


def slow_canny(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """The same pixel by pixel, as the paper and OpenCV tell it."""
    height, width, _ = values.shape
    around = np.pad(values.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    gx, gy = np.zeros((height, width), int), np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            best = -1
            for c in range(3):
                p = around[y : y + 3, x : x + 3, c]
                dx = (p[0, 2] - p[0, 0]) + 2 * (p[1, 2] - p[1, 0]) + (p[2, 2] - p[2, 0])
                dy = (p[2, 0] - p[0, 0]) + 2 * (p[2, 1] - p[0, 1]) + (p[2, 2] - p[0, 2])
                if abs(dx) + abs(dy) > best:
                    best, gx[y, x], gy[y, x] = abs(dx) + abs(dy), dx, dy
    steep = np.pad(np.abs(gx) + np.abs(gy), 1)
    crest = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            m, dx, dy = steep[y + 1, x + 1], gx[y, x], gy[y, x]
            angle = np.degrees(np.arctan2(abs(dy), abs(dx)))
            if angle < 22.5:
                crest[y, x] = m > steep[y + 1, x] and m >= steep[y + 1, x + 2]
            elif angle > 67.5:
                crest[y, x] = m > steep[y, x + 1] and m >= steep[y + 2, x + 1]
            else:
                s = -1 if (dx < 0) != (dy < 0) else 1
                crest[y, x] = m > steep[y, x + 1 - s] and m > steep[y + 2, x + 1 + s]
    inner = steep[1:-1, 1:-1]
    found, waiting = np.zeros((height, width), bool), list(zip(*np.nonzero(crest & (inner > high))))
    while waiting:
        y, x = waiting.pop()
        if found[y, x]:
            continue
        found[y, x] = True
        for b in range(max(0, y - 1), min(height, y + 2)):
            for a in range(max(0, x - 1), min(width, x + 2)):
                if crest[b, a] and inner[b, a] > low and not found[b, a]:
                    waiting.append((b, a))
    return found


@pytest.mark.parametrize("low", [100, 300])
def test_canny_finds_the_edges_that_the_rule_finds(test_seed: int, low: int) -> None:
    image = noise(test_seed)
    steepest = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((4, 4))).astype(np.uint8)).convert("RGB")
    for picture in (image, square(), image.resize((30, 90), Image.Resampling.BICUBIC), steepest):
        found = white(canny(picture, low, 2 * low))
        assert np.array_equal(found, slow_canny(np.asarray(picture), low, 2 * low))
        assert np.array_equal(found, white(canny(picture, 2 * low, low)))  # in either order
    assert white(canny(image, low, 2 * low)).any()


def test_canny_draws_a_closed_line_around_a_square() -> None:
    found = white(preprocess(square(), "canny", 32, 100, 200))
    assert found.sum() == pytest.approx(4 * 16, abs=8)
    assert not found[12:20, 12:20].any()
    assert not found[:6].any()


@pytest.mark.parametrize("row", PREPROCESSORS, ids=lambda row: row.name)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (64, 48), (333, 90)])
def test_every_preprocessor_takes_every_picture(test_seed: int, row: object, size: tuple[int, int]) -> None:
    a, b = (getattr(row, which).default if getattr(row, which) else -1 for which in "ab")
    made = preprocess(noise(test_seed, size), row.name, 64, a, b)  # type: ignore[attr-defined]
    assert made.mode == "RGB"
    assert min(made.size) == (64 if row.sized else min(size))  # type: ignore[attr-defined]
    again = preprocess(noise(test_seed, size), row.name, 64, a, b)  # type: ignore[attr-defined]
    assert made.tobytes() == again.tobytes()


def test_simple_maps_are_what_they_say(test_seed: int) -> None:
    image = noise(test_seed, (64, 64))
    assert preprocess(image, "none", 512, 0, 0).tobytes() == image.tobytes()
    assert preprocess(image, "invert", 512, 0, 0).tobytes() == ImageOps.invert(image).tobytes()
    over = white(preprocess(image, "threshold", 64, 100, 0))
    assert np.array_equal(over, np.asarray(image).min(axis=2) > 100)
    assert preprocess(image, "tile_resample", 64, 1, 0).size == (64, 64)
    assert preprocess(image, "tile_resample", 64, 4, 0).size == (16, 16)
    blurred = np.asarray(preprocess(image, "blur_gaussian", 64, 6, 0))
    assert blurred.std() < 0.2 * np.asarray(image).std()
    lines = white(preprocess(square(), "scribble_xdog", 64, 32, 0))
    assert lines.any()
    assert not lines[28:36, 28:36].any()
    moved = preprocess(image.resize((300, 200)), "shuffle", 200, 0, 0)
    assert moved.size == (300, 200)
    assert moved.tobytes() != image.resize((300, 200)).tobytes()


def test_a_resolution_is_that_of_the_shorter_side_and_has_an_end() -> None:
    assert at_resolution(Image.new("RGB", (300, 100)), 512).size == (1536, 512)
    huge = at_resolution(Image.new("RGB", (8000, 100)), 4096)
    assert huge.width * huge.height == pytest.approx(MAX_PIXELS, rel=0.01)
    for mode, expected in zip(RESIZE_MODES, (512, 512, 256)):
        assert pixel_perfect((400, 200), (512, 512), mode) == expected


def test_a_map_is_stretched_cropped_or_filled() -> None:
    image = Image.new("RGB", (40, 20), (200, 0, 0))
    image.paste((0, 0, 200), (0, 0, 20, 20))
    just, crop, fill = (np.asarray(fitted(image, mode, (80, 80))) for mode in RESIZE_MODES)
    assert just.shape == crop.shape == fill.shape == (80, 80, 3)
    for values in (just, crop):
        assert tuple(values[40, 5]) == (0, 0, 200)
        assert tuple(values[0, 75]) == (200, 0, 0)
    assert (fill[:18] == fill[0, 0]).all()
    assert tuple(fill[40, 5]) == (0, 0, 200)
    mask = fitted(Image.new("L", (40, 20), 255), RESIZE_MODES[2], (80, 80))
    assert mask.mode == "L"
