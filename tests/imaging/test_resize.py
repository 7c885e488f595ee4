"""Sizes, tiles and masks: what the reference cases do not look at, the pixels and the extremes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modules.imaging.grid import tile_starts
from modules.imaging.masks import crop_region, expand_to_ratio
from modules.imaging.resize import Mode, resize

SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


def stripes() -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 0] = 255
    pixels[:, 20:, 2] = 255
    return Image.fromarray(pixels)


def test_fit_draws_the_edges_out_into_the_bands() -> None:
    tall = np.asarray(resize(stripes(), "fit", (40, 60)))
    assert (tall[:, 2] == (255, 0, 0)).all()
    assert (tall[:, 37] == (0, 0, 255)).all()
    wide = np.asarray(resize(stripes(), "fit", (120, 20)))
    assert (wide[:, :50] == (255, 0, 0)).all()
    assert (wide[:, 70:] == (0, 0, 255)).all()


def test_cover_keeps_the_middle() -> None:
    square = np.asarray(resize(stripes(), "cover", (20, 20)))
    assert (square[:, 2] == (255, 0, 0)).all()
    assert (square[:, 17] == (0, 0, 255)).all()


@pytest.mark.parametrize("mode", ["stretch", "cover", "fit"])
@settings(max_examples=60, deadline=None)
@given(source=SIZES, target=SIZES)
def test_any_size_becomes_any_other(mode: Mode, source: tuple[int, int], target: tuple[int, int]) -> None:
    result = resize(Image.new("RGB", source, (255, 255, 255)), mode, target)
    assert result.size == target
    if mode == "stretch":
        assert result.getpixel((0, 0)) == (255, 255, 255)


@given(st.integers(1, 3000), st.integers(2, 600), st.data())
def test_tiles_cover_everything_and_overlap_enough(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


@given(st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 40), st.integers(1, 40)), SIZES)
def test_an_expanded_box_holds_the_box_and_stays_in_the_picture(
    place: tuple[int, int, int, int], work: tuple[int, int]
) -> None:
    left, top, w, h = place
    box = (left, top, min(left + w, 100), min(top + h, 100))
    found = expand_to_ratio(box, work, (100, 100))
    assert found[0] <= box[0]
    assert found[1] <= box[1]
    assert found[2] >= box[2]
    assert found[3] >= box[3]
    assert min(found) >= 0
    assert max(found) <= 100


def test_an_empty_mask_has_no_region() -> None:
    assert crop_region(Image.new("L", (8, 8)), 4) is None
