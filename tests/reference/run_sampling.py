"""Reference cases of schedules, samplers and noise. Numbers in them are rounded to six to eight digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modules.sampling import samplers, schedules
from modules.sampling.noise import BatchNoise, Philox, make_generator, picture_noises
from modules.sampling.prediction import NoiseSchedule, alphas_cumprod, zero_terminal_snr
from modules.sampling.table import AUTOMATIC, find_sampler, find_schedule
from modules.schema.settings import Sampling

LEVELS = NoiseSchedule.stable_diffusion()
EULER = find_sampler("Euler")[0]
# How the case file calls ComfyUI's variants of schedules that A1111 has too.
LABELS = {
    "Beta (ComfyUI variant, timestep space)": "beta_timesteps",
    "KL Optimal (ComfyUI variant)": "kl_optimal_zero",
    "Align Your Steps (SDXL)": "align_your_steps",
}


def close(got: Tensor | Sequence, expected: object, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """Equal within rtol; atol covers the rounding of the file."""
    found = torch.as_tensor(got, dtype=torch.float64).flatten()
    wanted = torch.as_tensor(expected, dtype=torch.float64).flatten()
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


class Toy:
    """The denoiser of the cases, D(x, s) = (x + s^2 / 2 tanh(x / (1 + s))) / (1 + s^2), counting its calls.

    `pair` makes what CFG++ wants out of D, x and sigma.
    """

    def __init__(self, pair: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> None:
        self.calls, self.pair = 0, pair

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self.calls += 1
        s = sigma.view(-1, 1, 1, 1)
        denoised = (x + 0.5 * s**2 * torch.tanh(x / (1 + s))) / (1 + s**2)
        return (denoised, self.pair(denoised, x, s)) if self.pair else denoised


class Sequential:
    """The noise of the cases: whatever is asked for, the next block of one Philox stream."""

    def __init__(self) -> None:
        self.generator, self.draws = Philox(123), 0

    def draw(self, only: Sequence[int] | None = None) -> Tensor:
        self.draws += 1
        return self.generator.randn((1, 1, 2, 2))

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        return self.draw()


def _check_calls(case: dict, model: Toy, noise: Sequential) -> None:
    assert model.calls == case["model_calls"]
    # The originals draw in some steps what they do not use; those draws are left out where all of them are.
    assert noise.draws in (0, case["noise_draws"])


def check_sampler(case: dict) -> None:
    name = case["name"].partition(" (")[0]
    row, _ = find_sampler(name)
    # "uncond_denoised := 0.8*denoised"
    model = Toy((lambda d, x, s: 0.8 * d) if row.wants_uncond else None)
    noise = Sequential()
    sigmas = torch.tensor(case["sigmas"], dtype=torch.float64)
    x = torch.tensor(case["x0"], dtype=torch.float64).view(1, 1, 2, 2)
    params: dict = dict(row.fixed) | {PARAMETERS.get(k, k): v for k, v in case["params"].items()}
    got = samplers.load(row)(model, x, sigmas, noise, **params)
    close(got, case["expected"])
    _check_calls(case, model, noise)


PARAMETERS = {"solver_type": "solver"}


def check_timestep_sampler(case: dict) -> None:
    row, _ = find_sampler(case["name"].partition(" (")[0])
    params, times = dict(case["params"]), case["timesteps"]
    skip = params.pop("skip_type", "time_uniform")
    if row.grid == "unipc":
        start = params.pop("t_start", None) or 1.0
        sigmas = schedules.unipc_sigmas(len(times), start, LEVELS, skip)
    else:
        sigmas = schedules.ddim_sigmas(times, LEVELS)
    # "uncond eps" is 0.8 eps
    model = Toy((lambda d, x, s: x - 0.8 * (x - d)) if row.wants_uncond else None)
    noise = Sequential()
    x = torch.tensor(case["x0"], dtype=torch.float64).view(1, 1, 2, 2) * math.sqrt(1 + float(sigmas[0]) ** 2)
    got = samplers.load(row)(model, x, sigmas, noise, **params)
    close(got, case["expected"])
    _check_calls(case, model, noise)


def check_sigmas(case: dict) -> None:
    names = {"rho": "rho", "sigma_min": "sigma_min", "sigma_max": "sigma_max"}
    names |= {"alpha": "beta_dist_alpha", "beta": "beta_dist_beta"}
    options = Sampling.model_validate({name: case[key] for key, name in names.items() if key in case})
    schedule = find_schedule(LABELS.get(case["scheduler"], case["scheduler"]))
    sdxl = case["model"] == "sdxl"
    close(schedules.make_sigmas(EULER, schedule, case["steps"], LEVELS, options, sdxl=sdxl), case["expected"])


def check_ddim_timesteps(case: dict) -> None:
    times, expected = schedules.ddim_timesteps(case["steps"]), case["expected"]
    assert len(times) == expected["count"]
    assert (
        max(len(schedules.make_sigmas(find_sampler("DDIM")[0], AUTOMATIC, case["steps"], LEVELS)) - 1, 0)
        == (expected["model_calls"])
    )
    assert times[: len(expected["first"])] == expected["first"]
    assert times[-len(expected["last"]) :] == expected["last"]


def check_lcm_sigmas(case: dict) -> None:
    close(schedules.make_sigmas(find_sampler("LCM")[0], AUTOMATIC, case["steps"], LEVELS), case["expected"])


def check_img2img_steps(case: dict) -> None:
    steps, strength, exact, *hires = case["args"]
    expected = case["expected"]
    total, t_enc = schedules.img2img_steps(hires[0] if hires else steps, strength, exact=exact, forced=bool(hires))
    assert (total, t_enc) == (expected["schedule_steps"], expected["t_enc"])
    assert (t_enc + 1, total - t_enc - 1) == (expected["progress_steps"], expected["sigma_slice_start"])
    if total:
        walk = schedules.plan_walk(
            EULER, AUTOMATIC, hires[0] if hires else steps, LEVELS, strength=strength, exact=exact, forced=bool(hires)
        )
        assert len(walk.sigmas) == expected["progress_steps"] + 1


def check_philox(case: dict) -> None:
    generator = Philox(case["seed"])
    close(generator.randn(case["shape"]), case["expected"])
    if "second_call_shape" in case:
        close(generator.randn(case["second_call_shape"]), case["second_expected"])


def check_philox_raw(case: dict) -> None:
    k0, k1 = case["key"]
    assert [int(word) for word in Philox.words(case["counter"], (k0, k1))] == case["expected"]


def check_torch_cpu_randn(case: dict) -> None:
    close(make_generator("CPU", case["seed"]).randn(case["shape"]), case["expected"])


def check_image_rng(case: dict) -> None:
    args = case["args"]
    pictures = picture_noises(
        args["seeds"],
        args.get("subseeds", ()),
        args.get("subseed_strength", 0.0),
        (args.get("seed_resize_from_h", 0), args.get("seed_resize_from_w", 0)),
        case.get("ensd", 0),
    )
    c, h, w = args["shape"]
    noise = BatchNoise(pictures, (c, h, w), source=case["source"])
    for call, expected in enumerate(case["expected_calls"]):
        close(noise.draw() if call else noise.initial, expected)


def check_brownian(case: dict) -> None:
    _, c, h, w = case["shape"]
    ends = case["sigma_min"], case["sigma_max"]
    noise = BatchNoise(picture_noises(case["seeds"]), (c, h, w), source=case["source"], brownian=ends)
    for (sigma, sigma_next), expected in zip(case["queries"], case["expected"]):
        close(noise.between(sigma, sigma_next), expected)


def check_alphas_cumprod(case: dict) -> None:
    expected = case["expected"]
    close(alphas_cumprod()[expected["idx"]], expected["alphas_cumprod"], atol=0)
    close(LEVELS.table[expected["idx"]], expected["sigmas"], atol=0)


def check_zsnr(case: dict) -> None:
    expected = case["expected"]
    index = expected["alphas_cumprod_idx"]
    close(zero_terminal_snr(alphas_cumprod())[index], expected["alphas_cumprod"], atol=0)
    close(NoiseSchedule.stable_diffusion(zero_snr=True).table[index], expected["sigmas"], atol=0)


def check_sigma_to_t(case: dict) -> None:
    sigmas = torch.tensor(case["sigmas"])
    close(LEVELS.sigma_to_t(sigmas), case["expected"], atol=1e-4)
    if "expected_quantized" in case:
        close(NoiseSchedule.stable_diffusion(quantize=True).sigma_to_t(sigmas), case["expected_quantized"], rtol=0)


def check_t_to_sigma(case: dict) -> None:
    close(LEVELS.t_to_sigma(torch.tensor(case["t"])), case["expected"])


RUNNERS: dict[str, Callable[[dict], None]] = {
    "sigmas": check_sigmas,
    "sampler": check_sampler,
    "timestep_sampler": check_timestep_sampler,
    "ddim_timesteps": check_ddim_timesteps,
    "lcm_sigmas": check_lcm_sigmas,
    "img2img_steps": check_img2img_steps,
    "philox": check_philox,
    "philox_raw": check_philox_raw,
    "torch_cpu_randn": check_torch_cpu_randn,
    "image_rng": check_image_rng,
    "brownian": check_brownian,
    "alphas_cumprod": check_alphas_cumprod,
    "zsnr": check_zsnr,
    "sigma_to_t": check_sigma_to_t,
    "t_to_sigma": check_t_to_sigma,
}
