"""What extensions do to pictures, and that one that fails does nothing to them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.imaging.inputs import keep
from modules.pipeline import hooks as specs
from modules.pipeline.denoiser import Denoiser
from modules.pipeline.extensions import Library
from modules.pipeline.imports import imported
from modules.pipeline.run import Engine
from modules.prompt import infotext
from modules.schema.errors import BadFile, NotANumber
from modules.schema.events import ImageReady, Warned
from modules.schema.folders import Folders
from modules.schema.request import Hires, Loopback, Source, Tiles
from modules.schema.scripts import XyzPlot
from modules.schema.settings import Settings
from tests.extending import DARKER, SECTION, switched_on, write_extension
from tests.pipeline.conftest import Hand, Studio
from tests.weights.tiny import write_tiny_sd15


@pytest.fixture
def own(studio: Studio, tmp_path: Path) -> Iterator[Studio]:
    """The studio's model in an engine with an extensions folder of its own (`folders.extensions`)."""
    folders = dataclasses.replace(studio.folders, extensions=tmp_path / "extensions")
    assert folders.extensions is not None
    folders.extensions.mkdir()
    kept = studio.engine.extensions, studio.folders
    studio.engine.extensions = Library(folders.extensions, tmp_path / "mark")
    yield Studio(studio.engine, folders)
    studio.engine.extensions = kept[0]


def pixels_of(studio: Studio, picture: ImageReady) -> np.ndarray:
    return np.asarray(Image.open(studio.folders.data / str(picture.record.path)).convert("RGB"), dtype=np.int16)


def told(picture: ImageReady) -> dict[str, Any]:
    return dict(infotext.read(picture.record.infotext).fields)


def warnings_of(studio: Studio) -> list[str]:
    return [event.message for event in studio.events if isinstance(event, Warned)]


def put(studio: Studio, key: str, code: str, toml: str = "", **more: str) -> Path:
    assert studio.folders.extensions is not None
    return write_extension(studio.folders.extensions, key, code, toml, **more)


def test_after_decode_darkens_every_pixel_and_the_infotext_names_who_did(own: Studio) -> None:
    (plain,) = own.draw(prompt="a house")
    put(own, "darker", DARKER)
    (dark,) = own.draw(prompt="a house", settings=switched_on("darker"))
    before, after = pixels_of(own, plain), pixels_of(own, dark)
    assert (after == before // 2).all()
    assert (after[before > 0] < before[before > 0]).all()
    assert told(dark)["Extensions"] == "darker 1.2"
    assert "Extensions" not in told(plain)
    assert warnings_of(own) == []


def test_one_that_is_not_switched_on_does_nothing(own: Studio) -> None:
    put(own, "darker", "raise SystemExit(1)")
    (plain,) = own.draw(prompt="a house")
    for settings in (
        Settings(), switched_on("darker", disabled_extensions=("darker",)),
        switched_on("darker", disable_all_extensions="all"), switched_on("darker", disable_all_extensions="extra"),
        switched_on("other"),
    ):  # fmt: skip
        (again,) = own.draw(prompt="a house", settings=settings)
        assert (pixels_of(own, again) == pixels_of(own, plain)).all()
        assert told(again) == told(plain)
        assert warnings_of(own) == []


def test_one_that_needs_more_than_was_agreed_to_is_off(own: Studio) -> None:
    put(own, "darker", DARKER, 'needs = ["net", "disk"]\n')
    (plain,) = own.draw(settings=switched_on("darker", needs=("net",)))
    (dark,) = own.draw(settings=switched_on("darker", needs=("disk", "net", "models")))
    assert (pixels_of(own, dark) == pixels_of(own, plain) // 2).all()


def test_a_section_takes_part_where_it_is_on_with_its_values(own: Studio) -> None:
    put(own, "darker", DARKER, SECTION, name="Dark room")
    settings = switched_on("darker")
    (plain,) = own.draw(settings=settings)
    (dark,) = own.draw(settings=settings, extensions={"darker": {"strength": "0.25"}})
    (usual,) = own.draw(settings=settings, extensions={"darker": {}})
    assert "Extensions" not in told(plain)
    assert (pixels_of(own, dark) == (pixels_of(own, plain) * 0.75).astype(np.int16)).all()
    assert told(dark)["Dark room Strength"] == "0.25"
    assert (pixels_of(own, usual) == pixels_of(own, plain) // 2).all()


def test_sections_that_cannot_be_heeded_are_told_and_cost_nothing(own: Studio) -> None:
    put(own, "darker", DARKER, SECTION)
    (plain,) = own.draw()
    asked = {"darker": {"strength": 7}, "gone": {}}
    (again,) = own.draw(settings=switched_on("darker"), extensions=asked)
    assert (pixels_of(own, again) == pixels_of(own, plain)).all()
    assert warnings_of(own) == [
        "darker: Strength is a number from 0 to 1. It was left out.",
        "No extension 'gone' is switched on; its section was left out.",
    ]


def test_settings_of_its_own_arrive_checked(own: Studio) -> None:
    toml = SECTION.replace("[section]", "").replace("[[section.fields]]", "[[settings]]")
    put(own, "darker", DARKER.replace("own.values", "own.settings"), toml)
    (plain,) = own.draw()
    kept: dict[str, Any] = {"darker": {"strength": 0.25, "old": 1}}
    (dark,) = own.draw(settings=switched_on("darker", extension_settings=kept))
    assert (pixels_of(own, dark) == (pixels_of(own, plain) * 0.75).astype(np.int16)).all()
    (usual,) = own.draw(settings=switched_on("darker", extension_settings={"darker": {"strength": "dark"}}))
    assert (pixels_of(own, usual) == pixels_of(own, plain) // 2).all()


HALF = """
@hookimpl
def wrap_denoiser(denoise, batch):
    return lambda x, sigma: denoise(x, sigma, cfg_scale=batch.plan.request.cfg_scale / 2)
"""


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Heun", "DDIM", "DDIM CFG++", "Euler a"])
def test_half_the_guidance_by_a_wrapped_denoiser_is_half_the_guidance(sampler: str, own: Studio) -> None:
    put(own, "half", HALF)
    asked = {"prompt": "a [cat:dog:0.5] house", "negative_prompt": "fog", "sampler": sampler, "steps": 4}
    (whole,) = own.draw(**asked, cfg_scale=8)
    (half,) = own.draw(**asked, cfg_scale=4)
    (wrapped,) = own.draw(**asked, cfg_scale=8, settings=switched_on("half"))
    assert (pixels_of(own, wrapped) == pixels_of(own, half)).all()
    assert (pixels_of(own, wrapped) != pixels_of(own, whole)).any()
    assert told(wrapped)["Extensions"] == "half 1.2"


def test_a_wrapper_may_call_as_often_as_it_likes_and_steps_are_counted_once(own: Studio) -> None:
    put(
        own,
        "twice",
        """
        @hookimpl
        def wrap_denoiser(denoise):
            return lambda x, sigma: (denoise(x, sigma) + denoise(x, sigma)) / 2
    """,
    )
    asked = {"prompt": "a [cat:dog:2] [a|b]", "steps": 5}
    (plain,) = own.draw(**asked)
    (twice,) = own.draw(**asked, settings=switched_on("twice"))
    assert (pixels_of(own, plain) == pixels_of(own, twice)).all()


def test_pictures_of_a_batch_are_those_seeds_alone_with_extensions_too(own: Studio) -> None:
    put(own, "half", HALF + DARKER)
    put(
        own,
        "noise",
        """
        import torch

        @hookimpl
        def after_sampling(latents, batch):
            rows = [torch.randn(row.shape, generator=torch.Generator().manual_seed(seed)) for row, seed in
                    zip(latents, batch.seeds)]
            return latents + 0.1 * torch.stack(rows)
    """,
    )
    settings = switched_on("half", "noise")
    together = own.draw(seed=5, batch_size=2, n_iter=2, settings=settings, prompt="a cat")
    assert len(together) == 4
    for k in (0, 1, 3):
        (alone,) = own.draw(seed=5 + k, settings=settings, prompt="a cat")
        assert (pixels_of(own, alone) == pixels_of(own, together[k])).all()
        assert told(alone)["Extensions"] == "half 1.2, noise 1.2"


EVERYTHING = {
    "amend_request": ("request", 'request.model_copy(update={"steps": 5})'),
    "expand_prompt": ("prompt, negative_prompt, seed", '(prompt + " by night", negative_prompt)'),
    "amend_plan": ("plan", 'plan.model_copy(update={"sampler": "Heun"})'),
    "wrap_denoiser": ("denoise", "lambda x, sigma: denoise(x, sigma) * 0.9"),
    "after_sampling": ("latents", "latents * 0.9"),
    "after_decode": ("image", "image.point(lambda v: v // 2)"),
    "before_save": ("image", "image.resize((32, 48))"),
}


@pytest.mark.parametrize("hook", EVERYTHING)
def test_each_hook_changes_the_picture_and_is_told(hook: str, own: Studio) -> None:
    takes, answer = EVERYTHING[hook]
    put(own, "one", f"@hookimpl\ndef {hook}({takes}):\n    return {answer}\n")
    (plain,) = own.draw(prompt="a house")
    (changed,) = own.draw(prompt="a house", settings=switched_on("one"))
    assert warnings_of(own) == []
    assert told(changed)["Extensions"] == "one 1.2"
    a, b = pixels_of(own, plain), pixels_of(own, changed)
    assert a.shape != b.shape or (a != b).any()
    expected = {"amend_request": ("Steps", "5"), "amend_plan": ("Sampler", "Heun"), "before_save": ("Size", "64x64")}
    if hook in expected:
        key, value = expected[hook]
        assert told(changed)[key] == value
    if hook == "expand_prompt":
        assert infotext.read(changed.record.infotext).prompt == "a house by night"


@pytest.mark.parametrize("hook", [*EVERYTHING, "on_step", "after_job"])
@pytest.mark.parametrize("wrong", ["raise ValueError('no')", "return 42", "raise SystemExit(3)"])
def test_a_hook_that_fails_leaves_the_picture_bit_for_bit(hook: str, wrong: str, own: Studio) -> None:
    if wrong == "return 42" and hook in ("on_step", "after_job"):
        return  # what they answer is not looked at
    put(own, "bad", f"@hookimpl\ndef {hook}():\n    {wrong}\n")
    (plain,) = own.draw(prompt="a house")
    (again,) = own.draw(prompt="a house", settings=switched_on("bad"))
    assert (pixels_of(own, again) == pixels_of(own, plain)).all()
    assert told(again) == told(plain)
    (warning,) = warnings_of(own)
    assert f"The extension bad failed in {hook} (" in warning


@pytest.mark.parametrize(
    "end",
    [
        "raise ValueError('no')", "return x[:, :1]", "return x * float('nan')", "return None",
        "return denoise(x[:, :1], sigma)",
    ],
)  # fmt: skip
def test_one_that_fails_in_the_middle_of_a_picture_is_drawn_without(end: str, own: Studio) -> None:
    put(
        own,
        "bad",
        f"""
        calls = []

        @hookimpl
        def amend_request(request):
            return request.model_copy(update={{"cfg_scale": 1}})

        @hookimpl
        def wrap_denoiser(denoise):
            def wrapped(x, sigma):
                calls.append(sigma)
                found = denoise(x * 1.1, sigma)
                if len(calls) < 3:
                    return found
                {end}
            return wrapped
    """,
    )
    pictures = own.draw(prompt="a house", n_iter=2, batch_size=2)
    again = own.draw(prompt="a house", n_iter=2, batch_size=2, settings=switched_on("bad"))
    assert len(again) == 4
    for one, other in zip(pictures, again):
        assert (pixels_of(own, one) == pixels_of(own, other)).all()
        assert told(one) == told(other)
    assert len(warnings_of(own)) == 1


def test_one_that_fails_late_spares_what_others_and_it_have_finished(own: Studio) -> None:
    put(
        own,
        "late",
        """
        @hookimpl
        def after_decode(image, picture):
            if picture.number == 1:
                raise OSError("full")
            return image.point(lambda v: v // 2)
    """,
    )
    plain = own.draw(batch_size=3)
    after = own.draw(batch_size=3, settings=switched_on("late"))
    assert [told(one).get("Extensions") for one in after] == ["late 1.2", None, None]
    assert (pixels_of(own, after[0]) == pixels_of(own, plain[0]) // 2).all()
    for k in (1, 2):
        assert (pixels_of(own, after[k]) == pixels_of(own, plain[k])).all()
    assert warnings_of(own) == [
        "The extension late failed in after_decode (OSError: full); the picture is drawn without it."
    ]


def test_errors_of_the_engine_are_not_blamed_on_a_wrapper(own: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    put(own, "half", HALF)

    def short(*_: object) -> None:
        raise NotANumber("Something is not finite.")

    with monkeypatch.context() as patched:
        patched.setattr(Denoiser, "__call__", short)
        with pytest.raises(NotANumber):
            own.draw(settings=switched_on("half"))
        assert warnings_of(own) == []
    (stopped,) = own.draw(
        Hand(skip_at=lambda event: getattr(event, "step", 0) == 2), settings=switched_on("half"), steps=4
    )
    assert stopped.record.incomplete
    assert told(stopped)["Extensions"] == "half 1.2"
    assert warnings_of(own) == []


def test_what_is_given_may_be_spoilt_without_harm(own: Studio) -> None:
    put(
        own,
        "spoiler",
        """
        @hookimpl
        def on_step(step, denoised, sigma, batch):
            denoised.zero_()

        @hookimpl
        def after_sampling(latents):
            latents.zero_()

        @hookimpl
        def after_decode(image):
            image.paste((0, 0, 0), (0, 0, 64, 64))
    """,
    )
    (plain,) = own.draw()
    (again,) = own.draw(settings=switched_on("spoiler"))
    assert (pixels_of(own, again) == pixels_of(own, plain)).all()


def test_hooks_are_asked_in_the_order_of_their_folders_but_for_first_and_last(own: Studio) -> None:
    for key, how in (("b", ""), ("a", "(trylast=True)"), ("c", "(tryfirst=True)"), ("d", "")):
        put(own, key, f"@hookimpl{how}\ndef expand_prompt(prompt, negative_prompt):\n    return prompt + '{key}', ''\n")
    (picture,) = own.draw(prompt="x", settings=switched_on("d", "c", "b", "a"))
    assert infotext.read(picture.record.infotext).prompt == "xcbda"


def test_every_step_and_the_end_of_a_job_are_told(own: Studio) -> None:
    place = put(
        own,
        "watch",
        """
        def say(own, *words):
            with open(own.folder / "said.txt", "a") as file:
                print(*words, file=file)

        @hookimpl
        def on_step(step, denoised, sigma, batch, own):
            say(own, step, tuple(denoised.shape), batch.second, batch.size, batch.seeds)

        @hookimpl
        def after_job(request, records, own):
            say(own, request.seed, len(records), all(record.path for record in records))
    """,
    )
    own.draw(steps=2, batch_size=2, hires=Hires(hr_scale=1.5, denoising_strength=1.0), settings=switched_on("watch"))
    lines = (place / "said.txt").read_text().splitlines()
    assert lines[:2] == ["0 (2, 4, 8, 8) False (64, 64) (1, 2)", "1 (2, 4, 8, 8) False (64, 64) (1, 2)"]
    assert lines[2].startswith("0 (2, 4, 12, 12) True (96, 96)")
    assert lines[-1] == "1 2 True"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def broken(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name', line 4"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("1 / 0", "ZeroDivisionError: division by zero, line 4"),
        ("@hookimpl\ndef after_lunch(image):\n    pass", "unknown hook 'after_lunch'"),
        ("@hookimpl\ndef after_decode(picture, colour):\n    pass", "colour"),
        ("@hookimpl(wrapper=True)\ndef after_decode(image):\n    yield", "wrapper"),
    ],
)
def test_code_that_cannot_be_loaded_is_told_with_its_reason(code: str, reason: str, own: Studio) -> None:
    put(own, "broken", code)
    (plain,) = own.draw()
    (again,) = own.draw(settings=switched_on("broken"))
    assert (pixels_of(own, again) == pixels_of(own, plain)).all()
    (warning,) = warnings_of(own)
    assert warning.startswith("The extension broken is left out: extension.py")
    assert reason in warning
    assert reason in own.engine.extensions.problems["broken"]
    assert reason in own.engine.stats()["extensions"]["broken"]  # type: ignore[index]


def test_an_import_that_never_ends_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "extension.py"
    path.write_text("import time\nwhile True:\n    time.sleep(0.01)\n")
    with pytest.raises(BadFile, match=r"not imported within 0\.1 seconds"):
        imported("slow", path, 0.1)


def test_one_that_ended_the_process_while_it_was_loaded_is_not_loaded_again(own: Studio, tmp_path: Path) -> None:
    put(own, "killer", DARKER)
    (tmp_path / "mark").write_text("killer")
    own.draw(settings=switched_on("killer"))
    assert "ended the drawing process" in warnings_of(own)[0]


def test_neighbouring_files_can_be_imported(own: Studio) -> None:
    put(own, "with help-er", "from .tool import half\n\n@hookimpl\ndef after_decode(image):\n    return half(image)\n",
        tool="def half(image):\n    return image.point(lambda v: v // 2)\n")  # fmt: skip
    (plain,) = own.draw()
    (dark,) = own.draw(settings=switched_on("with help-er"))
    assert (pixels_of(own, dark) == pixels_of(own, plain) // 2).all()


def test_sd_upscale_is_handed_over_joined_and_a_loop_each_time(own: Studio, test_seed: int) -> None:
    place = put(
        own,
        "sizes",
        """
        @hookimpl
        def after_decode(image, picture, own):
            with open(own.folder / "said.txt", "a") as file:
                print(*image.size, picture.number, file=file)
            return image.point(lambda v: v // 2)
    """,
    )
    noise = np.random.default_rng(test_seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    name = keep(own.folders.inputs, file.getvalue())
    tiles = Source(
        images=(name,), denoising_strength=0.4, tiles=Tiles(overlap=16, scale_factor=1.5, upscaler="Lanczos")
    )
    (joined,) = own.draw(source=tiles, settings=switched_on("sizes"))
    assert (place / "said.txt").read_text().split("\n") == ["96 96 0", ""]
    assert told(joined)["Extensions"] == "sizes 1.2"
    assert pixels_of(own, joined).max() <= 127
    loops = Source(images=(name,), denoising_strength=0.4, loopback=Loopback(loops=2))
    assert len(own.draw(source=loops, settings=switched_on("sizes"))) == 2
    assert (place / "said.txt").read_text().split("\n")[1:] == ["64 64 0", "64 64 1", ""]


def test_scripts_draw_each_picture_with_extensions(own: Studio) -> None:
    put(own, "darker", DARKER)
    script = XyzPlot(x_type="Steps", x_values="2,3", include_lone_images=True, draw_legend=False)
    plain = own.draw(script=script)
    dark = own.draw(script=script, settings=switched_on("darker"))
    assert len(plain) == len(dark) == 3
    for one, other in zip(plain[:2], dark[:2]):
        if one.record.role == "grid":
            continue
        assert (pixels_of(own, other) == pixels_of(own, one) // 2).all()
        assert told(other)["Extensions"] == "darker 1.2"


def test_a_worker_learns_of_failures_while_it_warms_up(tmp_path: Path, test_seed: int) -> None:
    folders = Folders.under(tmp_path)
    write_tiny_sd15(folders.checkpoint_dirs[0] / "tiny.safetensors", test_seed)
    assert folders.extensions is not None
    write_extension(folders.extensions, "broken", "1 / 0")
    engine = Engine(folders)
    try:
        engine.warm(switched_on("broken"))
        assert "ZeroDivisionError" in engine.stats()["extensions"]["broken"]  # type: ignore[index]
    finally:
        engine.close()


def test_every_hook_has_a_docstring_that_says_what_it_is_given() -> None:
    named = [name for name in vars(specs.Hooks) if not name.startswith("_")]
    assert len(named) == 9
    assert all(getattr(specs.Hooks, name).__doc__ for name in named)


def test_the_example_of_the_docs_does_what_they_say(own: Studio) -> None:
    text = (Path(__file__).parents[2] / "docs" / "extensions.md").read_text("utf-8")
    toml, code = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("toml", "python"))
    put(own, "film-grain", code, toml)
    settings = switched_on("film-grain")
    plain = own.draw(batch_size=2, settings=settings)
    grainy = own.draw(batch_size=2, settings=settings, extensions={"film-grain": {"strength": 1.0}})
    (alone,) = own.draw(seed=2, settings=settings, extensions={"film-grain": {"strength": 1.0}})
    (none,) = own.draw(settings=settings, extensions={"film-grain": {"strength": 0}})
    assert warnings_of(own) == []
    assert (pixels_of(own, alone) == pixels_of(own, grainy[1])).all()
    assert told(alone)["Extensions"] == "Film grain 1.0"
    assert told(alone)["Film grain Strength"] == "1.0"
    assert "Extensions" not in told(none)
    assert (pixels_of(own, none) == pixels_of(own, plain[0])).all()
    before, after = (sum(pixels_of(own, one)[:8, :8].mean() for one in drawn) for drawn in (plain, grainy))
    assert after < 0.75 * before
