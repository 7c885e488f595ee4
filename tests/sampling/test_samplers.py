"""Samplers: accuracy, order, independence of the batch, exact steps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from modules.sampling import samplers, schedules
from modules.sampling.noise import BatchNoise, PictureNoise
from modules.sampling.prediction import FlowSchedule, NoiseSchedule
from modules.sampling.table import AUTOMATIC, SAMPLER_NAMES, SAMPLERS, Sampler, find_sampler, find_schedule
from modules.schema.errors import BadRequest, Cancelled, NotANumber
from modules.schema.settings import Sampling
from tests.sampling.models import SPREAD, Rational, Silence, gaussian, gaussian_solution

LEVELS = NoiseSchedule.stable_diffusion()
SHAPE = (4, 5, 7)
KARRAS_10 = schedules.make_sigmas(find_sampler("Euler")[0], find_schedule("Karras"), 10, LEVELS)


def row(name: str) -> Sampler:
    return find_sampler(name)[0]


def run(
    sampler: Sampler,
    seeds: list[int],
    steps: int = 7,
    options: Sampling | None = None,
    on_step: samplers.OnStep = samplers.ignore,
    dtype: torch.dtype = torch.float32,
    model: Rational | None = None,
) -> Tensor:
    """A whole run from noise, as the pipeline makes it."""
    walk = schedules.plan_walk(sampler, AUTOMATIC, steps, LEVELS, options or Sampling())
    noise = BatchNoise([PictureNoise(seed) for seed in seeds], SHAPE, source="NV", brownian=walk.brownian)
    x = walk.from_noise(noise.initial).to(dtype)
    denoise = model or Rational(sampler.wants_uncond)
    return samplers.sample(sampler, denoise, x, walk.sigmas, noise, on_step, options or Sampling(), LEVELS)


# Order of convergence


def falling(kind: str, n: int, start: float = 6.0, end: float = 0.15) -> list[float]:
    if kind == "even":
        return [start + (end - start) * i / n for i in range(n + 1)]
    return [start * (end / start) ** (i / n) for i in range(n + 1)]


ORDERS = [
    # name, order, grid, numbers of steps, options
    ("Euler", 1, "log", (32, 64), {}),
    ("Euler a", 1, "log", (32, 64), {"eta": 0.0}),
    ("DDIM", 1, "log", (32, 64), {}),
    ("HeunPP2", 1, "log", (32, 64), {}),
    ("Euler CFG++", 1, "log", (32, 64), {}),
    ("Euler a CFG++", 1, "log", (32, 64), {"eta": 0.0}),
    ("DDIM CFG++", 1, "log", (32, 64), {}),
    ("Heun", 2, "log", (32, 64), {}),
    ("DPM2", 2, "log", (32, 64), {}),
    ("DPM2 a", 2, "log", (32, 64), {"eta": 0.0}),
    ("DPM++ 2S a", 2, "log", (32, 64), {"eta": 0.0}),
    ("DPM++ SDE", 2, "log", (32, 64), {"eta": 0.0}),
    ("DPM++ 2M", 2, "log", (64, 128), {}),
    ("DPM++ 2M CFG++", 2, "log", (64, 128), {}),
    ("DPM++ 2M SDE", 2, "log", (64, 128), {"eta": 0.0}),
    ("DPM++ 2M SDE Heun", 2, "log", (64, 128), {"eta": 0.0, "solver": "heun"}),
    ("DPM++ 3M SDE", 2, "log", (64, 128), {"eta": 0.0}),
    ("Restart", 2, "log", (9, 18), {}),
    ("PLMS", 2, "log", (32, 64), {}),
    ("UniPC", 2, "log", (32, 64), {}),
    ("IPNDM", 2, "log", (64, 128), {}),
    ("IPNDM_V", 2, "log", (64, 128), {}),
    ("LMS", 3, "log", (24, 48), {}),
    ("DEIS", 2.5, "log", (24, 48), {}),
    # 3k + 2 calls end in a step of second order, others in one of first
    ("DPM fast", 3, "log", (17, 35), {}),
    ("UniPC", 3, "log", (24, 48), {"variant": "bh2", "lower_order_final": False}),
    ("UniPC", 1, "log", (48, 96), {"variant": "vary_coeff"}),
]


@pytest.mark.parametrize(("name", "order", "grid", "steps", "options"), ORDERS)
def test_halving_the_step_shrinks_the_error_at_the_samplers_order(
    name: str, order: float, grid: str, steps: tuple[int, int], options: dict
) -> None:
    sampler = row(name)
    x = torch.tensor([3.0, -5.0, 8.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    model = (lambda y, s: (gaussian(y, s), gaussian(y, s))) if sampler.wants_uncond else gaussian
    errors = []
    for n in steps:
        sigmas = falling(grid, n)
        got = samplers.load(sampler)(model, x, sigmas, Silence(), **options)
        if sampler.variance_preserving:
            got = got * math.sqrt(1 + sigmas[-1] ** 2)
        errors.append(float((got - gaussian_solution(x, sigmas[0], sigmas[-1])).abs().max()))
    measured = math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])
    assert measured > order - 0.25, f"error {errors[0]:.1e} to {errors[1]:.1e} is order {measured:.2f}"


def test_every_deterministic_sampler_is_in_the_order_test() -> None:
    random = {"DPM adaptive", "DDPM", "LCM", "TCD"}
    assert {name for name, *_ in ORDERS} == set(SAMPLER_NAMES) - random


def test_dpm_adaptive_keeps_to_its_tolerance() -> None:
    x = torch.tensor([3.0, -5.0, 8.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    exact = gaussian_solution(x, 6.0, 0.15)
    errors = []
    for rtol in (0.05, 0.005):
        got = samplers.sample_dpm_adaptive(gaussian, x, [6.0, 0.15, 0.0], Silence(), rtol=rtol, atol=rtol / 6)
        errors.append(float((got - exact).abs().max()))
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 4


# One picture is one picture


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_picture_does_not_depend_on_its_batch(name: str, test_seed: int) -> None:
    sampler = row(name)
    seeds = [(test_seed + 77 * k) % 2**32 for k in range(5)]
    options = Sampling(s_churn=4.0, s_tmin=0.1, s_tmax=9.0, eta_ddim=0.5)
    alone = [run(sampler, [seed], options=options)[0] for seed in seeds]
    assert not torch.equal(alone[0], alone[1])
    for size in (2, 3, 5):
        together = run(sampler, seeds[:size], options=options)
        for k in range(size):
            assert torch.equal(together[k], alone[k]), f"picture {k} of {size}"


def test_dpm_adaptive_can_judge_the_batch_as_one() -> None:
    sampler, seeds = row("DPM adaptive"), [1, 2, 3]
    joint = Sampling(dpm_adaptive_joint=True)
    assert torch.equal(run(sampler, [1], options=joint)[0], run(sampler, [1])[0])
    assert not torch.equal(run(sampler, seeds, options=joint)[0], run(sampler, [1])[0])


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_shape_and_input_are_kept(name: str, dtype: torch.dtype) -> None:
    sampler = row(name)
    walk = schedules.plan_walk(sampler, AUTOMATIC, 6, LEVELS)
    noise = BatchNoise([PictureNoise(3), PictureNoise(4)], SHAPE, source="NV", brownian=walk.brownian)
    x = walk.from_noise(noise.initial).to(dtype)
    before = x.clone()
    got = samplers.sample(sampler, Rational(sampler.wants_uncond), x, walk.sigmas, noise, levels=LEVELS)
    assert got.dtype == dtype
    assert got.shape == x.shape
    assert torch.isfinite(got).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 25, 40])
def test_any_number_of_steps_gives_numbers(name: str, steps: int) -> None:
    assert torch.isfinite(run(row(name), [5], steps)).all()


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.75, 1.0])
def test_any_strength_gives_numbers(name: str, strength: float) -> None:
    sampler = row(name)
    walk = schedules.plan_walk(sampler, AUTOMATIC, 6, LEVELS, strength=strength)
    noise = BatchNoise([PictureNoise(3)], SHAPE, source="NV", brownian=walk.brownian)
    x = walk.from_picture(torch.full((1, *SHAPE), 0.5), noise.initial)
    got = samplers.sample(sampler, Rational(sampler.wants_uncond), x, walk.sigmas, noise, levels=LEVELS)
    assert torch.isfinite(got).all()


# Steps


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_each_step_is_told_once_and_in_order(name: str) -> None:
    told: list[tuple[int, float]] = []
    xs: list[Tensor] = []

    def on_step(step: int, x: Tensor, denoised: Tensor, sigma: float) -> None:
        told.append((step, sigma))
        xs.append(x)
        assert denoised.shape == x.shape

    for steps in (7, 9, 24, 40):
        told.clear()
        got = run(row(name), [1], steps, on_step=on_step)
        expected = row(name).outer_steps(steps)
        assert [step for step, _ in told] == list(range(len(told)))
        if name != "Restart":
            sigmas = [sigma for _, sigma in told]
            assert sigmas == sorted(sigmas, reverse=True)
        if row(name).grid == "ddim":
            expected = len(schedules.ddim_timesteps(steps)) - 1
        elif row(name).grid == "unipc":
            expected = len(schedules.ddim_timesteps(steps))
        assert expected is None or len(told) == expected
        # The last x is the result, but for the scaling the timestep samplers leave in.
        ratio = got / xs[-1]
        torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.flatten()[0])))


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("at", [0, 2])
def test_an_interrupt_acts_at_its_step(name: str, at: int) -> None:
    sampler = row(name)
    calls: list[int] = []
    model = Rational(sampler.wants_uncond)

    def on_step(step: int, x: Tensor, denoised: Tensor, sigma: float) -> None:
        calls.append(model.calls)
        if step == at:
            raise Cancelled("Interrupted.")

    with pytest.raises(Cancelled):
        run(sampler, [1], 9, on_step=on_step, model=model)
    assert len(calls) == at + 1
    assert model.calls == calls[-1]


@pytest.mark.parametrize(
    ("name", "each"),
    [
        *(
            (name, 1)
            for name in ("Euler", "Euler a", "LMS", "DPM++ 2M", "DPM++ 2M SDE", "DDIM", "IPNDM", "DEIS", "LCM")
        ),
        *((name, 2) for name in ("Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "Restart")),
    ],
)
def test_calls_of_each_step(name: str, each: int) -> None:
    """What makes prompt schedules and a refiner switch act at a known step."""
    model, counts = Rational(), [0]

    def on_step(step: int, x: Tensor, denoised: Tensor, sigma: float) -> None:
        counts.append(model.calls)

    run(row(name), [1], 8, on_step=on_step, model=model)
    spent = [b - a for a, b in itertools.pairwise(counts)]
    assert spent[:-1] == [each] * (len(spent) - 1)
    assert spent[-1] == 1


# Known relations


def test_ddpm_is_euler_a_with_full_eta() -> None:
    torch.testing.assert_close(
        run(row("DDPM"), [1], dtype=torch.float64), run(row("Euler a"), [1], dtype=torch.float64)
    )


def test_without_eta_the_sde_sampler_is_the_ode_one() -> None:
    x = torch.randn((1, 4, 5, 7), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 14.6
    sde = samplers.sample_dpmpp_2m_sde(Rational(), x, KARRAS_10, Silence(), eta=0.0)
    torch.testing.assert_close(sde, samplers.sample_dpmpp_2m(Rational(), x, KARRAS_10, Silence()))


def test_without_eta_or_churn_nothing_is_drawn() -> None:
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64) * 14.6
    for sampler in SAMPLERS:
        if sampler.name in ("DDPM", "LCM", "Restart", "TCD"):
            continue
        options = {"eta": 0.0} if "eta" in sampler.reads else {}
        model = Rational(sampler.wants_uncond)
        # `Silence` raises when it is asked for noise.
        drawn = samplers.load(sampler)(model, x, KARRAS_10[:-1], Silence(), **dict(sampler.fixed), **options)
        assert drawn.isfinite().all(), sampler.name


def test_restart_goes_back_up_once_or_twice() -> None:
    for steps, ups in ((10, 0), (20, 1), (35, 1), (36, 2)):
        model = Rational()
        run(row("Restart"), [1], steps, model=model)
        # Inside a Heun step the second call lies lower, so only restarts go up by more than a step.
        firsts = model.sigmas[0::2]
        assert sum(b > a for a, b in itertools.pairwise(firsts)) == ups
        assert model.calls == 2 * steps - 1


@pytest.mark.parametrize(
    "name",
    [
        *("Euler a", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DDPM"),
        *("Restart", "DPM fast", "DPM adaptive", "DDIM"),
    ],
)
def test_noise_put_back_has_its_level(name: str, test_seed: int) -> None:
    """From pure noise to data of deviation 1/2: too much or too little noise anywhere would change the spread."""
    options = Sampling(eta_ddim=1.0)
    # Euler's own error in 40 steps would be as large as what is looked for.
    steps = 40 if row(name).order == 2 or row(name).brownian else 250
    walk = schedules.plan_walk(row(name), AUTOMATIC, steps, LEVELS, options)
    noise = BatchNoise([PictureNoise(test_seed)], (4, 24, 24), source="CPU", brownian=walk.brownian)

    def centred(x: Tensor, sigma: Tensor) -> Tensor:
        return x * (0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2))

    x = walk.from_noise(noise.initial).double()
    got = samplers.sample(row(name), centred, x, walk.sigmas, noise, samplers.ignore, options)
    assert abs(float(got.std()) - 0.5) < 0.05


def test_options_reach_only_the_samplers_that_read_them() -> None:
    changed = Sampling(eta_ancestral=0.3, eta_ddim=0.7, s_churn=9.0, s_noise=0.9, uni_pc_variant="bh2", tcd_gamma=0.6)
    touched = {
        sampler.name for sampler in SAMPLERS if not torch.equal(run(sampler, [1]), run(sampler, [1], options=changed))
    }
    assert touched == {sampler.name for sampler in SAMPLERS if sampler.reads}


def test_churn_is_limited_to_its_range() -> None:
    inside = Sampling(s_churn=5.0, s_tmin=1.0, s_tmax=5.0)
    outside = Sampling(s_churn=5.0, s_tmin=9.99, s_tmax=9.991)
    euler = row("Euler")
    assert torch.equal(run(euler, [1], options=outside), run(euler, [1]))
    assert not torch.equal(run(euler, [1], options=inside), run(euler, [1]))


def test_a_broken_model_ends_dpm_adaptive() -> None:
    with pytest.raises(NotANumber, match="DPM adaptive"):
        samplers.sample_dpm_adaptive(lambda x, s: x * math.nan, torch.ones(1, 1, 2, 2), [9.0, 0.1], Silence())


def test_wrong_variants_are_named() -> None:
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(BadRequest, match="bh1, bh2 or vary_coeff"):
        samplers.sample_uni_pc(gaussian, x, [9.0, 0.1], Silence(), variant="bh3")
    with pytest.raises(BadRequest, match="midpoint or heun"):
        samplers.sample_dpmpp_2m_sde(gaussian, x, [9.0, 0.1], Silence(), solver="euler")


@pytest.mark.parametrize(("steps", "gamma"), [(4, 0.0), (4, 0.3), (8, 0.7)])
def test_tcd_equals_diffusers(steps: int, gamma: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.TCDScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(steps)
    sampler, seed = row("TCD"), 11
    noise = BatchNoise([PictureNoise(seed)], SHAPE, source="CPU")
    x = noise.initial.clone()
    generator = torch.Generator().manual_seed(seed)
    torch.randn(SHAPE, generator=generator)  # the first noise
    model = Rational()
    for t in theirs.timesteps:
        sigma = LEVELS.table[t].view(1)
        scaled = x * (1 + sigma**2) ** 0.5
        denoised = model(scaled, sigma)
        assert isinstance(denoised, Tensor)
        eps = (scaled - denoised) / sigma
        x = theirs.step(eps, t, x, eta=gamma, generator=generator).prev_sample
    walk = schedules.plan_walk(sampler, AUTOMATIC, steps, LEVELS)
    options = Sampling(tcd_gamma=gamma)
    start = walk.from_noise(noise.initial)
    got = samplers.sample(sampler, Rational(), start, walk.sigmas, noise, samplers.ignore, options, LEVELS)
    torch.testing.assert_close(got, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_flow_noise_put_back_has_its_level(eta: float, test_seed: int) -> None:
    """Of pictures that are normal with deviation SPREAD the perfect flow denoiser gives back that deviation."""
    levels = FlowSchedule.of(3.0)
    sigmas = [1.0, *torch.linspace(0.995, 0.0, 200).tolist()]
    generator = torch.Generator().manual_seed(test_seed)
    x = torch.randn(4, 4, 40, 40, generator=generator, dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return x * ((1 - s) * SPREAD**2 / ((1 - s) ** 2 * SPREAD**2 + s * s))

    noise = BatchNoise([PictureNoise(test_seed + k) for k in range(4)], (4, 40, 40), source="NV")
    got = samplers.sample(row("Euler a"), denoise, x, sigmas, noise, options=Sampling(eta_ancestral=eta), levels=levels)
    assert abs(float(got.std()) - SPREAD) < 0.03


def test_flow_noise_keeps_the_shares_of_picture_and_noise() -> None:
    for s, q, eta in itertools.product((0.9, 0.5), (0.4, 0.1), (0.3, 1.0)):
        down, up, scale = samplers.flow_ancestral(s, q, eta)
        assert (1 - down) * scale == pytest.approx(1 - q)
        assert (down * scale) ** 2 + up**2 == pytest.approx(q * q)
