"""Schedules: their settings, their shape, where a run starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modules.sampling import schedules
from modules.sampling.prediction import FlowSchedule, NoiseSchedule
from modules.sampling.table import AUTOMATIC, SCHEDULES, find_sampler, find_schedule
from modules.schema.errors import BadRequest
from modules.schema.settings import Sampling

LEVELS = NoiseSchedule.stable_diffusion()
EULER = find_sampler("Euler")[0]
DDIM = find_sampler("DDIM")[0]
ROWS = [row for row in SCHEDULES if row is not AUTOMATIC]


def make(label: str, steps: int, **options: float) -> torch.Tensor:
    return schedules.make_sigmas(EULER, find_schedule(label), steps, LEVELS, Sampling.model_validate(options))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 31, 32, 150])
def test_levels_fall_to_the_end(row, steps: int) -> None:
    for levels in (LEVELS, NoiseSchedule.stable_diffusion(zero_snr=True), LEVELS.lcm()):
        sigmas = schedules.make_sigmas(EULER, row, steps, levels)
        assert sigmas.dtype == torch.float32
        assert torch.isfinite(sigmas).all()
        # A table of 50 levels gives some twice when more are asked for; two equal levels are a step of length 0.
        assert (sigmas[:-1] >= sigmas[1:]).all()
        if len(levels.table) > steps:
            assert (sigmas[:-1] > sigmas[1:]).all()
        assert (sigmas[-1] == 0) == (row.name != "kl_optimal")
        if row.name not in ("ddim", "beta_timesteps"):
            assert len(sigmas) == steps + 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_options_change_the_schedules_that_read_them(row) -> None:
    changed = {
        "rho": 3.0,
        "sigma_min": 0.1,
        "sigma_max": 9.0,
        "use_old_karras_scheduler_sigmas": True,
        "beta_dist_alpha": 0.8,
        "beta_dist_beta": 0.8,
    }
    usual = schedules.make_sigmas(EULER, row, 9, LEVELS)
    for name, value in changed.items():
        got = schedules.make_sigmas(EULER, row, 9, LEVELS, Sampling.model_validate({name: value}))
        assert torch.equal(got, usual) == (name not in row.reads), name


def test_the_ends_of_the_range_can_be_moved() -> None:
    sigmas = make("Karras", 10, sigma_min=0.1, sigma_max=9.0)
    assert sigmas[0] == pytest.approx(9.0)
    assert sigmas[-2] == pytest.approx(0.1)
    old = make("Exponential", 10, use_old_karras_scheduler_sigmas=True)
    assert (old[0], old[-2]) == (pytest.approx(10.0), pytest.approx(0.1))
    with pytest.raises(BadRequest, match="Sigma min 20 must be below"):
        make("Karras", 10, sigma_min=20.0)


def test_the_penultimate_level_can_be_left_out() -> None:
    longer, usual = make("Karras", 11), make("Karras", 10, always_discard_next_to_last_sigma=True)
    assert torch.equal(usual, torch.cat([longer[:-2], longer[-1:]]))
    dpm2 = schedules.make_sigmas(find_sampler("DPM2")[0], AUTOMATIC, 10, LEVELS)
    assert torch.equal(dpm2, usual)


def test_timestep_samplers_have_their_own_levels() -> None:
    plain = schedules.make_sigmas(DDIM, AUTOMATIC, 10, LEVELS)
    assert torch.equal(plain, schedules.make_sigmas(DDIM, find_schedule("Karras"), 10, LEVELS))
    torch.testing.assert_close(LEVELS.sigma_to_t(plain), torch.arange(901.0, 0, -100), rtol=0, atol=1e-3)


@pytest.mark.parametrize("skip", ["time_uniform", "time_quadratic", "logSNR"])
def test_unipc_goes_from_one_end_to_the_other(skip: str) -> None:
    options = Sampling.model_validate({"uni_pc_skip_type": skip})
    sigmas = schedules.make_sigmas(find_sampler("UniPC")[0], AUTOMATIC, 10, LEVELS, options)
    assert len(sigmas) == 11
    assert sigmas[0] == pytest.approx(LEVELS.sigma_max, rel=1e-6)
    assert sigmas[-1] == pytest.approx(LEVELS.sigma_min, rel=1e-5)
    assert (sigmas[:-1] > sigmas[1:]).all()
    if skip == "logSNR":
        ratios = sigmas[:-1] / sigmas[1:]
        torch.testing.assert_close(ratios, ratios[0].expand(10), rtol=1e-5, atol=0)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps: int) -> None:
    for sampler in (EULER, DDIM):
        with pytest.raises(BadRequest, match="choose 1 or more"):
            schedules.make_sigmas(sampler, AUTOMATIC, steps, LEVELS)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(BadRequest, match="1 to 1000"):
        schedules.make_sigmas(DDIM, AUTOMATIC, 1001, LEVELS)
    with pytest.raises(BadRequest, match="at most 50"):
        schedules.make_sigmas(find_sampler("TCD")[0], AUTOMATIC, 51, LEVELS)


def test_beta_quantiles_undo_the_distribution(test_seed: int) -> None:
    mpmath = pytest.importorskip("mpmath")
    random = np.random.default_rng(test_seed)
    for a, b in ((0.6, 0.6), (0.5, 0.5), (1, 1), (0.2, 4.0), (5.0, 0.3), (2.5, 2.0)):
        # The arcsine and the uniform distribution are known in closed form too.
        for p in [*random.uniform(0.001, 0.999, 6), 0.001, 0.999]:
            x = schedules.beta_quantile(float(p), a, b)
            assert float(mpmath.betainc(a, b, 0, x, regularized=True)) == pytest.approx(p, abs=1e-9)
        assert (schedules.beta_quantile(0, a, b), schedules.beta_quantile(1, a, b)) == (0, 1)
    # The uniform and the arcsine distribution are known in closed form.
    assert schedules.beta_quantile(0.3, 1, 1) == pytest.approx(0.3, abs=1e-14)
    assert schedules.beta_quantile(0.3, 0.5, 0.5) == pytest.approx(math.sin(0.15 * math.pi) ** 2, abs=1e-14)


# Where a run starts


def walk(name: str, **arguments: object) -> schedules.Walk:
    return schedules.plan_walk(find_sampler(name)[0], AUTOMATIC, 20, LEVELS, **arguments)  # type: ignore[arg-type]


def test_noise_is_raised_to_the_first_level() -> None:
    noise = torch.ones(1, 4, 2, 2)
    plain = walk("Euler").from_noise(noise)
    torch.testing.assert_close(plain, noise * 14.614643)
    more = walk("Euler").from_noise(noise, sgm_noise_multiplier=True)
    torch.testing.assert_close(more, noise * math.sqrt(1 + 14.614643**2))
    # In the scaling of DDIM the same noise has deviation 1.
    start = walk("DDIM")
    torch.testing.assert_close(start.from_noise(noise) / (1 + start.sigmas[0] ** 2) ** 0.5, noise)


@pytest.mark.parametrize(("strength", "calls"), [(0.0, 1), (0.05, 2), (0.5, 11), (0.75, 16), (1.0, 20)])
def test_a_picture_keeps_what_its_strength_leaves(strength: float, calls: int) -> None:
    start = walk("Euler", strength=strength)
    whole = walk("Euler")
    assert len(start.sigmas) == calls + 1
    assert torch.equal(start.sigmas, whole.sigmas[-calls - 1 :])
    latents, noise = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 4, 2, 2)
    torch.testing.assert_close(start.from_picture(latents, noise), latents + noise * start.sigmas[0])
    extra = start.from_picture(latents, noise, extra_noise=0.25)
    torch.testing.assert_close(extra, latents + noise * (start.sigmas[0] + 0.25))


def test_exact_steps_and_hires_make_the_schedule_longer() -> None:
    for start in (walk("Euler", strength=0.75, exact=True), walk("Euler", strength=0.75, forced=True)):
        assert len(start.sigmas) == 21
        longer = schedules.make_sigmas(EULER, AUTOMATIC, 26, LEVELS)
        assert torch.equal(start.sigmas, longer[-21:])


@pytest.mark.parametrize("name", ["Euler", "DPM++ SDE", "DDIM", "UniPC", "TCD", "LCM", "DPM fast"])
@pytest.mark.parametrize("strength", [0.0, 0.002, 0.3, 1.0])
def test_a_hires_pass_can_have_any_strength(name: str, strength: float) -> None:
    start = walk(name, strength=strength, forced=True)
    assert start.start == pytest.approx(float(start.sigmas[0]), rel=0.9)
    if strength < 0.01:
        assert start.start < 0.2
    else:
        whole = walk(name)
        assert (start.start > 0.7 * whole.start) == (strength == 1.0)
        assert len(start.sigmas) > (14 if name == "TCD" else 18)


def test_a_schedule_shorter_than_its_steps_leaves_one() -> None:
    short = find_schedule("Beta Timesteps")
    assert len(schedules.make_sigmas(EULER, short, 150, LEVELS)) < 151
    start = schedules.plan_walk(EULER, short, 150, LEVELS, strength=0.0)
    assert len(start.sigmas) == 2


def test_ddim_from_a_picture_starts_one_level_higher() -> None:
    start = walk("DDIM", strength=0.5)
    times = LEVELS.sigma_to_t(start.sigmas).round().int().tolist()
    assert times == list(range(451, 0, -50))
    assert float(LEVELS.sigma_to_t(torch.tensor([start.start]))) == pytest.approx(501, abs=1e-2)
    latents, noise = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 4, 2, 2)
    alpha = 1 / (1 + start.start**2)
    preserving = start.from_picture(latents, noise) / math.sqrt(1 + float(start.sigmas[0]) ** 2)
    torch.testing.assert_close(preserving, latents * math.sqrt(alpha) + noise * math.sqrt(1 - alpha))


def test_samplers_of_a_range_ignore_the_schedule_from_noise_only() -> None:
    sampler = find_sampler("DPM fast")[0]
    start = schedules.plan_walk(sampler, find_schedule("Align Your Steps"), 20, LEVELS)
    assert (float(start.sigmas[0]), float(start.sigmas[-2])) == (LEVELS.sigma_max, LEVELS.sigma_min)
    assert len(start.sigmas) == 21
    assert start.start == pytest.approx(14.615)
    picture = schedules.plan_walk(sampler, find_schedule("Align Your Steps"), 20, LEVELS, strength=0.5)
    assert float(picture.sigmas[-2]) == pytest.approx(0.029)


def test_a_brownian_path_spans_the_whole_schedule() -> None:
    low, high = walk("DPM++ SDE", strength=0.3).brownian or (0, 0)
    assert (low, high) == (pytest.approx(0.0291675, rel=1e-5), pytest.approx(14.614642, rel=1e-5))
    assert walk("Euler").brownian is None


def test_flow_models_mix_instead_of_adding() -> None:
    flow = FlowSchedule.of(3.0)
    start = schedules.plan_walk(EULER, find_schedule("Simple"), 10, flow, strength=0.5)
    latents, noise = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 4, 2, 2)
    s = start.start
    assert 0 < s < 1
    torch.testing.assert_close(start.from_picture(latents, noise), latents * (1 - s) + noise * s)
    whole = schedules.plan_walk(EULER, find_schedule("Simple"), 10, flow)
    torch.testing.assert_close(whole.from_noise(noise), noise)
