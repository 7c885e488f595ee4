"""Pictures out of pictures: sources, masks, sizes, on a small random model."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.imaging import inputs
from modules.prompt.infotext import parse
from modules.schema.errors import BadFile, BadRequest, Cancelled, NotFound
from modules.schema.events import ImageReady, Progress, Warned
from modules.schema.request import Hires, Mask, Soft, Source
from tests.pipeline.conftest import Hand, Studio

Pixels = Callable[[Studio, ImageReady], bytes]


def keep(studio: Studio, image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return inputs.keep(studio.folders.inputs, out.getvalue())


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Coloured blocks of 8 pixels."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-size[1] // 8), -(-size[0] // 8), 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)[: size[1], : size[0]])


def disc(size: tuple[int, int] = (64, 64), box: tuple[int, int, int, int] = (16, 16, 40, 40)) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def array(studio: Studio, ready: ImageReady) -> np.ndarray:
    with Image.open(studio.folders.data / str(ready.record.path)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def from_picture(studio: Studio, seed: int, mask: dict[str, Any] | None = None, **fields: Any) -> Source:
    size = fields.pop("size", (64, 64))
    white = fields.pop("white", None)
    if mask is not None:
        fields["mask"] = Mask(image=keep(studio, white or disc(size)), **mask)
    return Source(images=(keep(studio, picture(seed, size)),), **fields)


def test_strength_decides_how_far_the_picture_goes(studio: Studio, test_seed: int) -> None:
    def drawn(strength: float) -> np.ndarray:
        (ready,) = studio.draw(source=from_picture(studio, test_seed, denoising_strength=strength), steps=8)
        return array(studio, ready)

    still, near, far = drawn(0.0), drawn(0.3), drawn(0.9)
    assert np.abs(near - still).mean() < np.abs(far - still).mean()


@pytest.mark.parametrize(("exact", "steps"), [(False, 5), (True, 8)])
def test_steps_are_the_strengths_share_or_all(exact: bool, steps: int, studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, denoising_strength=0.5)
    studio.draw(source=source, steps=8, override_settings={"img2img_fix_steps": exact})
    told = [event for event in studio.events if isinstance(event, Progress)]
    assert {event.steps for event in told} == {steps}
    assert sorted({event.step for event in told}) == list(range(steps + 1))


@pytest.mark.parametrize("mask", [None, {"inpainting_fill": 2}, {"inpainting_fill": 0, "inpaint_full_res": True}])
def test_picture_of_a_batch_equals_that_seed_alone(
    mask: dict[str, Any] | None, studio: Studio, pixels: Pixels, test_seed: int
) -> None:
    source = from_picture(studio, test_seed, mask)
    together = studio.draw(source=source, seed=5, batch_size=3, n_iter=2, sampler="DPM++ SDE")
    for k in (1, 4):
        (alone,) = studio.draw(source=source, seed=5 + k, sampler="DPM++ SDE")
        assert pixels(studio, alone) == pixels(studio, together[k])


@pytest.mark.parametrize(
    "sampler", ["Euler a", "DDIM", "UniPC", "DDIM CFG++", "DPM++ 2M CFG++", "LCM", "TCD", "Restart"]
)
@pytest.mark.parametrize("full", [False, True])
def test_what_the_mask_leaves_stays_bit_for_bit(sampler: str, full: bool, studio: Studio, test_seed: int) -> None:
    source = from_picture(
        studio, test_seed, {"inpaint_full_res": full, "inpaint_full_res_padding": 4, "mask_blur_x": 2, "mask_blur_y": 2}
    )
    (ready,) = studio.draw(source=source, sampler=sampler, steps=4)
    got, before = array(studio, ready), np.asarray(picture(test_seed)).astype(int)
    changed = np.abs(got - before).max(axis=2) > 0
    assert changed[20:36, 20:36].mean() > 0.9
    outside = np.ones((64, 64), bool)
    outside[11:45, 11:45] = False
    assert not changed[outside].any()


def test_inverting_the_mask_draws_the_rest(studio: Studio, test_seed: int) -> None:
    mask = {"inpainting_mask_invert": True, "mask_blur_x": 0, "mask_blur_y": 0}
    (ready,) = studio.draw(source=from_picture(studio, test_seed, mask))
    got, before = array(studio, ready), np.asarray(picture(test_seed)).astype(int)
    assert np.array_equal(got[16:40, 16:40], before[16:40, 16:40])
    assert (np.abs(got - before).max(axis=2) > 0)[45:, 45:].mean() > 0.9


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize(("given", "asked"), [((90, 50), (72, 88)), ((33, 77), (65, 71)), ((64, 64), (64, 96))])
def test_any_source_and_any_size(
    mode: int, given: tuple[int, int], asked: tuple[int, int], studio: Studio, test_seed: int
) -> None:
    for mask in (None, {"inpainting_fill": 3}):
        source = from_picture(studio, test_seed, mask, size=given, resize_mode=mode, denoising_strength=0.2)
        (ready,) = studio.draw(source=source, width=asked[0], height=asked[1])
        assert (ready.record.width, ready.record.height) == asked


def test_only_masked_keeps_the_sources_size(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, {"inpaint_full_res": True}, size=(101, 83))
    (ready,) = studio.draw(source=source)
    assert (ready.record.width, ready.record.height) == (101, 83)
    assert "Inpaint area: Only masked, Masked area padding: 32" in ready.record.infotext


def test_an_empty_mask_and_a_foreign_one_get_a_sentence(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, {"inpaint_full_res": True}, white=Image.new("L", (64, 64)))
    (ready,) = studio.draw(source=source)
    assert any(isinstance(event, Warned) and "mask is empty" in event.message for event in studio.events)
    assert "Inpaint area" not in ready.record.infotext
    source = from_picture(studio, test_seed, {}, white=disc((30, 30), (5, 5, 20, 20)))
    assert len(studio.draw(source=source)) == 1
    assert any(isinstance(event, Warned) and "30x30" in event.message for event in studio.events)


def test_several_sources_are_drawn_as_one_batch(studio: Studio, pixels: Pixels, test_seed: int) -> None:
    names = [keep(studio, picture(test_seed + k)) for k in range(3)]
    together = studio.draw(source=Source(images=tuple(names)), seed=9)
    assert len(together) == 3
    (alone,) = studio.draw(source=Source(images=(names[2],)), seed=11)
    assert pixels(studio, alone) == pixels(studio, together[2])


def test_pictures_out_of_pictures_have_their_own_folder(studio: Studio, test_seed: int) -> None:
    (ready,) = studio.draw(source=from_picture(studio, test_seed))
    assert str(ready.record.path).startswith("outputs/img2img-images/")
    assert "Denoising strength: 0.75" in ready.record.infotext


def test_noise_multiplier_and_extra_noise_change_the_picture_and_are_told(
    studio: Studio, pixels: Pixels, test_seed: int
) -> None:
    plain = studio.draw(source=from_picture(studio, test_seed))[0]
    strong = studio.draw(source=from_picture(studio, test_seed, initial_noise_multiplier=1.1))[0]
    more = studio.draw(source=from_picture(studio, test_seed), override_settings={"img2img_extra_noise": 0.2})[0]
    assert len({pixels(studio, one) for one in (plain, strong, more)}) == 3
    assert "Noise multiplier: 1.1" in strong.record.infotext
    assert "Extra noise: 0.2" in more.record.infotext


def test_what_cannot_be_started_from_is_said_in_a_sentence(studio: Studio, test_seed: int) -> None:
    with pytest.raises(BadRequest, match="missing"):
        studio.draw(source=Source())
    with pytest.raises(NotFound, match="send it again"):
        studio.draw(source=Source(images=("0" * 64,)))
    with pytest.raises(BadRequest, match="source has its own size"):
        studio.draw(source=from_picture(studio, test_seed), hires=Hires())
    with pytest.raises(NotFound, match="No upscaler"):
        studio.draw(source=from_picture(studio, test_seed), override_settings={"upscaler_for_img2img": "nope"})
    name = keep(studio, picture(test_seed))
    (studio.folders.inputs / name).write_bytes(b"broken")
    with pytest.raises(BadFile):
        studio.draw(source=Source(images=(name,)))


def test_masks_and_what_was_before_are_kept_beside_a_picture(studio: Studio, pixels: Pixels, test_seed: int) -> None:
    wanted = ("save_mask", "save_mask_composite", "save_images_before_color_correction", "img2img_color_correction")
    source = from_picture(studio, test_seed, {"mask_blur_x": 0, "mask_blur_y": 0})
    (ready,) = studio.draw(source=source, override_settings=dict.fromkeys(wanted, True))
    path = studio.folders.data / str(ready.record.path)
    beside = {file.name.removeprefix(f"{path.stem}-"): file for file in path.parent.glob(f"{path.stem}-*")}
    assert sorted(beside) == ["before-color-correction.png", "mask-composite.png", "mask.png"]
    white = np.asarray(disc()) == 255
    with Image.open(beside["mask.png"]) as mask, Image.open(beside["mask-composite.png"]) as composite:
        assert ((np.asarray(mask.convert("L")) == 255) == white).all()
        assert ((np.asarray(composite)[..., 3] == 255) == white).all()
        assert (np.asarray(composite)[white][:, :3] == array(studio, ready)[white]).all()
    (plain,) = studio.draw(source=source)
    with Image.open(beside["before-color-correction.png"]) as before:
        assert before.convert("RGB").tobytes() == pixels(studio, plain) != pixels(studio, ready)


def test_the_source_is_kept_by_its_hash_and_the_infotext_names_it(studio: Studio, test_seed: int) -> None:
    wish = {"save_init_img": True}
    source = from_picture(studio, test_seed)
    (plain,) = studio.draw(source=source)
    assert "Init image hash" not in plain.record.infotext
    hashes = [hashlib.md5(picture(test_seed + k).tobytes()).hexdigest() for k in range(2)]
    pair = Source(images=tuple(keep(studio, picture(test_seed + k)) for k in range(2)))
    for _ in range(2):  # once more: what is there is left as it is
        made = studio.draw(source=pair, override_settings=wish)
        assert [parse(one.record.infotext).fields["Init image hash"] for one in made] == hashes
    kept = studio.folders.data / "outputs/init-images"
    assert sorted(path.stem for path in kept.iterdir()) == sorted(hashes)
    with Image.open(kept / f"{hashes[1]}.png") as image:
        assert image.tobytes() == picture(test_seed + 1).tobytes()
    (kept / f"{hashes[0]}.png").unlink()
    (kept / f"{hashes[1]}.png").unlink()
    kept.rmdir()
    kept.write_text("in the way")
    assert len(studio.draw(source=source, override_settings=wish)) == 1
    assert any(isinstance(event, Warned) and "is not a folder" in event.message for event in studio.events)
    kept.unlink()


@pytest.mark.parametrize("mask", [{}, {"inpaint_full_res": True}, {"soft": Soft()}])
def test_a_stopped_picture_lies_in_its_place(mask: dict[str, Any], studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, mask, size=(96, 80), denoising_strength=1.0)
    with pytest.raises(Cancelled):
        studio.draw(
            Hand(cancel_at=lambda event: isinstance(event, Progress) and event.step == 2),
            source=source, width=96, height=80, steps=6, override_settings={"save_incomplete_images": True},
        )  # fmt: skip
    (ready,) = studio.pictures
    got, before = array(studio, ready), np.asarray(picture(test_seed, (96, 80))).astype(int)
    assert (np.abs(got - before).max(axis=2) > 0)[20:36, 20:36].mean() > 0.9
    if "soft" not in mask:
        assert np.array_equal(got[70:], before[70:])


def test_masks_are_shown_after_their_pictures_and_not_saved(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, {"mask_blur_x": 0, "mask_blur_y": 0})
    wanted = ("return_mask", "return_mask_composite")
    drawn = studio.draw(source=source, n_iter=2, override_settings=dict.fromkeys(wanted, True))
    first, second, *masks = sorted(drawn, key=lambda one: one.record.index)
    assert [one.record.role for one in (first, second)] == ["picture"] * 2
    assert [(one.record.role, one.record.path, one.record.seed) for one in masks] == [
        ("mask", None, seed) for seed in (first.record.seed, second.record.seed) for _ in wanted
    ]
    white = np.asarray(disc()) == 255
    shown = [Image.open(io.BytesIO(one.data or b"")) for one in masks]
    assert [((np.asarray(mask.convert("L")) == 255) == white).all() for mask in shown[::2]] == [True, True]
    assert [((np.asarray(alone)[..., 3] == 255) == white).all() for alone in shown[1::2]] == [True, True]
    assert (np.asarray(shown[3])[white][:, :3] == array(studio, second)[white]).all()
    path = studio.folders.data / str(first.record.path)
    assert list(path.parent.glob(f"{path.stem}-*")) == []


def test_the_picture_before_hires_fix_is_kept_beside(studio: Studio, pixels: Pixels) -> None:
    (ready,) = studio.draw(hires=Hires(hr_scale=2), override_settings={"save_images_before_highres_fix": True})
    path = studio.folders.data / str(ready.record.path)
    (plain,) = studio.draw()
    with Image.open(path.with_name(f"{path.stem}-before-highres-fix.png")) as before:
        assert before.size == (64, 64)
        assert before.convert("RGB").tobytes() == pixels(studio, plain)
