"""Schedules and noise of the original, function by function, exact to 1e-6.

The folder is $GOLDEN_RUNS, or ../shared/golden beside the repository where that exists, or the subset.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.sampling import samplers, schedules
from modules.sampling.noise import BatchNoise, Philox, make_generator, picture_noises
from modules.sampling.prediction import NoiseSchedule, alphas_cumprod
from modules.sampling.table import AUTOMATIC, SAMPLERS, SCHEDULES, find_sampler, find_schedule, normalise
from modules.schema.settings import Sampling
from tests.reference.golden import golden_folder
from tests.sampling.models import Rational

UNIT = golden_folder() / "unit"
pytestmark = pytest.mark.skipif(not (UNIT / "unit.safetensors").is_file(), reason="no golden runs here")
LEVELS = NoiseSchedule.stable_diffusion()


@cache
def facts() -> dict[str, Any]:
    return json.loads((UNIT / "unit.json").read_text("utf-8"))


@cache
def tensors() -> dict[str, Tensor]:
    return load_file(UNIT / "unit.safetensors")


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_every_schedule_at_every_number_of_steps() -> None:
    euler, count = find_sampler("Euler")[0], 0
    for model, table in facts()["schedules"].items():
        for label in table.keys() - {"model"}:
            for steps, expected in table[label].items():
                got = schedules.make_sigmas(euler, find_schedule(label), int(steps), LEVELS, sdxl=model == "tiny-xl")
                close(got, torch.tensor(expected))
                count += 1
    assert count > 200


def test_rows_are_those_of_the_original() -> None:
    lists = json.loads((UNIT.parent / "engine_lists.json").read_text("utf-8"))
    for row, original in zip(SAMPLERS, lists["samplers"]):
        flags = original["options"]
        assert (row.name, list(row.aliases)) == (original["name"], original["aliases"])
        assert row.scheduler == flags.get("scheduler")
        assert (row.order == 2) == flags.get("second_order", False)
        assert row.brownian == flags.get("brownian_noise", False)
        assert row.uses_ensd == flags.get("uses_ensd", False)
        assert row.discard_penultimate == flags.get("discard_next_to_last_sigma", False)
    for schedule, original in zip(SCHEDULES, lists["schedulers"]):
        assert (schedule.name, schedule.label) == (original["name"], original["label"])
        assert list(schedule.aliases) == (original["aliases"] or [])
        assert (schedule.default_rho or -1) == original["default_rho"]


def test_timesteps_and_lcm_levels() -> None:
    lcm = find_sampler("LCM")[0]
    for steps, expected in facts()["ddim_timesteps"].items():
        assert schedules.ddim_timesteps(int(steps)) == expected
    for steps, expected in facts()["lcm_sigmas"].items():
        close(schedules.make_sigmas(lcm, AUTOMATIC, int(steps), LEVELS), torch.tensor(expected))


def test_steps_of_img2img_and_hires() -> None:
    for exact, steps, strength, hires, total, t_enc in facts()["img2img_steps"]:
        got = schedules.img2img_steps(hires or steps, strength, exact=exact, forced=hires is not None)
        assert got == (total, t_enc)


def test_second_order_samplers_count_twice() -> None:
    for name, total in facts()["total_steps_second_order"].items():
        assert find_sampler(name)[0].order * 10 == total


def test_training_levels() -> None:
    close(alphas_cumprod(), tensors()["alphas_cumprod_r"])
    close(LEVELS.table, tensors()["sigmas_r"])


def test_philox_and_torch_streams() -> None:
    seen = 0
    for key, expected in tensors().items():
        kind, *rest = key.split(".")
        if kind == "philox":
            generator = Philox(int(rest[0]))
            generator.calls = int(rest[1])
            close(generator.randn(expected.shape), expected)
            seen += 1
        elif kind == "torch_cpu":
            close(make_generator("CPU", int(rest[0])).randn(expected.shape), expected)
            seen += 1
    assert seen >= 20


@pytest.mark.parametrize("source", ["CPU", "NV"])
def test_brownian_paths(source: str) -> None:
    noise = BatchNoise(picture_noises([1000, 1001]), (4, 8, 8), source=source, brownian=(0.0292, 14.6146))
    keys = sorted(key for key in tensors() if key.startswith(f"brownian.{source}."))
    assert len(keys) == 6
    for key in keys:
        parts = key.split(".")[3:]  # "14.6146.7.0" is 14.6146 to 7.0
        numbers = ".".join(parts).split(".")
        sigma, sigma_next = float(".".join(numbers[:2])), float(".".join(numbers[2:]))
        close(noise.between(sigma, sigma_next), tensors()[key])


def test_every_run_calls_its_model_at_the_original_levels() -> None:
    """Each recorded request of one pass: as many model calls, each at the same sigma or timestep."""
    compared = 0
    for case in json.loads((UNIT.parent / "cases.json").read_text("utf-8")):
        request = case.get("request", {})
        name = request.get("sampler_name", "Nope")
        result = case.get("result") or {}
        passes = ("enable_hr", "refiner_checkpoint", "script_name")
        # DPM adaptive's levels depend on the model, an unknown name is refused here.
        if not result.get("calls") or name in ("Nope", "DPM adaptive") or request.get("n_iter", 1) > 1:
            continue
        if any(request.get(key) for key in passes):
            continue
        sampler, schedule = normalise(name, request.get("scheduler"))
        flat = request["override_settings"]
        given = {key: value for key, value in (flat | request).items() if key in Sampling.model_fields}
        if "eta" in request:
            given["eta_ddim" if sampler.variance_preserving else "eta_ancestral"] = request["eta"]
        options = Sampling.model_validate(given)
        levels = NoiseSchedule.stable_diffusion(zero_snr=flat.get("sd_noise_schedule") == "Zero Terminal SNR")
        walk = schedules.plan_walk(
            sampler,
            schedule,
            request["steps"],
            levels,
            options,
            sdxl="xl" in flat["sd_model_checkpoint"],
            strength=request.get("denoising_strength", 0.75) if case["endpoint"] == "img2img" else None,
            exact=flat.get("img2img_fix_steps", False),
        )
        noise, model = (
            BatchNoise(picture_noises([1]), (4, 2, 2), brownian=walk.brownian),
            Rational(sampler.wants_uncond),
        )
        x = walk.from_noise(noise.initial)
        samplers.sample(sampler, model, x, walk.sigmas, noise, samplers.ignore, options, levels)
        got = torch.tensor(model.sigmas)
        if sampler.variance_preserving:
            got = levels.sigma_to_t(got)
        expected = torch.tensor([call[1] for call in result["calls"]])
        atol = 1e-2 if sampler.variance_preserving else 1e-5
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=atol, msg=lambda m, id=case["id"]: f"{id}: {m}")
        compared += 1
    assert compared > 10
