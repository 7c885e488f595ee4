"""Second passes, refiners, tiling, schedules of prompts, filmstrips: what happens at which step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.imaging import inputs
from modules.memory.policy import choose
from modules.nets.layers import seamless
from modules.pipeline.denoiser import Handover
from modules.pipeline.preview import Film
from modules.pipeline.run import Engine
from modules.sampling.prediction import NoiseSchedule
from modules.schema.errors import NotFound
from modules.schema.events import Event, ImageReady, Progress
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.schema.request import Hires, Refiner
from modules.schema.settings import Settings
from tests.pipeline.conftest import Hand, Studio
from tests.weights.tiny import write_tiny_sd15

Pixels = Callable[[Studio, ImageReady], bytes]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    """An engine with two checkpoints, `first` and `other`."""
    folders = Folders.under(tmp_path_factory.mktemp("two"))
    write_tiny_sd15(folders.checkpoint_dirs[0] / "first.safetensors", test_seed)
    write_tiny_sd15(folders.checkpoint_dirs[0] / "other.safetensors", test_seed + 1)
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


def models_at_steps(studio: Studio, **request: Any) -> list[str]:
    """The checkpoint in memory when each step was done."""
    seen: list[str] = []

    class Watch(Hand):
        def see(self, event: Event) -> None:
            loaded = studio.engine.residency.loaded
            if isinstance(event, Progress) and event.text.startswith("Drawing") and event.step > len(seen) and loaded:
                seen.append(loaded.name)

    studio.draw(Watch(), checkpoint="first", **request)
    return seen


# Refiner


@pytest.mark.parametrize(
    ("sampler", "at", "first"),
    [("Euler", 0.0, 0), ("Euler", 0.75, 3), ("Euler", 1.0, 4), ("Heun", 0.5, 2), ("Heun", 0.75, 3), ("DDIM", 0.5, 2)],
)
def test_the_refiner_takes_over_at_its_step(sampler: str, at: float, first: int, two: Studio) -> None:
    refiner = Refiner(refiner_checkpoint="other", refiner_switch_at=at)
    settings = {"refiner_switch_by_sample_steps": True}
    seen = models_at_steps(two, sampler=sampler, steps=4, refiner=refiner, override_settings=settings)
    # DDIM makes one call less than it has steps.
    expected = ["first"] * first + ["other"] * (4 - first)
    assert seen == (expected[:3] if sampler == "DDIM" else expected)


def test_by_noise_the_refiner_takes_over_at_its_timestep() -> None:
    levels = NoiseSchedule.stable_diffusion()
    view = CheckpointView(name="x", title="x", path="x", size=1, family="sd1", resolution=(512, 512))
    handover = Handover(view, 0.8)
    due = [handover.due(0, 1, levels.t_to_sigma(torch.tensor([float(t)])), levels) for t in (999, 200, 199, 0)]
    assert due == [False, False, True, True]


def test_each_batch_begins_with_its_own_checkpoint_again(two: Studio, pixels: Pixels) -> None:
    refiner = Refiner(refiner_checkpoint="other", refiner_switch_at=0.5)
    both = two.draw(checkpoint="first", n_iter=2, seed=3, refiner=refiner)
    (alone,) = two.draw(checkpoint="first", seed=4, refiner=refiner)
    (plain,) = two.draw(checkpoint="first", seed=4)
    assert pixels(two, both[1]) == pixels(two, alone) != pixels(two, plain)
    assert "Refiner: other [" in alone.record.infotext
    assert "Refiner" not in plain.record.infotext


def test_a_refiner_that_is_not_there_is_named(two: Studio) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        two.draw(refiner=Refiner(refiner_checkpoint="nowhere"))


# Hires fix


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (bicubic antialiased)", "Lanczos", "Nearest", "None"])
def test_a_second_pass_enlarges_the_picture(upscaler: str, two: Studio, pixels: Pixels) -> None:
    asked = Hires(hr_upscaler=upscaler, hr_scale=1.5)
    together = two.draw(hires=asked, seed=7, batch_size=3, sampler="Euler a")
    (alone,) = two.draw(hires=asked, seed=9, sampler="Euler a")
    assert (alone.record.width, alone.record.height) == (96, 96)
    assert pixels(two, together[2]) == pixels(two, alone)
    assert f"Hires upscale: 1.5, Hires upscaler: {upscaler}" in alone.record.infotext


def test_progress_counts_both_passes(two: Studio) -> None:
    two.draw(steps=3, hires=Hires(hr_second_pass_steps=5, denoising_strength=0.4))
    told = [event for event in two.events if isinstance(event, Progress)]
    assert {event.steps for event in told} == {8}
    assert [event.step for event in told] == sorted(event.step for event in told)
    assert told[-1].step == 8


def test_the_second_pass_has_what_it_asks_for_itself(two: Studio, pixels: Pixels) -> None:
    asked = Hires(
        hr_prompt="a green tree", hr_negative_prompt="fog", hr_sampler_name="Heun", hr_scheduler="Karras",
        hr_checkpoint_name="other", hr_resize_x=80, hr_resize_y=96,
    )  # fmt: skip
    (ready,) = two.draw(checkpoint="first", prompt="a house", hires=asked)
    assert (ready.record.width, ready.record.height) == (80, 96)
    for told in (
        "Hires checkpoint: other [", "Hires sampler: Heun", "Hires schedule type: Karras", "Hires prompt: a green tree",
        "Hires negative prompt: fog", "Hires resize: 80x96",
    ):  # fmt: skip
        assert told in ready.record.infotext
    for field, value in {"hr_prompt": "", "hr_sampler_name": None, "hr_checkpoint_name": None}.items():
        other = two.draw(checkpoint="first", prompt="a house", hires=asked.model_copy(update={field: value}))[0]
        assert pixels(two, other) != pixels(two, ready), field


def test_an_unknown_upscaler_brings_the_nearest(two: Studio) -> None:
    with pytest.raises(NotFound, match="Lanczos"):
        two.draw(hires=Hires(hr_upscaler="Lancos"))


# Tiling and token merging


@pytest.mark.parametrize("axes", ["both", "x", "y"])
def test_tiled_pictures_go_on_at_their_opposite_edge(axes: str, two: Studio) -> None:
    """Moving the start in a circle moves the picture in a circle, along the directions that are tiled and no other."""
    tiled = {"both": (True, True), "x": (True, False), "y": (False, True)}[axes]
    residency, facts = two.engine.residency, two.engine.facts
    checkpoint = two.engine.catalogue.find("first")
    with residency.lease(checkpoint, choose(facts, Settings())) as model, torch.inference_mode():
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with seamless((model.unet, model.vae), *tiled):
            for direction, dim in ((0, 3), (1, 2)):
                usual = model.vae.decode(z)
                moved = model.vae.decode(z.roll(4, dim))
                same = torch.allclose(usual.roll(32, dim), moved, atol=1e-4)
                assert same == tiled[direction]
        before = model.vae.decode(z)
        assert not torch.allclose(before.roll(32, 3), model.vae.decode(z.roll(4, 3)), atol=1e-4)


def test_tiling_is_told_and_ends_with_its_job(two: Studio, pixels: Pixels) -> None:
    (plain,) = two.draw(seed=2)
    (tiled,) = two.draw(seed=2, override_settings={"tiling": True, "tiling_axes": "x"})
    (again,) = two.draw(seed=2)
    assert pixels(two, plain) == pixels(two, again) != pixels(two, tiled)
    assert "Tiling: True, Tiling direction: x" in tiled.record.infotext


def test_token_merging_changes_little_and_not_with_the_batch(two: Studio, pixels: Pixels) -> None:
    settings = {"token_merging_ratio": 0.5}
    together = two.draw(seed=2, batch_size=2, override_settings=settings)
    (alone,) = two.draw(seed=3, override_settings=settings)
    (plain,) = two.draw(seed=3)
    assert pixels(two, together[1]) == pixels(two, alone) != pixels(two, plain)
    assert "Token merging ratio: 0.5" in alone.record.infotext


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_hypertile_changes_the_picture_not_with_the_batch_and_is_told(two: Studio, pixels: Pixels, part: str) -> None:
    settings = {f"hypertile_enable_{part}": True, f"hypertile_max_tile_{part}": 16}
    together = two.draw(seed=2, batch_size=2, override_settings=settings)
    (alone,) = two.draw(seed=3, override_settings=settings)
    (plain,) = two.draw(seed=3)
    assert pixels(two, together[1]) == pixels(two, alone) != pixels(two, plain)
    name = {"unet": "Hypertile U-Net", "vae": "Hypertile VAE"}[part]
    assert f"{name}: True, {name} max tile size: 16" in alone.record.infotext
    assert "Hypertile" not in plain.record.infotext


def test_cfg_rescale_changes_the_picture_and_is_told(two: Studio, pixels: Pixels) -> None:
    (plain,) = two.draw(prompt="a cat", seed=2, cfg_scale=12)
    (rescaled,) = two.draw(prompt="a cat", seed=2, cfg_scale=12, cfg_rescale=0.7)
    assert pixels(two, plain) != pixels(two, rescaled)
    assert "CFG rescale: 0.7" in rescaled.record.infotext


# Filmstrips, and with them prompts that change at a step


def frames(studio: Studio, **request: Any) -> list[bytes]:
    """The picture after each of four steps."""
    (ready,) = studio.draw(steps=4, filmstrip=4, **request)
    assert ready.record.filmstrip is not None
    assert ready.record.filmstrip.removesuffix("-steps.png") == str(ready.record.path).removesuffix(".png")
    with Image.open(studio.folders.data / ready.record.filmstrip) as strip:
        assert strip.size == (4 * 68 + 4, 72)
        return [strip.crop((68 * k + 4, 4, 68 * k + 68, 68)).tobytes() for k in range(4)]


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ SDE"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_prompt_changes_at_its_step(sampler: str, step: int, two: Studio) -> None:
    first = frames(two, sampler=sampler, prompt="a cat")
    # A whole number counts model calls, of which a second-order sampler makes two in a step; as in the original the
    # call of that number, counted from 0, still has the earlier text.
    calls = step * (1 if sampler == "Euler" else 2)
    changed = frames(two, sampler=sampler, prompt=f"a [cat:dog:{calls}]")
    assert [a == b for a, b in zip(first, changed)] == [k <= step for k in range(4)]


def test_a_film_takes_first_and_last_and_as_many_as_asked() -> None:
    for wanted, steps in ((1, 5), (2, 20), (5, 20), (24, 24), (7, 8)):
        film = Film(wanted, steps)
        seen = [step for step in range(steps) if film.sees(step)]
        assert len(seen) == wanted
        assert seen[-1] == steps - 1
        assert wanted == 1 or seen[0] == 0


def test_each_picture_of_a_batch_has_its_own_strip(two: Studio) -> None:
    pictures = two.draw(steps=3, filmstrip=2, batch_size=2)
    strips = []
    for ready in pictures:
        with Image.open(two.folders.data / str(ready.record.filmstrip)) as strip:
            strips.append(np.asarray(strip).copy())
    assert strips[0].shape == strips[1].shape
    assert not np.array_equal(*strips)


@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent"])
def test_hires_fix_goes_on_from_a_finished_picture(studio: Studio, upscaler: str) -> None:
    """With a picture upscaler it is what the whole request draws, bit for bit; with a latent one the picture goes
    through the autoencoder once more, which for a random one says nothing."""
    second = {"hr_upscaler": upscaler, "hr_scale": 1.5, "denoising_strength": 0.4}
    (whole,) = studio.draw(hires=second)
    (first,) = studio.draw()
    assert first.record.path is not None
    name = inputs.keep(studio.folders.inputs, (studio.folders.data / first.record.path).read_bytes())
    (again,) = studio.draw(hires={**second, "first_picture": name})
    steps = [event.steps for event in studio.events if isinstance(event, Progress)]
    assert steps[-1] < 3 + 3  # the first pass is not drawn once more
    assert again.record.parents == (name,)
    assert again.record.infotext == whole.record.infotext
    one, other = (np.asarray(Image.open(studio.folders.data / str(made.record.path)), int) for made in (whole, again))
    assert one.shape == (96, 96, 3)
    if upscaler == "Lanczos":
        assert np.array_equal(one, other)
