"""Drawing in several rounds (tiles, loopback), beyond the edges, and with soft borders, on a small random model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from modules.imaging.grid import Tiles as Grid
from modules.pipeline.soft import percentile
from modules.schema.errors import BadRequest
from modules.schema.events import ImageReady, Progress
from modules.schema.request import Loopback, Outpaint, Soft, Source, Tiles
from tests.pipeline.conftest import Hand, Studio
from tests.pipeline.test_img2img import array, disc, from_picture, keep, picture


def test_tiles_joined_unchanged_are_the_picture(test_seed: int) -> None:
    rng = np.random.default_rng(test_seed)
    for _ in range(20):
        size, tile = (tuple(int(v) for v in rng.integers(low, high, 2)) for low, high in ((20, 150), (20, 90)))
        image = picture(test_seed, size)  # type: ignore[arg-type]
        grid = Grid.over(size, tile, int(rng.integers(0, 19)))  # type: ignore[arg-type]
        assert np.abs(np.asarray(grid.joined(grid.cut(image))).astype(int) - np.asarray(image)).max() <= 1


def test_sd_upscale_enlarges_and_draws_every_tile(studio: Studio, test_seed: int) -> None:
    source = from_picture(
        studio, test_seed, size=(80, 72), denoising_strength=0.5, tiles=Tiles(upscaler="Lanczos", overlap=16)
    )
    (ready,) = studio.draw(source=source, batch_size=2, steps=4)
    assert (ready.record.width, ready.record.height) == (160, 144)
    assert "SD upscale overlap: 16, SD upscale upscaler: Lanczos" in ready.record.infotext
    told = [event for event in studio.events if isinstance(event, Progress)]
    assert told[-1].step == told[-1].steps == 5 * 3  # 3 x 3 tiles of 64, two at once, 3 steps of 4 at half strength


def test_no_seam_where_tiles_meet(studio: Studio, test_seed: int) -> None:
    """At strength 0 (one step at the lowest noise) tiles change little, and alike on both sides of where they meet."""
    flat = Image.new("RGB", (96, 64), (90, 140, 60))
    source = Source(images=(keep(studio, flat),), denoising_strength=0.0, tiles=Tiles(scale_factor=1, overlap=24))
    (ready,) = studio.draw(source=source)
    got = array(studio, ready)
    inside = np.abs(np.diff(got[:, 4:28], axis=1)).mean()
    assert np.abs(np.diff(got[:, 32:64], axis=1)).mean() <= 2 * inside + 1


def test_loopback_draws_each_picture_out_of_the_one_before(studio: Studio, test_seed: int) -> None:
    loops = Loopback(loops=3, final_denoising_strength=0.2, denoising_curve="Linear")
    source = from_picture(studio, test_seed, denoising_strength=0.6, loopback=loops)
    made = studio.draw(source=source, seed=5)
    assert [one.record.seed for one in made] == [5, 6, 7]
    strengths = [one.record.infotext.split("Denoising strength: ")[1].split(",")[0] for one in made]
    assert [round(float(s), 6) for s in strengths] == [0.6, 0.4, 0.2]
    assert "Final denoising strength: 0.2, Denoising curve: Linear" in made[0].record.infotext
    first = Image.fromarray(array(studio, made[0]).astype(np.uint8))
    (alone,) = studio.draw(source=Source(images=(keep(studio, first),), denoising_strength=0.4), seed=6)
    assert np.array_equal(array(studio, alone), array(studio, made[1]))


def test_a_loop_goes_on_where_an_earlier_attempt_ended(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, loopback=Loopback(loops=3))
    whole = studio.draw(source=source, seed=5)
    rest = studio.draw(Hand(finished=frozenset({0, 1})), source=source, seed=5)
    assert [one.record.index for one in rest] == [2]
    assert np.array_equal(array(studio, rest[0]), array(studio, whole[2]))


@pytest.mark.parametrize("sides", [(24, 0, 0, 0), (0, 17, 0, 0), (0, 0, 16, 0), (0, 0, 0, 40), (8, 16, 24, 9)])
def test_outpainting_adds_to_each_side_and_keeps_the_source(
    sides: tuple[int, int, int, int], studio: Studio, test_seed: int
) -> None:
    left, right, up, down = sides
    asked = Outpaint(left=left, right=right, up=up, down=down, mask_blur=4)
    (ready,) = studio.draw(source=from_picture(studio, test_seed, outpaint=asked))
    got, before = array(studio, ready), np.asarray(picture(test_seed)).astype(int)
    assert got.shape == (64 + up + down, 64 + left + right, 3)
    inside = 4 + 6  # the edge that is drawn anew, and its blur
    assert np.array_equal(
        got[up + inside : up + 64 - inside, left + inside : left + 64 - inside], before[inside:-inside, inside:-inside]
    )
    stretched = np.pad(before, ((up, down), (left, right), (0, 0)), mode="edge")
    new = np.ones(got.shape[:2], bool)
    new[up : up + 64, left : left + 64] = False
    assert (np.abs(got - stretched).max(axis=2) > 0)[new].mean() > 0.9


def test_soft_inpainting_leaves_what_is_far_from_the_mask_and_fades_between(studio: Studio, test_seed: int) -> None:
    soft = Soft(mask_influence=1)
    source = from_picture(
        studio, test_seed, {"mask_blur_x": 6, "mask_blur_y": 6, "soft": soft}, white=disc((128, 128), (40, 40, 88, 88)),
        size=(128, 128), denoising_strength=1.0,
    )  # fmt: skip
    (ready,) = studio.draw(source=source, width=128, height=128, steps=4)
    difference = np.abs(array(studio, ready) - np.asarray(picture(test_seed, (128, 128))).astype(int)).max(axis=2)
    assert difference[52:76, 52:76].mean() > 10 * difference[:, :12].mean()
    assert "Soft inpainting enabled: True, Soft inpainting schedule bias: 1," in ready.record.infotext


def test_percentiles_of_a_neighbourhood(test_seed: int) -> None:
    """Filters are checked by what they mean: bounds, constants, an order that shifts with the percentile."""
    values = np.random.default_rng(test_seed).random((9, 13))
    low, high = percentile(values, 0.0, 0.1), percentile(values, 0.9, 1.0)
    assert (low < high).all()
    assert low.min() >= values.min()
    assert high.max() <= values.max()
    assert np.allclose(percentile(np.full((5, 5), 3.0), 0.25, 0.75), 3.0)


def test_what_does_not_go_together_is_said(studio: Studio, test_seed: int) -> None:
    def refused(match: str, **fields: object) -> None:
        with pytest.raises(BadRequest, match=match):
            studio.draw(source=from_picture(studio, test_seed, **fields))  # type: ignore[arg-type]

    refused("cannot be combined", tiles=Tiles(overlap=16), loopback=Loopback())
    refused("takes no mask", mask={}, outpaint=Outpaint(left=8))
    refused("at least one direction", outpaint=Outpaint())
    refused("leaves nothing", tiles=Tiles(overlap=64))
    refused("one of Aggressive, Linear, Lazy", loopback=Loopback(denoising_curve="nope"))


def test_a_stopped_loop_keeps_what_is_finished(studio: Studio, test_seed: int) -> None:
    hand = Hand(skip_at=lambda event: isinstance(event, ImageReady) and event.record.index == 0)
    made = studio.draw(hand, source=from_picture(studio, test_seed, loopback=Loopback(loops=3)))
    assert [one.record.index for one in made] == [0, 2]


def test_a_picture_names_its_parents(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, {})
    assert source.mask is not None
    (ready,) = studio.draw(source=source)
    assert ready.record.parents == (source.images[0], source.mask.image)
    pair = tuple(keep(studio, picture(test_seed + k)) for k in range(2))
    assert [one.record.parents for one in studio.draw(source=Source(images=pair))] == [pair[:1], pair[1:]]
    assert studio.draw()[0].record.parents == ()
