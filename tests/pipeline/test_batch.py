"""Many pictures one after the other: sent, or from folders, each with what its own metadata tells."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.frontends.desk import OwnDesk
from modules.imaging.metadata import encode, read_infotext
from modules.schema.errors import BadRequest
from modules.schema.events import Progress, Warned
from modules.schema.request import Batch, Extras, GenerationRequest, Mask, Source
from tests.pipeline.conftest import Hand, Studio
from tests.pipeline.test_img2img import array, disc, keep, picture

NO_MASK = "0" * 64


@pytest.fixture
def folder(tmp_path: Path, test_seed: int) -> Path:
    """Three pictures, one of which tells how it was drawn, and something that is none."""
    place = tmp_path / "in"
    place.mkdir()
    told = "a blue cat\nNegative prompt: fog\nSteps: 4, Sampler: Heun, Schedule type: Karras, CFG scale: 3.5, Seed: 77"
    (place / "b 2.png").write_bytes(encode(picture(test_seed), told))
    picture(test_seed + 1).save(place / "b 10.png")
    picture(test_seed + 2).save(place / "a.jpg", quality=95)
    (place / "c.png").write_bytes(b"no picture")
    (place / "notes.txt").write_text("not one either")
    return place


def draw(studio: Studio, batch: Batch, hand: Hand | None = None, **fields: Any) -> list[Any]:
    source = Source(batch=batch, denoising_strength=0.5, **fields.pop("source", {}))
    return studio.draw(hand, source=source, prompt="a house", **fields)


def test_a_folder_is_drawn_in_order_and_results_are_called_after_their_sources(
    folder: Path, studio: Studio, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = draw(studio, Batch(input_dir=str(folder), output_dir=str(out)))
    assert [one.record.index for one in made] == [0, 1, 2]
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b 10.png", "b 2.png"]
    assert [Path(str(one.record.path)).stem for one in made] == ["a", "b 2", "b 10"], "numbers by their value"
    assert {one.record.seed for one in made} == {1}
    (said,) = [event.message for event in studio.events if isinstance(event, Warned)]
    assert said.startswith("c was passed over")
    steps = [event.step / event.steps for event in studio.events if isinstance(event, Progress)]
    assert steps == sorted(steps)
    # Each is what a job of its own would have drawn, and nothing is ever written over.
    with Image.open(folder / "b 10.png") as image:
        (alone,) = studio.draw(source=Source(images=(keep(studio, image),), denoising_strength=0.5), prompt="a house")
    assert np.array_equal(array(studio, alone), array(studio, made[2]))
    assert alone.record.parents == made[2].record.parents or len(made[2].record.parents) == 1
    draw(studio, Batch(input_dir=str(folder), output_dir=str(out)))
    assert "b 2-1.png" in {path.name for path in out.iterdir()}


def test_what_a_picture_tells_is_taken_as_far_as_asked(folder: Path, studio: Studio, tmp_path: Path) -> None:
    every = ("Prompt", "Negative prompt", "Seed", "CFG scale", "Sampler", "Steps")
    made = draw(studio, Batch(input_dir=str(folder), use_png_info=True, png_info_props=every))
    told = {one.record.index: one.record.infotext for one in made}
    assert told[1].startswith(
        "a house a blue cat\nNegative prompt: fog\nSteps: 4, Sampler: Heun, Schedule type: Karras"
    )
    assert "CFG scale: 3.5, Seed: 77" in told[1]
    assert told[2].startswith("a house\nSteps: 3, Sampler: Euler")
    made = draw(studio, Batch(input_dir=str(folder), use_png_info=True, png_info_props=("Seed",)))
    assert made[1].record.infotext.startswith("a house\nSteps: 3")
    assert made[1].record.seed == 77
    other = tmp_path / "told"
    other.mkdir()
    (other / "a.png").write_bytes(encode(picture(0), "x\nSteps: 2, Sampler: Euler, CFG scale: 7, Seed: 5"))
    asked = Batch(input_dir=str(folder), use_png_info=True, png_info_props=("Seed", "Steps"), png_info_dir=str(other))
    made = draw(studio, asked)
    assert [one.record.seed for one in made] == [5, 1, 1]
    with pytest.raises(BadRequest, match="cannot be taken"):
        draw(studio, Batch(input_dir=str(folder), png_info_props=("Size",)))


def test_every_picture_has_the_mask_of_its_name_or_the_only_one(
    folder: Path, studio: Studio, tmp_path: Path, test_seed: int
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    disc().save(masks / "a.png")
    Image.new("L", (64, 64), 0).save(masks / "b 2.png")
    source = {"mask": Mask(image=NO_MASK, mask_blur_x=0, mask_blur_y=0)}
    asked = Batch(input_dir=str(folder), inpaint_mask_dir=str(masks))
    one, two = draw(studio, asked, source=source)
    assert any(isinstance(e, Warned) and e.message.startswith("b 10 was passed over") for e in studio.events)
    with Image.open(folder / "b 2.png") as image:
        assert np.array_equal(array(studio, two), np.asarray(image.convert("RGB")))
    with Image.open(folder / "a.jpg") as image:
        before = np.asarray(image.convert("RGB")).astype(int)
    changed = (array(studio, one) != before).any(axis=2)
    assert changed[16:40, 16:40].mean() > 0.9
    changed[16:40, 16:40] = False
    assert not changed.any()
    assert len(one.record.parents) == 2
    (masks / "b 2.png").unlink()
    assert len(draw(studio, asked, source=source)) == 3
    with pytest.raises(BadRequest, match="inpaint"):
        draw(studio, asked)


def test_pictures_that_were_sent_are_drawn_one_by_one_and_those_finished_stay(
    studio: Studio, tmp_path: Path, test_seed: int
) -> None:
    images = tuple(keep(studio, picture(test_seed + k, (64 + 8 * k, 64))) for k in range(3))
    asked = Batch(output_dir=str(tmp_path), names=("one.png", "C:\\my\\two.jpg"))
    made = draw(studio, asked, source={"images": images}, n_iter=2)
    assert [one.record.index for one in made] == list(range(6))
    names = {Path(str(one.record.path)).name for one in made}
    assert {"one.png", "one-1.png", "two.png", "two-1.png"} < names
    hand = Hand(finished=frozenset({0, 1, 2}))
    rest = draw(studio, asked, hand, source={"images": images}, n_iter=2)
    assert [one.record.index for one in rest] == [3, 4, 5]
    assert np.array_equal(array(studio, rest[0]), array(studio, made[3]))
    stopped = Hand(skip_at=lambda event: isinstance(event, Progress) and event.text.startswith("Drawing"))
    studio.events = []
    assert len(draw(studio, asked, Hand(), source={"images": images[:1]})) == 1
    assert stopped.take_skip() is False


def test_extras_go_through_a_folder_too(folder: Path, studio: Studio, tmp_path: Path) -> None:
    out = tmp_path / "large"
    asked = Extras(upscaler_1="Nearest", upscaling_resize=2, flip=("Vertical",))
    made = studio.draw(source=Source(extras=asked, batch=Batch(input_dir=str(folder), output_dir=str(out))))
    assert [one.record.index for one in made] == list(range(6))
    assert sorted(path.name for path in out.iterdir()) == [
        "a-1.png", "a.png", "b 10-1.png", "b 10.png", "b 2-1.png", "b 2.png",
    ]  # fmt: skip
    assert any(isinstance(event, Warned) and "c was passed over" in event.message for event in studio.events)
    with Image.open(out / "b 2.png") as image:
        assert image.size == (128, 128)
        assert str(read_infotext(image)).startswith("a blue cat")
    again = studio.draw(
        Hand(finished=frozenset({0, 1, 2, 3})), source=Source(extras=asked, batch=Batch(input_dir=str(folder)))
    )
    assert [one.record.index for one in again] == [4, 5]


def test_pictures_of_extras_are_called_as_the_settings_say(folder: Path, studio: Studio) -> None:
    asked = Source(extras=Extras(upscaler_1="Nearest", upscaling_resize=2), batch=Batch(input_dir=str(folder)))
    for wish, name in (
        ({}, "b 2.png"), ({"use_upscaler_name_as_suffix": True}, "b 2-Nearest.png"),
        ({"use_original_name_batch": False}, "-large.png"),
    ):  # fmt: skip
        made = studio.draw(source=asked, override_settings=wish)
        assert Path(str(made[1].record.path)).name.endswith(name)


def test_what_cannot_be_gone_through_is_said(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no folder") as caught:
        draw(studio, Batch(input_dir=str(tmp_path / "nowhere")))
    assert caught.value.field == "input_dir"
    with pytest.raises(BadRequest, match="holds no pictures"):
        draw(studio, Batch(input_dir=str(tmp_path)))
    with pytest.raises(BadRequest, match="no pictures"):
        draw(studio, Batch())
    out = io.BytesIO()
    picture(1).save(out, "PNG")
    (tmp_path / "x.png").write_bytes(out.getvalue()[:200])
    with pytest.raises(Exception, match="damaged"):
        draw(studio, Batch(input_dir=str(tmp_path)))


def test_whoever_has_a_login_names_no_folders(tmp_path: Path) -> None:
    class Desk:
        submitted: GenerationRequest | None = None

        def __getattr__(self, name: str) -> None:
            """Everything else that a desk has."""

        def submit(self, request: GenerationRequest, *_: object) -> str:
            self.submitted = request
            return "job"

    desk = Desk()
    own = OwnDesk(desk, "ada")  # type: ignore[arg-type]
    for name in ("input_dir", "output_dir", "inpaint_mask_dir", "png_info_dir"):
        with pytest.raises(BadRequest, match="sits at it"):
            own.submit(GenerationRequest(source=Source(batch=Batch(**{name: str(tmp_path)}))))  # type: ignore[arg-type]
    assert desk.submitted is None
    assert own.submit(GenerationRequest(source=Source(images=("0" * 64,), batch=Batch(names=("a.png",))))) == "job"
