"""Scripts on a small random model: each picture is the plain request's own, grids are made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.imaging.legend import Words, annotated, font_for, sheet
from modules.imaging.spectrum import matching_noise
from modules.pipeline.inversion import found_noise, rising
from modules.pipeline.scripts.table import expand
from modules.sampling.prediction import NoiseSchedule
from modules.schema.axes import AXES, axes_of, known
from modules.schema.errors import BadRequest, Cancelled, EaselError
from modules.schema.events import ImageReady, Progress, Warned
from modules.schema.request import GenerationRequest, Hires, Refiner, Source, seeded
from modules.schema.scripts import (
    AlternativeTest,
    OutpaintingMk2,
    PoorMansOutpainting,
    PromptMatrix,
    PromptsFromFile,
    XyzPlot,
)
from modules.schema.settings import Settings
from tests.pipeline.conftest import Hand, Studio
from tests.pipeline.test_img2img import array, from_picture, picture


def roles(made: list[ImageReady]) -> dict[int, str]:
    return {one.record.index: one.record.role for one in made}


def by_index(made: list[ImageReady]) -> list[ImageReady]:
    return sorted(made, key=lambda one: one.record.index)


def test_every_combination_of_a_prompt_is_the_plain_picture(studio: Studio) -> None:
    made = by_index(studio.draw(prompt="a cat|red, |at night", script=PromptMatrix(margin_size=4)))
    assert roles(made) == {0: "grid", 1: "picture", 2: "picture", 3: "picture", 4: "picture"}
    prompts = ["a cat", "a cat, red", "a cat, at night", "a cat, red, at night"]
    assert [one.record.infotext.split("\n")[0] for one in made[1:]] == prompts
    progress = [event for event in studio.events if isinstance(event, Progress)]
    assert progress[-1].step == progress[-1].steps == 4 * 3
    assert [event.step for event in progress] == sorted(event.step for event in progress)
    grid, cells = array(studio, made[0]), [array(studio, one) for one in made[1:]]
    for k, (left, top) in enumerate(((0, 0), (68, 0), (0, 68), (68, 68))):
        y, x = grid.shape[0] - 132 + top, grid.shape[1] - 132 + left
        assert np.array_equal(grid[y : y + 64, x : x + 64], cells[k])
    assert str(made[0].record.path).startswith("outputs/txt2img-grids/")
    for prompt, cell in zip(prompts, cells):
        assert np.array_equal(array(studio, studio.draw(prompt=prompt)[0]), cell)


def test_parts_at_the_start_with_other_seeds_in_the_negative_prompt() -> None:
    asked = PromptMatrix(put_at_start=True, different_seeds=True, prompt_type="negative", variations_delimiter="space")
    request = GenerationRequest(prompt="a|b", negative_prompt="x|y", seed=7, subseed=1, script=asked)
    made = expand(request, None).requests  # type: ignore[arg-type]
    assert [(one.negative_prompt, one.seed, one.prompt) for one in made] == [("x", 7, "a|b"), ("y x", 8, "a|b")]


def test_a_plot_of_seeds_and_guidance(studio: Studio) -> None:
    asked = XyzPlot(x_type="Seed", x_values="1-3", y_type="CFG Scale", y_values="4,7", include_lone_images=True)
    made = by_index(studio.draw(script=asked))
    assert [(one.record.seed) for one in made[1:]] == [1, 2, 3, 1, 2, 3]
    told = (
        'Script: X/Y/Z plot, X Type: Seed, X Values: 1-3, Fixed X Values: "1, 2, 3", Y Type: CFG Scale, Y Values: "4,7"'
    )
    assert told in made[0].record.infotext
    assert not any("Script" in one.record.infotext for one in made[1:])
    assert "CFG scale: 7.0" in made[4].record.infotext
    (alone,) = studio.draw(seed=2, cfg_scale=7.0)
    assert np.array_equal(array(studio, alone), array(studio, made[5]))
    assert "xyz_grid-" in str(made[0].record.path)


def test_three_axes_give_a_grid_of_grids_and_the_dearest_changes_least(studio: Studio) -> None:
    asked = XyzPlot(
        x_type="VAE", x_values_dropdown=("None", "Automatic"), y_type="Steps", y_values="1,2", z_type="Size",
        z_values="64x64, 64x72", include_sub_grids=True, draw_legend=False,
    )  # fmt: skip
    made = studio.draw(script=asked)
    assert [one.record.index for one in made] == [3, 5, 7, 9, 4, 6, 8, 10, 0, 1, 2]
    grids = [one for one in by_index(made) if one.record.role == "grid"]
    assert [(one.record.width, one.record.height) for one in grids] == [(256, 144), (128, 128), (128, 144)]
    assert ["Z Type: Size" in one.record.infotext for one in grids] == [True, False, False]
    assert all(one.record.role == "part" for one in made if one.record.index > 2)


VALUES: dict[str, str] = {
    "Prompt S/R": "house, cat", "Prompt order": "red, house", "Sampler": "Euler, DDIM", "Hires sampler": "Euler",
    "Schedule type": "Karras, Exponential", "Hires upscaler": "Latent, Lanczos", "VAE": "None", "Styles": "None",
    "Size": "64x72", "Always discard next-to-last sigma": "Yes, No", "RNG source": "CPU, NV",
    "FP8 mode": "Disable", "Face restore": "No, CodeFormer", "Tiling direction": "x",
    "Refiner checkpoint": "None", "Checkpoint name": "tiny",
}  # fmt: skip


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_every_axis_of_a_tab_changes_what_it_is_called_after(tab: str) -> None:
    """By label and by A1111's number; what it changes is found in the request."""
    request = GenerationRequest(prompt="a red house", hires=Hires(), refiner=Refiner(refiner_checkpoint="x"), seed=3)
    if tab == "img2img":
        request = request.model_copy(update={"hires": None, "source": Source(images=("0" * 64,))})
    for number, axis in enumerate(axes_of(tab)):
        needs_picture = axis.label == "Initial noise multiplier" and tab == "txt2img"
        if axis.shape == "none" or not known(axis) or needs_picture:
            continue
        values = VALUES.get(axis.label, "1" if axis.kind != "switch" else "Yes")
        for name in (axis.label.upper(), str(number)):
            asked = XyzPlot(x_type=name, x_values=values)
            made = expand(request.model_copy(update={"script": asked}), None)  # type: ignore[arg-type]
            last = made.requests[-1].model_dump(exclude={"script"})
            assert axis.label in ("Styles",) or last != request.model_dump(exclude={"script"}), axis.label


def test_axes_keep_the_originals_numbers() -> None:
    labels = [axis.label for axis in axes_of("txt2img")]
    assert labels[:8] == [
        "Nothing",
        "Seed",
        "Var. seed",
        "Var. strength",
        "Steps",
        "Hires steps",
        "CFG Scale",
        "Prompt S/R",
    ]
    assert [axis.label for axis in axes_of("img2img")][5:8] == ["CFG Scale", "Image CFG Scale", "Prompt S/R"]
    assert [axis.label for axis in AXES][-3:] == ["Size", "CFG rescale", "Tiling direction"]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (XyzPlot(x_type="nope", x_values="1"), "no axis called"),
        (XyzPlot(x_type="Steps", x_values=""), "no values"),
        (XyzPlot(x_type="Steps", x_values="ten"), "no whole number"),
        (XyzPlot(x_type="Steps", x_values="1000"), "Steps cannot be"),
        (XyzPlot(x_type="Hires steps", x_values="3"), "needs hires fix"),
        (XyzPlot(x_type="Prompt S/R", x_values="absent, b"), "did not find"),
        (XyzPlot(x_type="Size", x_values="big"), "write 512x768"),
        (XyzPlot(x_type="Sampler", x_values="Euler, Nonsense"), "Nonsense"),
        (XyzPlot(x_type="Eta", x_values="0, 7"), "eta"),
        (XyzPlot(x_type="Face restore", x_values="x"), "face"),
        (XyzPlot(x_type="Seed", x_values="1-900", y_type="Steps", y_values="1-100"), "the most"),
        (PromptsFromFile(prompt_txt=" \n"), "nothing to draw"),
        (PromptsFromFile(prompt_txt="--steps 900"), "steps cannot be"),
        (PromptMatrix(), "variable parts"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_before_anything_is_drawn(asked: object, match: str, studio: Studio) -> None:
    prompt = "a" + "|b" * 20 if isinstance(asked, PromptMatrix) else "a house"
    with pytest.raises(EaselError, match=match):
        studio.draw(prompt=prompt, script=asked)
    assert not studio.pictures
    assert not [event for event in studio.events if isinstance(event, Progress)]


def test_seeds_left_open() -> None:
    def seeds(asked: object) -> list[int]:
        request = seeded(GenerationRequest(script=asked), {"seed": 5, "subseed": 6})  # type: ignore[arg-type]
        return [one.seed for one in expand(request, None).requests]  # type: ignore[arg-type]

    assert seeds(XyzPlot(x_type="Steps", x_values="1-3")) == [5, 5, 5]
    kept = seeds(XyzPlot(x_type="Steps", x_values="1-3", no_fixed_seeds=True))
    assert len(set(kept)) == 3
    assert kept == seeds(XyzPlot(x_type="Steps", x_values="1-3", no_fixed_seeds=True))
    varied = XyzPlot(
        x_type="Steps", x_values="1-3", y_type="CFG Scale", y_values="1,2", vary_seeds_x=True, vary_seeds_y=True
    )
    assert seeds(varied) == [5, 6, 7, 8, 9, 10]
    drawn = seeds(XyzPlot(x_type="Seed", x_values="-1, 4, -1"))
    assert drawn[1] == 4
    assert -1 not in drawn
    assert drawn[0] != drawn[2]
    text = "a\nb\nc"
    assert seeds(PromptsFromFile(prompt_txt=text, checkbox_iterate=True)) == [5, 6, 7]
    assert seeds(PromptsFromFile(prompt_txt=text, checkbox_iterate_batch=True)) == [5, 5, 5]
    assert len(set(seeds(PromptsFromFile(prompt_txt=text)))) == 3


def test_lines_with_options_are_drawn(studio: Studio) -> None:
    text = '--prompt a blue "cat" --steps 2 --width 72 --seed 9\na dog'
    made = studio.draw(
        prompt="photo", negative_prompt="grey", script=PromptsFromFile(prompt_txt=text, prompt_position="end")
    )
    assert [(one.record.infotext.split("\n")[0], one.record.seed, one.record.width) for one in made] == [
        ("photo a blue cat", 9, 72), ("photo a dog", 1, 64),
    ]  # fmt: skip


def test_an_interrupted_plot_makes_a_grid_of_what_is_finished(studio: Studio) -> None:
    hand = Hand(cancel_at=lambda event: isinstance(event, ImageReady) and event.record.index == 2)
    with pytest.raises(Cancelled):
        studio.draw(hand, script=XyzPlot(x_type="Seed", x_values="1-4", draw_legend=False))
    made = by_index(studio.pictures)
    assert roles(made) == {0: "grid", 1: "part", 2: "part"}
    grid = array(studio, made[0])
    assert grid.shape == (64, 256, 3)
    assert np.array_equal(grid[:, 64:128], array(studio, made[2]))
    assert (grid[:, 128:] == 255).all()


def test_a_skipped_picture_leaves_its_place_empty(studio: Studio) -> None:
    hand = Hand(skip_at=lambda event: isinstance(event, ImageReady) and event.record.index == 1)
    made = by_index(studio.draw(hand, script=XyzPlot(x_type="Seed", x_values="1-3", draw_legend=False)))
    assert roles(made) == {0: "grid", 1: "part", 3: "part"}
    assert (array(studio, made[0])[:, 64:128] == 255).all()


def test_a_second_attempt_announces_only_what_is_missing_and_makes_the_same_grid(studio: Studio) -> None:
    asked = XyzPlot(x_type="Seed", x_values="1-3")
    whole = by_index(studio.draw(script=asked))
    rest = by_index(studio.draw(Hand(finished=frozenset({1, 2})), script=asked))
    assert roles(rest) == {0: "grid", 3: "part"}
    assert np.array_equal(array(studio, whole[0]), array(studio, rest[0]))


def test_one_picture_that_fails_does_not_stop_the_others(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.pipeline import generate

    drawn = generate.drawn

    def failing(request: GenerationRequest, ctx: object) -> Iterator[object]:
        if request.seed == 2:
            raise BadRequest("It went wrong.")
        yield from drawn(request, ctx)  # type: ignore[arg-type]

    monkeypatch.setattr(generate, "drawn", failing)
    made = by_index(studio.draw(script=XyzPlot(x_type="Seed", x_values="1-3", draw_legend=False)))
    assert roles(made) == {0: "grid", 1: "part", 3: "part"}
    assert any("It went wrong." in event.message for event in studio.events if isinstance(event, Warned))


@pytest.mark.parametrize("fill", [0, 1, 2, 3])
def test_poor_mans_outpainting(fill: int, studio: Studio, test_seed: int) -> None:
    asked = PoorMansOutpainting(pixels=16, inpainting_fill=fill, direction=("right",))
    (ready,) = studio.draw(source=from_picture(studio, test_seed, denoising_strength=0.8), script=asked)
    assert (ready.record.width, ready.record.height) == (128, 64)
    before = np.asarray(picture(test_seed)).astype(int)
    assert np.array_equal(array(studio, ready)[:, :48], before[:, :48])


def test_outpainting_mk2_begins_with_the_pictures_own_noise(studio: Studio, test_seed: int) -> None:
    asked = OutpaintingMk2(pixels=24, direction=("left", "up", "down"))
    source = from_picture(studio, test_seed, denoising_strength=0.0)
    (ready,) = studio.draw(source=source, script=asked)
    assert (ready.record.width, ready.record.height) == (128, 128)
    assert "Outpaint left: 64" in ready.record.infotext
    assert "Outpaint fill: noise" in ready.record.infotext


def test_noise_has_the_colours_and_the_grain_of_a_picture(test_seed: int) -> None:
    rng = np.random.default_rng(test_seed)
    fine = Image.fromarray(rng.integers(40, 90, (64, 64, 3), dtype=np.uint8))
    coarse = fine.resize((8, 8)).resize((64, 64), Image.Resampling.BICUBIC)
    rough = []
    for image in (fine, coarse):
        noise = np.asarray(matching_noise(image, (96, 80), 1.0, 0.05, 0)).astype(int)
        assert noise.shape == (80, 96, 3)
        known = np.asarray(image).astype(int)
        assert abs(noise.mean() - known.mean()) < 2
        assert abs(noise.std() - known.std()) < 2
        rough.append(np.abs(np.diff(noise, axis=1)).mean() / noise.std())
    assert rough[0] > 2 * rough[1]


@pytest.mark.parametrize("adjusted", [False, True])
def test_the_noise_found_in_a_picture_leads_back_to_it(adjusted: bool, test_seed: int) -> None:
    """For data of one deviation the best denoiser is known; Euler's method goes back the way it was walked."""
    x = 0.5 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(test_seed))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance = sigma.view(-1, 1, 1, 1) ** 2
        return x * 0.25 / (0.25 + variance)

    sigmas = rising(400, NoiseSchedule.stable_diffusion())
    steps: list[int] = []
    back = found_noise(denoise, x, sigmas, adjusted, lambda step, denoised: steps.append(step)) * sigmas[-1]
    assert len(steps) == 400 - adjusted
    for high, low in zip(sigmas.flip(0), sigmas.flip(0)[1:]):
        sigma = high * torch.ones(2)
        back = back + (back - denoise(back, sigma)) / high * (low - high)
    scale = 1 if adjusted else 0.5 / x.std(dim=(1, 2, 3), keepdim=True)  # else its deviation was set to 1 on the way
    assert float((back - x * scale).abs().max()) < 0.05


def test_the_alternative_test_draws_along_the_original_prompt(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed)
    asked = AlternativeTest(original_prompt="x", original_negative_prompt="y", st=4)
    (ready,) = studio.draw(prompt="other", sampler="DPM++ 2M", source=source, script=asked)
    told = ready.record.infotext
    assert told.startswith("x\nNegative prompt: y\nSteps: 4, Sampler: Euler,")
    assert "Denoising strength: 1.0, Decode prompt: x, Decode negative prompt: y, Decode CFG scale: 1.0" in told
    assert [e.step for e in studio.events if isinstance(e, Progress)][-1] == 8
    (fresh,) = studio.draw(prompt="other", source=source, script=asked.model_copy(update={"randomness": 1.0}))
    assert np.abs(array(studio, fresh) - array(studio, ready)).mean() > 1


def test_sheets_and_legends() -> None:
    red, small = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (20, 10), "blue")
    grid = sheet([red, None, small], 2)
    assert grid.size == (80, 60)
    assert grid.getpixel((50, 10)) == (255, 255, 255)
    assert grid.getpixel((20, 45)) == (0, 0, 255)
    assert grid.getpixel((5, 35)) == (255, 255, 255)
    cell = (200, 200)
    plain = annotated(Image.new("RGB", (400, 200), "red"), cell, [[], []], [[]], margin=10)
    assert plain.size == (410, 200)
    words = annotated(Image.new("RGB", (400, 200), "red"), cell, [[Words("a")], [Words("b")]], [[Words("word " * 30)]])
    assert words.size[0] == 400 + 150
    assert (np.asarray(words)[:, :150] < 100).any()
    with pytest.raises(BadRequest, match="megapixels"):
        sheet([Image.new("RGB", (1, 1))] * 40_000, 1, cell=(128, 128))
    assert font_for("house", 12).size == 12


@pytest.mark.parametrize(
    ("rows", "empty", "size"), [(-1, False, (192, 128)), (0, False, (192, 128)), (-1, True, (320, 64))]
)
def test_the_pictures_of_a_job_side_by_side(rows: int, empty: bool, size: tuple[int, int], studio: Studio) -> None:
    options = {"return_grid": True, "n_rows": rows, "grid_prevent_empty_spots": empty}
    more: dict[str, Any] = {"n_iter": 5} if rows else {"n_iter": 3, "batch_size": 2}
    made = by_index(studio.draw(settings=Settings().with_options(options), steps=1, **more))
    grid, singles = made[0], made[1:]
    assert (grid.record.index, grid.record.role) == (-1, "grid")
    assert (grid.record.width, grid.record.height) == size
    assert np.array_equal(array(studio, grid)[:64, 64:128], array(studio, singles[1]))
    assert grid.record.infotext == singles[0].record.infotext
    assert "txt2img-grids" in str(grid.record.path)


def test_a_single_picture_has_no_grid(studio: Studio) -> None:
    (alone,) = studio.draw(settings=Settings().with_options({"return_grid": True}), steps=1)
    assert alone.record.role == "picture"
    wish = {"return_grid": True, "grid_only_if_multiple": False}
    assert [one.record.role for one in studio.draw(settings=Settings().with_options(wish), steps=1)] == [
        "picture", "grid",
    ]  # fmt: skip


def test_grids_lie_and_are_called_as_the_settings_say(studio: Studio) -> None:
    def where(**options: Any) -> tuple[str, str]:
        settings = Settings().with_options({"return_grid": True, **options})
        made = by_index(studio.draw(settings=settings, steps=1, n_iter=2, prompt="a red house", seed=7))
        path = Path(str(made[0].record.path))
        return path.parent.name, re.sub(r"^grid-\d{4}-", "", path.name)

    today, name = where()
    assert (re.fullmatch(r"\d{4}-\d\d-\d\d", today) is not None, name) == (True, "7.png")
    assert where(grid_save_to_dirs=False) == ("txt2img-grids", "7.png")
    assert where(grid_extended_filename=True) == (today, "7-a red house.png")
    assert where(grid_extended_filename=True, samples_filename_pattern="[steps]")[1] == "1.png"
