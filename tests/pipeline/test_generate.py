"""From a request to saved pictures, on a small random model."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modules.imaging.metadata import read_infotext
from modules.prompt import infotext
from modules.sampling.table import SAMPLER_NAMES
from modules.schema.errors import BadRequest, Cancelled, NotANumber, NotFound
from modules.schema.events import ImageReady, Preview, Progress, Warned
from modules.schema.request import Hires
from modules.schema.settings import Preview as PreviewSettings
from modules.schema.settings import Saving, Settings
from modules.schema.version import VERSION
from modules.weights import hashing
from tests.pipeline.conftest import Hand, Studio

Pixels = Callable[[Studio, ImageReady], bytes]


def test_a_picture_is_saved_with_the_infotext_that_draws_it_again(studio: Studio, pixels: Pixels) -> None:
    (first,) = studio.draw(prompt="a (red:1.2) house", negative_prompt="fog", seed=77, cfg_scale=6, sampler="Euler a")
    path = studio.folders.data / str(first.record.path)
    assert path.parent.parent == studio.folders.data / "outputs" / "txt2img-images"
    with Image.open(path) as image:
        assert image.size == (64, 64)
        text = read_infotext(image)
    assert text is not None
    assert text == first.record.infotext
    read = infotext.read(text)
    assert (read.prompt, read.negative_prompt) == ("a (red:1.2) house", "fog")
    assert {k: read.fields[k] for k in ("Steps", "Sampler", "Seed", "Size", "Model", "CFG scale")} == {
        "Steps": "3", "Sampler": "Euler a", "Seed": "77", "Size": "64x64", "Model": "tiny", "CFG scale": "6",
    }  # fmt: skip
    (again,) = studio.draw(
        prompt=read.prompt, negative_prompt=read.negative_prompt, seed=int(str(read.fields["Seed"])), cfg_scale=6,
        sampler=str(read.fields["Sampler"]), scheduler=str(read.fields["Schedule type"]),
    )  # fmt: skip
    assert pixels(studio, again) == pixels(studio, first)
    assert again.record.path != first.record.path


def test_a_record_says_what_its_picture_was_drawn_with(studio: Studio) -> None:
    (exact,) = studio.draw(settings=Settings().with_options({"precision": "float32"}))
    (by_torch,) = studio.draw(
        settings=Settings().with_options({"precision": "float32", "cross_attention_optimization": "sub-quadratic"})
    )
    known = dict(exact.record.drawn_with)
    assert known["torch"] == torch.__version__
    assert (known["Easel"], known["denoiser"]) == (VERSION, "float32")
    assert f"{torch.get_num_threads()} threads" in known["device"]
    assert {name: value for name, value in by_torch.record.drawn_with if known[name] != value} == {
        "attention": "sub-quadratic"
    }


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_picture_of_a_batch_equals_that_seed_alone(sampler: str, studio: Studio, pixels: Pixels) -> None:
    together = studio.draw(sampler=sampler, seed=5, batch_size=3, steps=4, prompt="a [cat|dog] AND a house:0.7")
    for k in range(3):
        (alone,) = studio.draw(sampler=sampler, seed=5 + k, steps=4, prompt="a [cat|dog] AND a house:0.7")
        assert alone.record.seed == together[k].record.seed
        assert pixels(studio, alone) == pixels(studio, together[k])


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 72), (65, 127), (72, 104)])
def test_any_size_comes_out_as_asked(width: int, height: int, studio: Studio) -> None:
    (picture,) = studio.draw(width=width, height=height)
    with Image.open(studio.folders.data / str(picture.record.path)) as image:
        assert image.size == (width, height) == (picture.record.width, picture.record.height)


def test_without_hashes_an_infotext_has_none_and_no_file_is_read_for_them(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "sha256_of", None)
    (picture,) = studio.draw(settings=Settings().with_options({"hash_models": False}))
    assert infotext.read(picture.record.infotext).fields["Model"] == "tiny"


def test_seeds_count_up_and_variation_keeps_them(studio: Studio) -> None:
    assert [p.record.seed for p in studio.draw(n_iter=2, batch_size=2, seed=10)] == [10, 11, 12, 13]
    varied = studio.draw(n_iter=2, seed=10, subseed=3, subseed_strength=0.5)
    assert [p.record.seed for p in varied] == [10, 10]
    assert "Variation seed: 4, Variation seed strength: 0.5" in varied[1].record.infotext


def test_random_seed_is_told(studio: Studio, pixels: Pixels) -> None:
    (drawn,) = studio.draw(seed=-1)
    (again,) = studio.draw(seed=drawn.record.seed)
    assert pixels(studio, drawn) == pixels(studio, again)


def test_progress_rises_to_the_end_and_previews_show_the_picture_coming(studio: Studio) -> None:
    settings = Settings(preview=PreviewSettings(show_progress_every_n_steps=1))
    studio.draw(n_iter=2, steps=40, width=128, height=128, settings=settings)
    progress = [e for e in studio.events if isinstance(e, Progress)]
    assert [p.step for p in progress] == sorted(p.step for p in progress)
    assert (progress[-1].step, progress[-1].steps) == (80, 80)
    previews = [e for e in studio.events if isinstance(e, Preview)]
    assert previews
    with Image.open(io.BytesIO(previews[-1].data)) as image:
        assert image.format == "JPEG"
        assert image.size == (128, 128)


@pytest.mark.parametrize(("content", "cfg_scale"), [("Prompt", 1), ("Negative prompt", 0), ("Combined", 7)])
def test_previews_show_what_the_settings_ask_for(studio: Studio, content: str, cfg_scale: float) -> None:
    """At CFG scale 1 all of a picture is the prompt's, at 0 the negative prompt's."""

    def first(content: str, cfg_scale: float) -> np.ndarray:
        shown = {"show_progress_every_n_steps": 1, "live_preview_refresh_period": 0, "live_preview_content": content}
        studio.draw(
            steps=2, prompt="a red house", negative_prompt="snow", cfg_scale=cfg_scale,
            settings=Settings().with_options(shown),
        )  # fmt: skip
        data = next(event.data for event in studio.events if isinstance(event, Preview))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image).astype(int)

    alone = first("Combined", cfg_scale)
    assert np.abs(first(content, 7) - alone).max() <= 4  # rounding, and JPEG
    others = {"Combined", "Prompt", "Negative prompt"} - {content}
    assert all(np.abs(first(other, 7) - alone).max() > 4 for other in others)


@pytest.mark.parametrize("content", ["Prompt", "Combined"])
def test_a_preview_shows_the_whole_batch_or_its_first_picture(content: str, studio: Studio) -> None:
    def first(**fields: Any) -> np.ndarray:
        shown = {"show_progress_every_n_steps": 1, "live_preview_refresh_period": 0, "live_preview_content": content}
        settings = Settings().with_options(shown | {"show_progress_grid": fields.pop("grid", True)})
        studio.draw(steps=2, prompt="a red house", settings=settings, **fields)
        data = next(event.data for event in studio.events if isinstance(event, Preview))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image).astype(int)

    alone = [first(seed=5 + k) for k in range(2)]
    both = first(seed=5, batch_size=2)
    assert both.shape == (64, 128, 3)
    assert np.abs(both[:, :64] - alone[0]).mean() < 4 > np.abs(both[:, 64:] - alone[1]).mean()  # JPEG
    assert np.abs(alone[0] - alone[1]).mean() > 8
    assert np.array_equal(first(seed=5, batch_size=2, grid=False), alone[0])


def test_a_picture_is_saved_in_the_format_asked_for_with_a_text_beside_it(studio: Studio) -> None:
    settings = Settings().with_options({"samples_format": "webp", "webp_lossless": True, "save_txt": True})
    (made,) = studio.draw(seed=77, settings=settings)
    path = studio.folders.data / str(made.record.path)
    (plain,) = studio.draw(seed=77)
    with Image.open(path) as image, Image.open(studio.folders.data / str(plain.record.path)) as png:
        assert (image.format, read_infotext(image)) == ("WEBP", made.record.infotext)
        assert image.convert("RGB").tobytes() == png.convert("RGB").tobytes()
    assert path.with_suffix(".txt").read_text("utf-8") == f"{made.record.infotext}\n"


def test_an_infotext_leaves_out_what_the_owner_does_not_tell(studio: Studio) -> None:
    hidden: dict[str, Any] = dict.fromkeys(
        ("add_model_name_to_info", "add_model_hash_to_info", "add_version_to_infotext"), False
    )
    (plain,), (quiet,) = studio.draw(), studio.draw(settings=Settings().with_options(hidden))
    words = [", Model: tiny", ", Version: ", ", Model hash: "]
    assert [word in plain.record.infotext for word in words] == [True] * 3
    assert [word in quiet.record.infotext for word in words] == [False] * 3


def test_interrupt_takes_effect_at_the_next_step_and_keeps_what_is_finished(studio: Studio) -> None:
    hand = Hand(cancel_at=lambda e: isinstance(e, Progress) and e.step == 5)
    with pytest.raises(Cancelled):
        studio.draw(hand, n_iter=3, steps=3)
    assert [(p.record.incomplete, p.record.path is None) for p in studio.pictures] == [(False, False), (True, True)]
    assert max(e.step for e in studio.events if isinstance(e, Progress)) == 5
    assert (studio.folders.data / str(studio.pictures[0].record.path)).exists()


def test_skip_goes_on_with_the_next_picture(studio: Studio) -> None:
    hand = Hand(skip_at=lambda e: isinstance(e, Progress) and e.step == 4)
    pictures = studio.draw(hand, n_iter=3, steps=3)
    assert [(p.record.index, p.record.incomplete) for p in pictures] == [(0, False), (1, True), (2, False)]
    assert [p.record.path is None for p in pictures] == [False, True, False]


@pytest.mark.parametrize("hires", [None, Hires(hr_scale=2)])
@pytest.mark.parametrize("at", [1, 6])
def test_a_stopped_picture_is_saved_as_far_as_it_came_where_that_is_asked_for(
    at: int, hires: Hires | None, studio: Studio, pixels: Pixels
) -> None:
    wish = {"save_incomplete_images": True}
    made = {"steps": 8, "override_settings": wish, "hires": hires}
    (whole,) = studio.draw(**made)
    with pytest.raises(Cancelled):
        studio.draw(Hand(cancel_at=lambda e: isinstance(e, Progress) and e.step == at), batch_size=2, **made)
    first, second = studio.pictures
    assert [one.record.incomplete for one in (first, second)] == [True, True]
    assert pixels(studio, first) != pixels(studio, whole)
    assert (first.record.width, first.record.height) == (64, 64)  # the second pass had not begun
    shown = studio.draw(Hand(skip_at=lambda e: isinstance(e, Progress) and e.step == at), **made)
    assert [pixels(studio, one) for one in shown] == [pixels(studio, first)]


def test_skip_while_a_batch_is_decoded_keeps_what_is_finished(studio: Studio) -> None:
    pictures = studio.draw(Hand(skip_at=lambda e: isinstance(e, ImageReady)), batch_size=2, n_iter=2)
    assert [p.record.index for p in pictures] == [0, 2]


def test_a_repeated_job_draws_only_what_is_missing(studio: Studio, pixels: Pixels) -> None:
    whole = studio.draw(n_iter=3)
    rest = studio.draw(Hand(finished=frozenset({0, 1})), n_iter=3)
    assert [p.record.index for p in rest] == [2]
    assert pixels(studio, rest[0]) == pixels(studio, whole[2])


@pytest.mark.parametrize(
    ("request_fields", "error", "words"),
    [
        ({"sampler": "Eulerr"}, NotFound, "Euler"),
        ({"scheduler": "Carras"}, NotFound, "Karras"),
        ({"checkpoint": "tinny"}, NotFound, "tiny"),
        ({"width": 16384, "height": 16384}, BadRequest, "GiB"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, BadRequest, "CLIP_stop_at_last_layers"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(
    request_fields: dict[str, Any],
    error: type[Exception],
    words: str,
    studio: Studio,
    pixels: Pixels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(studio.engine, "facts", replace(studio.engine.facts, memory=8 * 1024**3))
    (before,) = studio.draw()
    with pytest.raises(error, match=words):
        studio.draw(**request_fields)
    (after,) = studio.draw()
    assert pixels(studio, before) == pixels(studio, after)


def test_a_picture_that_cannot_be_saved_is_handed_over_with_the_reason(studio: Studio, tmp_path: Path) -> None:
    blocked = tmp_path / "outputs"
    blocked.write_text("a file where the folder should be")
    settings = Settings(saving=Saving(outdir_txt2img_samples=str(blocked)))
    (picture,) = studio.draw(settings=settings)
    assert picture.record.path is None
    assert picture.record.problem
    assert picture.data is not None
    with Image.open(io.BytesIO(picture.data)) as image:
        assert read_infotext(image) == picture.record.infotext


def test_numbers_that_are_not_finite_are_named_and_no_picture_is_saved(studio: Studio, pixels: Pixels) -> None:
    folder = studio.folders.checkpoint_dirs[0]
    tensors = load_file(folder / "tiny.safetensors")
    broken = {k: t * float("nan") if k.endswith("out.2.weight") else t for k, t in tensors.items()}
    save_file(broken, folder / "zbroken.safetensors")
    (before,) = studio.draw(checkpoint="tiny")
    with pytest.raises(NotANumber, match="denoiser"):
        studio.draw(checkpoint="zbroken")
    assert not studio.pictures
    (after,) = studio.draw(checkpoint="tiny")
    assert pixels(studio, before) == pixels(studio, after)


def test_settings_of_one_job_do_not_reach_the_next(studio: Studio, pixels: Pixels) -> None:
    (plain,) = studio.draw(prompt="a (red:1.9) house")
    (ignored,) = studio.draw(prompt="a (red:1.9) house", override_settings={"emphasis": "Ignore"})
    (again,) = studio.draw(prompt="a (red:1.9) house")
    assert pixels(studio, plain) == pixels(studio, again) != pixels(studio, ignored)
    assert "Emphasis: Ignore" in ignored.record.infotext


def test_unknown_settings_of_a_request_are_ignored_and_named(studio: Studio) -> None:
    assert studio.draw(override_settings={"no_such": 1})
    assert any(isinstance(e, Warned) and "no_such" in e.message for e in studio.events)


def test_styles_are_merged_and_unknown_ones_named(studio: Studio) -> None:
    studio.folders.styles_files[0].write_text('name,prompt,negative_prompt\noil,"{prompt}, oil",photo\n')
    (picture,) = studio.draw(prompt="a cat", styles=("oil", "nope"))
    assert picture.record.infotext.startswith("a cat, oil\nNegative prompt: photo\n")
    assert any(isinstance(e, Warned) and "nope" in e.message for e in studio.events)


def test_network_tags_leave_the_prompt_and_say_so(studio: Studio, pixels: Pixels) -> None:
    (plain,) = studio.draw(prompt="a cat")
    (tagged,) = studio.draw(prompt="a cat<lora:ink:0.8>")
    assert pixels(studio, plain) == pixels(studio, tagged)
    assert any(isinstance(e, Warned) and "ink" in e.message for e in studio.events)
