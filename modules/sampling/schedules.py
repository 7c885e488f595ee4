"""Noise schedules: how a number of steps is spread over noise levels.

Each takes (n, sigma_min, sigma_max, basis) and returns falling sigmas, float32: n of them and a 0, where
nothing else is said. `make_sigmas` chooses one and applies the settings; `plan_walk` adds where a run starts, from
noise or from a picture.
Karras et al. 2022 (arXiv:2206.00364) eq. 5; "align your steps": Sabour et al. 2024 (arXiv:2404.14507); beta: Lee et al.
2024 (arXiv:2407.12173).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modules.sampling.prediction import EDMSchedule, FlowSchedule, NoiseLevels, NoiseSchedule
from modules.sampling.table import AUTOMATIC, Sampler, Schedule, resolve
from modules.schema.errors import BadRequest
from modules.schema.settings import Sampling

DEFAULTS = Sampling()
TCD_LEVELS = 50


@dataclass(frozen=True, eq=False)
class Basis:
    """What a schedule may ask about: the model's noise levels, the options, and whether the model is of SDXL's kind
    (which of two tables "align your steps" takes)."""

    levels: NoiseLevels
    options: Sampling = DEFAULTS
    sdxl: bool = False


def with_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def uniform(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Even steps in the model's own time, over its whole table, whatever the range."""
    return normal(n, float(basis.levels.table[0]), float(basis.levels.table[-1]), basis)


def normal(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Even steps in the model's own time, over the range."""
    start, end = basis.levels.sigma_to_t(torch.tensor([sigma_max, sigma_min]))
    return with_zero(basis.levels.t_to_sigma(torch.linspace(float(start), float(end), n)))


def sgm_uniform(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Even steps in the model's time that would reach sigma_min one step later (Stability's generative-models)."""
    start, end = basis.levels.sigma_to_t(torch.tensor([sigma_max, sigma_min]))
    return with_zero(basis.levels.t_to_sigma(torch.linspace(float(start), float(end), n + 1)[:-1]))


def karras(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Even steps in sigma^(1/rho), rho 7."""
    return with_zero(karras_range(n, sigma_min, sigma_max, basis.options.rho or 7.0))


def karras_range(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """[n] float32 from sigma_max to sigma_min, without the 0."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + torch.linspace(0, 1, n) * (low - high)) ** rho


def exponential(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Even steps in log sigma."""
    return with_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), n).exp())


def polyexponential(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Steps in log sigma that grow as a power rho, 1 being exponential."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    ramp = torch.linspace(1, 0, n) ** (basis.options.rho or 1.0)
    return with_zero(torch.exp(ramp * (high - low) + low))


def kl_optimal(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Even steps in the angle arctan sigma (in the appendix of Sabour et al.). n + 1 values; the last is sigma_min."""
    return _angles(n, sigma_min, sigma_max)


def kl_optimal_zero(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """The same as ComfyUI has it: n values down to sigma_min, then 0."""
    return with_zero(_angles(n - 1, sigma_min, sigma_max)) if n > 1 else torch.tensor([sigma_max, 0.0])


def _angles(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    low, high = torch.tensor(sigma_min).atan(), torch.tensor(sigma_max).atan()
    part = torch.arange(n + 1) / n
    return torch.tan(part * low + (1.0 - part) * high)


# [SD 1 and 2, SDXL]
_AYS = (
    (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
)
_AYS_GITS = (
    (14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029),
    (14.615, 4.734, 2.567, 1.529, 0.987, 0.652, 0.418, 0.268, 0.179, 0.127, 0.029),
)
_AYS_32 = (
    (
        *(14.615, 11.23951352, 8.64363081, 6.64729424, 5.57250862, 4.71648546, 3.99196065, 3.5195609),
        *(3.13490466, 2.79228788, 2.48773628, 2.21663865, 1.97508351, 1.7793172, 1.61475335, 1.46540953),
        *(1.314849, 1.16642497, 1.03475547, 0.91573744, 0.80748169, 0.71202361, 0.621739, 0.53065202),
        *(0.4529096, 0.37491455, 0.27461819, 0.2011529, 0.14105873, 0.06682881, 0.03166121, 0.015),
    ),
    (
        *(14.615, 11.1491618, 8.50522127, 6.48827151, 5.43707402, 4.60398619, 3.89854704, 3.27407457),
        *(2.74396527, 2.29968659, 1.95448514, 1.67108715, 1.42878152, 1.23181009, 1.06789649, 0.92579443),
        *(0.80290886, 0.69660121, 0.60436903, 0.52852552, 0.46773344, 0.41393379, 0.36258186, 0.31008517),
        *(0.26518925, 0.22326461, 0.17653877, 0.13959192, 0.10587381, 0.05519369, 0.02877334, 0.015),
    ),
)


def _from_table(n: int, table: Sequence[float]) -> Tensor:
    """n values on straight lines through the table in log sigma, then 0. One step takes the table's last value."""
    if n == len(table):
        return torch.tensor([*table, 0.0])
    rising = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(table)), np.log(table[::-1]))
    return with_zero(torch.from_numpy(np.exp(rising)[::-1].astype(np.float32)))


def align_your_steps(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Eleven levels found by optimisation, one table for SD 1 and 2, one for SDXL; other lengths are interpolated."""
    return _from_table(n, _AYS[basis.sdxl])


def align_your_steps_11(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """The same table under the name some forks give it."""
    return _from_table(n, _AYS[basis.sdxl])


def align_your_steps_gits(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Eleven levels from the geometry of trajectories (GITS, Chen et al. 2024, arXiv:2405.11326)."""
    return _from_table(n, _AYS_GITS[basis.sdxl])


def align_your_steps_32(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """A finer table of 32 levels, down to sigma 0.015."""
    return _from_table(n, _AYS_32[basis.sdxl])


def simple(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Every (length / n)-th entry of the table from the top."""
    stride = len(basis.levels.table) / n
    return with_zero(basis.levels.table[[-(1 + int(i * stride)) for i in range(n)]].cpu())


def ddim(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """The table's entries 1, 1 + s, 1 + 2s, ... with s = length // n; can be one more than n."""
    stride = max(len(basis.levels.table) // n, 1)
    return with_zero(basis.levels.table[1::stride].flip(0).cpu())


def turbo(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Timesteps 1000 k / n - 1 for k = n ... 1, what distilled "turbo" models are taught."""
    steps = (torch.arange(1, n + 1) * (1000.0 / n) - 1).round().long().clamp(0, 999).flip(0)
    return with_zero(_at_timesteps(steps.tolist(), basis.levels))


def beta(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Quantiles of a beta distribution, put straight on the range of sigma as A1111 does."""
    quantiles = [
        beta_quantile(p, basis.options.beta_dist_alpha, basis.options.beta_dist_beta) for p in 1 - np.linspace(0, 1, n)
    ]
    return torch.tensor([sigma_min + q * (sigma_max - sigma_min) for q in quantiles] + [0.0])


def beta_timesteps(n: int, sigma_min: float, sigma_max: float, basis: Basis) -> Tensor:
    """Quantiles of a beta distribution as timesteps, as the paper and ComfyUI have it; equal ones are dropped."""
    last = len(basis.levels.table) - 1
    steps = [
        round(beta_quantile(p, basis.options.beta_dist_alpha, basis.options.beta_dist_beta) * last)
        for p in 1 - np.linspace(0, 1, n, endpoint=False)
    ]
    return with_zero(basis.levels.table[list(dict.fromkeys(steps))].cpu())


def beta_quantile(p: float, a: float, b: float) -> float:
    """x with I_x(a, b) = p, the regularised incomplete beta function; by bisection, to float64's precision."""
    if p <= 0 or p >= 1:
        return float(p >= 1)
    # An answer in the upper half is found as its distance from 1, where float64 is finer.
    if p > _beta_cdf(0.5, a, b):
        return 1 - _lower_beta_quantile(1 - p, b, a)
    return _lower_beta_quantile(p, a, b)


def _lower_beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 0.5
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)
    return high


def _beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (Abramowitz & Stegun 26.5.8), evaluated forward as Lentz does."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction, c, d = 1.0, 1.0, 0.0
    for i in range(400):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + term * d) or 1e-300)
        c = (1 + term / c) or 1e-300
        fraction *= c * d
        if abs(1 - c * d) < 1e-16:
            break
    return math.exp(log_front) / a * (fraction - 1)


def ddim_timesteps(steps: int) -> list[int]:
    """Rising timesteps of the DDIM family; the walk is down them, so there is one call less than entries."""
    if not 1 <= steps <= 1000:
        raise BadRequest(f"{steps} steps are not possible; DDIM and its kin take 1 to 1000.", field="steps")
    return [min(t + 1, 999) for t in range(0, 1000, 1000 // steps)]


def img2img_steps(steps: int, strength: float, *, exact: bool = False, forced: bool = False) -> tuple[int, int]:
    """(length of the schedule, index t_enc): t_enc + 1 steps of it are run.

    `exact`: the setting "do exactly the amount of steps"; `forced`: the number is explicit, as in a hires pass.
    """
    strength = min(strength, 0.999)
    if not (exact or forced):
        return steps, int(strength * steps)
    return (int(steps / strength) if strength > 0 else 0), steps - 1


def ddim_sigmas(timesteps: Sequence[int], levels: NoiseLevels) -> Tensor:
    """Falling sigmas, float32, of rising timesteps."""
    return _at_timesteps(timesteps[::-1], levels)


def _at_timesteps(timesteps: Sequence[int], levels: NoiseLevels) -> Tensor:
    """Sigmas of timesteps 0…999. EDM's nets have another time; there a timestep counts places in the table."""
    if isinstance(levels, EDMSchedule):
        return levels.table[list(timesteps)].cpu()
    return levels.t_to_sigma(torch.tensor(timesteps, dtype=torch.float32))


def levels_for(sampler: Sampler, levels: NoiseLevels) -> NoiseLevels:
    """The table a sampler's schedule is made on: the coarse one for consistency models."""
    return levels.lcm() if sampler.lcm and isinstance(levels, NoiseSchedule) else levels


def _function(schedule: Schedule) -> Callable[[int, float, float, Basis], Tensor]:
    module, _, name = schedule.function.partition(":")
    return getattr(importlib.import_module(module), name)


def make_sigmas(
    sampler: Sampler,
    schedule: Schedule,
    steps: int,
    levels: NoiseLevels,
    options: Sampling = DEFAULTS,
    *,
    sdxl: bool = False,
) -> Tensor:
    """[n + 1] falling float32 sigmas on the CPU for one sampler. AUTOMATIC is the sampler's own schedule.

    For the timestep samplers (`grid` "ddim", "unipc", "tcd") the schedule has no effect and the last level is not 0.
    Usually n is `steps`; a few schedules have one more or less.
    """
    if steps < 1:
        raise BadRequest(f"{steps} steps are not possible; choose 1 or more.", field="steps")
    if sampler.grid == "ddim":
        return ddim_sigmas(ddim_timesteps(steps), levels)
    if sampler.grid == "unipc":
        return unipc_sigmas(len(ddim_timesteps(steps)), 1.0, levels, options.uni_pc_skip_type)
    if sampler.grid == "tcd":
        return _tcd_sigmas(steps, levels)
    row, levels = resolve(sampler, schedule), levels_for(sampler, levels)
    discard = sampler.discard_penultimate or options.always_discard_next_to_last_sigma
    low, high = float(levels.table[0]), float(levels.table[-1])
    if row.takes_range:
        if options.use_old_karras_scheduler_sigmas:
            low, high = 0.1, 10.0
        low, high = options.sigma_min or low, options.sigma_max or high
        if low >= high:
            raise BadRequest(f"Sigma min {low:g} must be below sigma max {high:g}.", field="sigma_min")
    sigmas = _function(row)(steps + discard, low, high, Basis(levels, options, sdxl)).float()
    return torch.cat([sigmas[:-2], sigmas[-1:]]) if discard else sigmas


def _log_alphas(levels: NoiseLevels) -> tuple[np.ndarray, np.ndarray]:
    """Times i / n, i = 1 ... n, and log sqrt(alphas_cumprod) of each, float64."""
    table = levels.table.double().cpu().numpy()
    return np.arange(1, len(table) + 1) / len(table), -0.5 * np.log1p(table**2)


def unipc_sigmas(n: int, start: float, levels: NoiseLevels, skip: str) -> Tensor:
    """[n + 1] sigmas of UniPC's continuous times from `start` down to the first, log alpha interpolated."""
    times, log_alphas = _log_alphas(levels)
    end = float(times[0])
    if skip == "time_uniform":
        t = np.linspace(start, end, n + 1)
    elif skip == "time_quadratic":
        t = np.linspace(start**0.5, end**0.5, n + 1) ** 2
    elif skip == "logSNR":
        ends = np.interp([start, end], times, log_alphas)
        half_log_snr = ends - 0.5 * np.log(-np.expm1(2 * ends))
        return torch.from_numpy(np.exp(-np.linspace(half_log_snr[0], half_log_snr[1], n + 1))).float()
    else:
        raise BadRequest(
            f"UniPC has no skip type {skip!r}; use time_uniform, time_quadratic or logSNR.", field="uni_pc_skip_type"
        )
    log_alpha = np.interp(t, times, log_alphas)
    return torch.from_numpy(np.sqrt(np.expm1(-2 * log_alpha))).float()


def _tcd_sigmas(steps: int, levels: NoiseLevels, strength: float = 1.0) -> Tensor:
    """[n + 1] sigmas: n evenly chosen of the lower `strength` of the 50 levels of distillation, then timestep 0."""
    stride = len(levels.table) // TCD_LEVELS
    top = max(int(TCD_LEVELS * strength), 1)
    if steps > TCD_LEVELS:
        raise BadRequest(f"TCD takes at most {TCD_LEVELS} steps, {steps} are asked for.", field="steps")
    chosen = [(top - int(i)) * stride - 1 for i in np.linspace(0, top, min(steps, top), endpoint=False)]
    return levels.table[[*chosen, 0]].cpu()


@dataclass(frozen=True, eq=False)
class Walk:
    """Where a run starts and which levels it goes down.

    `sigmas` [n + 1] is what the sampler is given. `start`: noise level of the first x, `sigmas[0]` except where A1111
    starts elsewhere (DDIM family from a picture). `brownian`: lowest and highest level of the whole schedule.
    """

    sampler: Sampler
    sigmas: Tensor
    start: float
    brownian: tuple[float, float] | None = None
    flow: bool = False

    def from_noise(self, noise: Tensor, *, sgm_noise_multiplier: bool = False) -> Tensor:
        """x of a picture out of nothing: unit noise [B, C, h, w] raised to the first level."""
        if self.flow:
            return noise * self.start
        if self.sampler.variance_preserving or sgm_noise_multiplier:
            return noise * math.sqrt(1 + float(self.sigmas[0] if self.sampler.variance_preserving else self.start) ** 2)
        return noise * self.start

    def from_picture(self, latents: Tensor, noise: Tensor, *, extra_noise: float = 0.0) -> Tensor:
        """x of a picture out of another: its latents with noise of the first level, and a little more if wanted."""
        if self.flow:
            return latents * (1 - self.start) + noise * (self.start + extra_noise)
        x = latents + noise * (self.start + extra_noise)
        if not self.sampler.variance_preserving:
            return x
        # Noised to one level and taken for another: the scaling of both must be gone through.
        return x * math.sqrt((1 + float(self.sigmas[0]) ** 2) / (1 + self.start**2))


def plan_walk(
    sampler: Sampler,
    schedule: Schedule = AUTOMATIC,
    steps: int = 20,
    levels: NoiseLevels | None = None,
    options: Sampling = DEFAULTS,
    *,
    sdxl: bool = False,
    strength: float | None = None,
    exact: bool = False,
    forced: bool = False,
) -> Walk:
    """The walk of one run. Without `strength` it starts from noise, with it from a picture (`img2img_steps`).

    `levels` are the model's, as of its checkpoint; SD's if none are given. Sigmas are float32 on the CPU.
    """
    levels = levels or NoiseSchedule.stable_diffusion()
    flow = isinstance(levels, FlowSchedule)
    if strength is None:
        sigmas = make_sigmas(sampler, schedule, steps, levels, options, sdxl=sdxl)
        walked = sigmas
        if sampler.grid == "range":
            # From noise these samplers go through the model's whole range, whatever the schedule.
            ends = float(levels.table[-1]), float(levels.table[0])
            walked = with_zero(torch.linspace(*ends, steps)) if steps > 1 else torch.tensor(ends)
        return Walk(sampler, walked, float(sigmas[0]), _brownian_range(sampler, sigmas), flow)
    total, t_enc = img2img_steps(steps, strength, exact=exact, forced=forced)
    if total <= t_enc:
        # Exact steps at strength 0: there is nothing to spread them over, so it is one step as without "exact".
        total, t_enc = steps, 0
    if sampler.grid == "tcd":
        sigmas = _tcd_sigmas(min(t_enc + 1, TCD_LEVELS), levels, strength)
        return Walk(sampler, sigmas, float(sigmas[0]), None, flow)
    if sampler.grid in ("ddim", "unipc"):
        total = min(total, 1000)
        # The picture is noised to timestep t_enc and the walk begins at the one below.
        times = ddim_timesteps(total)
        top = times[min(t_enc, len(times) - 1)]
        walked_times = times[:t_enc]
        start = float(_at_timesteps([top], levels))
        if not walked_times:
            return Walk(sampler, torch.tensor([start]), start, None, flow)
        if sampler.grid == "unipc":
            count = len(levels.table)
            sigmas = unipc_sigmas(len(walked_times), (walked_times[-1] + 1) / count, levels, options.uni_pc_skip_type)
        else:
            sigmas = ddim_sigmas(walked_times, levels)
        return Walk(sampler, sigmas, start, None, flow)
    sigmas = make_sigmas(sampler, schedule, total, levels, options, sdxl=sdxl)
    # A schedule may be shorter than its steps; one step is always left.
    walked = sigmas[min(max(total - t_enc - 1, 0), len(sigmas) - 2) :]
    return Walk(sampler, walked, float(walked[0]), _brownian_range(sampler, sigmas), flow)


def _brownian_range(sampler: Sampler, sigmas: Tensor) -> tuple[float, float] | None:
    if not sampler.brownian:
        return None
    return float(sigmas[sigmas > 0].min()), float(sigmas.max())
