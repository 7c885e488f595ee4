"""Samplers: from noise down to a picture, one function for each row of `table.SAMPLERS`.

    sample_x(denoise, x, sigmas, noise, on_step, **options) -> x

denoise   (x [B, C, h, w], sigma [B]) -> denoised [B, C, h, w]; the samplers of the CFG++ family are given one that
          answers (denoised, unconditional denoised).
x         x0 + sigmas[0] * noise, float32 or float64. All samplers hold x in this variance-exploding scaling, those
          that are written for variance-preserving x (DDIM, PLMS, UniPC, TCD) too: with X = x / sqrt(a) and
          sigma^2 = (1 - a) / a their steps are the same steps. As A1111 leaves it, those return x * sqrt(a) at the end,
          for their last level is not 0.
sigmas    [n + 1] falling; read once, so that no step waits for the device.
noise     unit noise, see `noise.StepNoise`; nothing is drawn that is not used, except where a sequence would shift.
on_step   (step, x after it, denoised at its beginning, its sigma), once for each outer step; may raise to stop.

Coefficients are Python floats (float64). On tensors there are only elementwise operations, and sums over a whole
picture are made picture by picture, so that no picture depends on the others in its batch.
Notation: a step goes from level s to level q; D is denoised, d = (x - D) / s,
h = ln(s / q).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modules.sampling.noise import StepNoise
from modules.sampling.prediction import FlowSchedule, NoiseLevels
from modules.sampling.schedules import karras_range
from modules.sampling.table import Sampler
from modules.schema.errors import BadRequest, NotANumber
from modules.schema.settings import Sampling

Denoise = Callable[[Tensor, Tensor], Tensor]
DenoisePair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
OnStep = Callable[[int, Tensor, Tensor, float], None]


def ignore(step: int, x: Tensor, denoised: Tensor, sigma: float) -> None:
    """The `on_step` that does nothing."""


def load(sampler: Sampler) -> Callable[..., Tensor]:
    """The function of a row."""
    module, _, name = sampler.function.partition(":")
    return getattr(importlib.import_module(module), name)


def options_for(sampler: Sampler, options: Sampling, levels: NoiseLevels | None = None) -> dict[str, Any]:
    """The keyword arguments of a row's function: what it reads of the options, and what makes it this row.

    TCD wants the model's `levels`.
    """
    found: dict[str, Any] = dict(sampler.fixed)
    for name in sampler.reads:
        if name == "eta":
            found["eta"] = options.eta_ddim if sampler.variance_preserving else options.eta_ancestral
        elif name == "s_tmax":
            found["s_tmax"] = options.s_tmax or math.inf
        elif name != "uni_pc_skip_type":  # that one makes the sigmas
            found[name.removeprefix("uni_pc_")] = getattr(options, name)
    if sampler.grid == "tcd":
        found["levels"] = levels
    if sampler.flow_noise and isinstance(levels, FlowSchedule):
        found["flow"] = True
    return found


def sample(
    sampler: Sampler,
    denoise: Denoise | DenoisePair,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    options: Sampling | None = None,
    levels: NoiseLevels | None = None,
) -> Tensor:
    """Run a row's function with the options it reads."""
    return load(sampler)(denoise, x, sigmas, noise, on_step, **options_for(sampler, options or Sampling(), levels))


# Shared by the functions below


def _floats(sigmas: Tensor | Sequence[float]) -> list[float]:
    values = sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas
    return [float(s) for s in values]


def _at(x: Tensor, sigma: float) -> Tensor:
    """sigma for every picture of x, [B]."""
    return torch.full((x.shape[0],), sigma, dtype=x.dtype, device=x.device)


def ancestral(s: float, q: float, eta: float) -> tuple[float, float]:
    """Split a step from s to q into a deterministic part down to `down` and noise of level `up` put back."""
    if not eta:
        return q, 0.0
    up = min(q, eta * math.sqrt(max(q * q * (s * s - q * q) / (s * s), 0.0)))
    return math.sqrt(q * q - up * up), up


def flow_ancestral(s: float, q: float, eta: float) -> tuple[float, float, float]:
    """The same split where x is the mix (1 - s) x0 + s noise: (down, up, scale), x at `down` being scaled before noise
    of level `up` is put back, so that the picture's share is 1 - q and the noise's q."""
    if not eta:
        return q, 0.0, 1.0
    down = q * (1 + (q / s - 1) * eta)
    scale = (1 - q) / (1 - down)
    return down, math.sqrt(max(q * q - (down * scale) ** 2, 0.0)), scale


def _churned(
    x: Tensor, s: float, n: int, noise: StepNoise, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> tuple[Tensor, float]:
    """x with some noise put back, and its level (Karras et al., alg. 2)."""
    if s_churn <= 0:
        return x, s
    z = noise.draw()  # in steps outside the limits too: the original's sequence
    gamma = min(s_churn / n, math.sqrt(2) - 1) if s_tmin <= s <= s_tmax else 0.0
    if gamma <= 0:
        return x, s
    raised = s * (gamma + 1)
    return x + z * (s_noise * math.sqrt(raised * raised - s * s)), raised


def _exponential_step(x: Tensor, denoised: Tensor, s: float, q: float) -> Tensor:
    """The exact solution from s to q if D did not change: (q / s) x + (1 - q / s) D."""
    return x * (q / s) + denoised * (1 - q / s)


# Euler and Runge-Kutta methods in sigma


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """Euler steps (Karras et al. 2022, arXiv:2206.00364, alg. 2 without the correction)."""
    levels = _floats(sigmas)
    n = len(levels) - 1
    for i, (s, q) in enumerate(pairwise(levels)):
        x, high = _churned(x, s, n, noise, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, _at(x, high))
        x = x + (x - denoised) / high * (q - high)
        on_step(i, x, denoised, s)
    return x


def sample_euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    flow: bool = False,
) -> Tensor:
    """Euler steps a little too far down, and fresh noise (k-diffusion; Song et al. 2021, arXiv:2011.13456).

    `flow`: x is a flow model's mix of picture and noise.
    """
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        down, up, scale = flow_ancestral(s, q, eta) if flow else (*ancestral(s, q, eta), 1.0)
        x = x + (x - denoised) / s * (down - s)
        if up:
            x = x * scale + noise.draw() * (s_noise * up)
        on_step(i, x, denoised, s)
    return x


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """Heun's method (Karras et al. 2022, arXiv:2206.00364, alg. 2)."""
    levels = _floats(sigmas)
    n = len(levels) - 1
    for i, (s, q) in enumerate(pairwise(levels)):
        x, high = _churned(x, s, n, noise, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, _at(x, high))
        x = _heun_step(denoise, x, denoised, high, q)
        on_step(i, x, denoised, s)
    return x


def _heun_step(denoise: Denoise, x: Tensor, denoised: Tensor, s: float, q: float) -> Tensor:
    d = (x - denoised) / s
    ahead = x + d * (q - s)
    if q == 0:
        return ahead
    d_ahead = (ahead - denoise(ahead, _at(x, q))) / q
    return x + (d + d_ahead) / 2 * (q - s)


def sample_dpm_2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """Midpoint steps, the midpoint taken in log sigma (Lu et al. 2022, arXiv:2206.00927; Karras et al. 2022)."""
    levels = _floats(sigmas)
    n = len(levels) - 1
    for i, (s, q) in enumerate(pairwise(levels)):
        x, high = _churned(x, s, n, noise, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, _at(x, high))
        x = _midpoint_step(denoise, x, denoised, high, q)
        on_step(i, x, denoised, s)
    return x


def _midpoint_step(denoise: Denoise, x: Tensor, denoised: Tensor, s: float, q: float) -> Tensor:
    d = (x - denoised) / s
    if q == 0:
        return x + d * (q - s)
    middle = math.sqrt(s * q)
    half = x + d * (middle - s)
    d_half = (half - denoise(half, _at(x, middle))) / middle
    return x + d_half * (q - s)


def sample_dpm_2_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM2 with the ancestral split of Euler a."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        down, up = ancestral(s, q, eta)
        x = _midpoint_step(denoise, x, denoised, s, down)
        if up and down:
            x = x + noise.draw() * (s_noise * up)
        on_step(i, x, denoised, s)
    return x


def sample_lms(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    order: int = 4,
) -> Tensor:
    """Linear multistep: the polynomial through the last slopes, integrated exactly (Katherine Crowson, k-diffusion)."""
    levels = _floats(sigmas)
    slopes: list[Tensor] = []  # newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        slopes = [(x - denoised) / s, *slopes[: order - 1]]
        nodes = [levels[i - j] for j in range(len(slopes))]
        for weight, slope in zip(_lagrange_integrals(nodes, s, q), slopes):
            x = x + slope * weight
        on_step(i, x, denoised, s)
    return x


def _lagrange_integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Integral from start to end of each Lagrange basis polynomial of the nodes; exact for up to four nodes."""
    middle, half = (start + end) / 2, (end - start) / 2
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))  # Gauss-Legendre, exact for cubics
    return [
        half * sum(math.prod((t - other) / (node - other) for other in nodes if other != node) for t in points)
        for node in nodes
    ]


def sample_heunpp2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """Heun's method with up to two looks ahead, weighted by their sigma (Heun++ as in ComfyUI and Forge)."""
    levels = _floats(sigmas)
    n = len(levels) - 1
    for i, (s, q) in enumerate(pairwise(levels)):
        x, high = _churned(x, s, n, noise, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(x, _at(x, high))
        d = (x - denoised) / high
        if i == n - 1:
            x = x + d * (q - high)
        else:
            ahead = x + d * (q - high)
            d_ahead = (ahead - denoise(ahead, _at(x, q))) / q
            if i == n - 2:
                w = q / (2 * levels[0])
                x = x + (d * (1 - w) + d_ahead * w) * (q - high)
            else:
                far = levels[i + 2]
                further = ahead + d_ahead * (far - q)
                d_further = (further - denoise(further, _at(x, far))) / far
                w2, w3 = q / (3 * levels[0]), far / (3 * levels[0])
                x = x + (d * (1 - w2 - w3) + d_ahead * w2 + d_further * w3) * (q - high)
        on_step(i, x, denoised, s)
    return x


def sample_restart(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    s_noise: float = 1.0,
) -> Tensor:
    """Heun steps with jumps back up to sigma 2 near sigma 0.1 (Xu et al. 2023, arXiv:2306.14878)."""
    at: float | None = None
    for i, (s, q) in enumerate(_restart_steps(_floats(sigmas))):
        if at is not None and at < s:
            x = x + noise.draw() * (s_noise * math.sqrt(s * s - at * at))
        denoised = denoise(x, _at(x, s))
        x = _heun_step(denoise, x, denoised, s, q)
        at = q
        on_step(i, x, denoised, s)
    return x


def _restart_steps(levels: list[float]) -> list[tuple[float, float]]:
    """The intervals walked. From 20 steps on some are taken from the list for one restart, from 36 on for two."""
    n = len(levels) - 1
    if n < 20:
        return list(pairwise(levels))
    length, times = (9, 1) if n < 36 else (n // 4, 2)
    levels = [*karras_range(n - length * times, levels[-2], levels[0]).tolist(), 0.0]

    def nearest(value: float) -> int:
        return min(range(len(levels)), key=lambda i: abs(levels[i] - value))

    bottom, top = nearest(0.1), nearest(2.0)
    steps: list[tuple[float, float]] = []
    for i, step in enumerate(pairwise(levels)):
        steps.append(step)
        if i + 1 == bottom and top < bottom:
            again = karras_range(length + 1, levels[bottom], levels[top]).tolist()
            steps += list(pairwise(again)) * times
    return steps


# DPM-Solver: exponential integrators in log sigma


def sample_dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095, alg. 1) with the ancestral split."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        down, up = ancestral(s, q, eta)
        if down == 0:
            x = x + (x - denoised) / s * (down - s)
        else:
            middle = math.sqrt(s * down)
            half = _exponential_step(x, denoised, s, middle)
            x = _exponential_step(x, denoise(half, _at(x, middle)), s, down)
        if up:
            x = x + noise.draw() * (s_noise * up)
        on_step(i, x, denoised, s)
    return x


def sample_dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2)."""
    levels = _floats(sigmas)
    previous: Tensor | None = None
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        if previous is None or q == 0:
            x = _exponential_step(x, denoised, s, q)
        else:
            r = math.log(levels[i - 1] / s) / math.log(s / q)
            ahead = denoised * (1 + 1 / (2 * r)) - previous * (1 / (2 * r))
            x = _exponential_step(x, ahead, s, q)
        previous = denoised
        on_step(i, x, denoised, s)
    return x


def sample_dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Tensor:
    """DPM-Solver++ (stochastic), two calls a step (Lu et al. 2022, arXiv:2211.01095, as in k-diffusion)."""
    levels, dtype = _floats(sigmas), sigmas.dtype if isinstance(sigmas, Tensor) else torch.float64
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        if q == 0:
            x = denoised
        else:
            start, middle, end = _through_log(s, q, r, dtype)
            down, up = ancestral(start, middle, eta)
            half = _exponential_step(x, denoised, start, down)
            if up:
                half = half + noise.between(start, middle) * (s_noise * up)
            d_half = denoise(half, _at(x, middle))
            ahead = denoised * (1 - 1 / (2 * r)) + d_half * (1 / (2 * r))
            down, up = ancestral(start, end, eta)
            x = _exponential_step(x, ahead, start, down)
            if up:
                x = x + noise.between(start, end) * (s_noise * up)
        on_step(i, x, denoised, s)
    return x


def _through_log(s: float, q: float, r: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """s, the level at part r of the way to q in log sigma, and q, each as exp(ln sigma).

    `dtype` is that of the list of levels: a Brownian path is so rough that the last bit of float32 can be seen in a
    picture, and the originals ask it for these levels.
    """
    t, t_next = -torch.tensor([s, q], dtype=dtype).log()
    start, middle, end = (-torch.stack([t, t + (t_next - t) * r, t_next])).exp().tolist()
    return start, middle, end


def sample_dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver: str = "midpoint",
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095); `solver` midpoint or heun weighs the history."""
    if solver not in ("midpoint", "heun"):
        raise BadRequest(f"DPM++ 2M SDE has no solver {solver!r}; use midpoint or heun.")
    levels = _floats(sigmas)
    previous: Tensor | None = None
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        if q == 0:
            x = denoised
        else:
            h = math.log(s / q)
            y = -h - eta * h
            x = x * (q / s * math.exp(-eta * h)) - denoised * math.expm1(y)
            if previous is not None:
                r = math.log(levels[i - 1] / s) / h
                weight = -0.5 * math.expm1(y) if solver == "midpoint" else 1 - math.expm1(y) / y
                x = x + (denoised - previous) * (weight / r)
            if eta:
                x = x + noise.between(s, q) * (s_noise * q * math.sqrt(-math.expm1(-2 * eta * h)))
        previous = denoised
        on_step(i, x, denoised, s)
    return x


def sample_dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """The third-order multistep sibling of DPM++ 2M SDE (Katherine Crowson, k-diffusion)."""
    levels = _floats(sigmas)
    history: list[tuple[Tensor, float]] = []  # (denoised, h of the step it was made in), newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        h = 0.0
        if q == 0:
            x = denoised
        else:
            h = math.log(s / q)
            k = h * (1 + eta)
            x = x * math.exp(-k) - denoised * math.expm1(-k)
            phi2 = math.expm1(-k) / k + 1
            if len(history) == 2:
                (d1, h1), (d2, h2) = history
                r0, r1 = h1 / h, h2 / h
                near, far = (denoised - d1) / r0, (d1 - d2) / r1
                bend = (near - far) / (r0 + r1)
                x = x + (near + bend * r0) * phi2 - bend * (phi2 / k - 0.5)
            elif history:
                d1, h1 = history[0]
                x = x + (denoised - d1) * (phi2 / (h1 / h))
            if eta:
                x = x + noise.between(s, q) * (s_noise * q * math.sqrt(-math.expm1(-2 * h * eta)))
        history = [(denoised, h), *history[:1]]
        on_step(i, x, denoised, s)
    return x


def _dpm_target(t: Tensor, t_next: Tensor, t_end: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Where DPM-Solver steps to in t = -ln sigma on its way to t_next, and the noise put back there.

    Here and below times are float32 scalars on the CPU whatever x is, as in k-diffusion: some weights are small
    differences of them, and DPM adaptive's first errors are nothing but their rounding, on which its steps depend.
    """
    if not eta:
        return t_next, torch.zeros(())
    s, q = (-t).exp(), (-t_next).exp()
    up = torch.minimum(q, eta * (q**2 * (s**2 - q**2) / s**2).clamp(min=0).sqrt())
    target = torch.minimum(t_end, -(q**2 - up**2).clamp(min=0).sqrt().log())
    return target, (q**2 - (-target).exp() ** 2).clamp(min=0).sqrt()


def _range_in_time(sigmas: Tensor | Sequence[float]) -> tuple[Tensor, Tensor]:
    """-ln of the first level and of the last above 0."""
    positive = torch.tensor([s for s in _floats(sigmas) if s > 0], dtype=torch.float32)
    return -positive[0].log(), -positive[-1].log()


def sample_dpm_fast(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver-fast (Lu et al. 2022, arXiv:2206.00927, app. D.3): n calls in steps of order 3, 2 and 1.

    Of the levels only the ends count. The last one reached is the lowest above 0.
    """
    n, (t_start, t_end) = len(_floats(sigmas)) - 1, _range_in_time(sigmas)
    count = n // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if n % 3 == 0 else [3] * (count - 1) + [n % 3]
    times = torch.linspace(float(t_start), float(t_end), count + 1).unbind()
    for i, (order, (t, t_next)) in enumerate(zip(orders, pairwise(times))):
        target, up = _dpm_target(t, t_next, t_end, eta)
        s, c = float((-t).exp()), _SolverStep.of(t, target, 1 / 2 if order == 2 else 1 / 3)
        denoised = denoise(x, _at(x, s))
        eps = (x - denoised) / s
        x_next = x - eps * c.to_q
        if order > 1:
            u1 = x - eps * c.to_s1
            eps1 = (u1 - denoise(u1, _at(x, c.s1))) / c.s1
            if order == 2:
                x_next = x_next - (eps1 - eps) * c.to_q_second
            else:
                u2 = x - eps * c.to_s2 - (eps1 - eps) * c.to_s2_bend
                eps2 = (u2 - denoise(u2, _at(x, c.s2))) / c.s2
                x_next = x_next - (eps2 - eps) * c.to_q_third
        x = x_next + noise.draw() * (s_noise * float(up)) if eta else x_next
        on_step(i, x, denoised, s)
    return x


class _SolverStep(NamedTuple):
    """Levels and weights of a DPM-Solver step with inner points at r1 = 1/2 or 1/3 and r2 = 2/3 of its length h.

    Each weight is sigma times a function of h; the noise predicted at s, s1 and s2 is eps, eps1, eps2:
    u1 = x - to_s1 eps; u2 = x - to_s2 eps - to_s2_bend (eps1 - eps);
    second order: x - to_q eps - to_q_second (eps1 - eps); third: x - to_q eps - to_q_third (eps2 - eps).
    For a batch, the same with tuples for numbers.
    """

    s: Any
    s1: Any
    s2: Any
    to_s1: Any
    to_s2: Any
    to_s2_bend: Any
    to_q: Any
    to_q_second: Any
    to_q_third: Any

    @classmethod
    def of(cls, t: Tensor, target: Tensor, r1: float, r2: float = 2 / 3) -> _SolverStep:
        h = target - t
        s, s1, s2, q = (-t).exp(), (-(t + r1 * h)).exp(), (-(t + r2 * h)).exp(), (-target).exp()
        values = (
            *(s, s1, s2),
            s1 * (r1 * h).expm1(),
            s2 * (r2 * h).expm1(),
            s2 * (r2 / r1) * ((r2 * h).expm1() / (r2 * h) - 1),
            q * h.expm1(),
            q / (2 * r1) * h.expm1(),
            q / r2 * (h.expm1() / h - 1),
        )
        return cls(*(float(value) for value in values))


def sample_dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    accept_safety: float = 0.81,
    dpm_adaptive_joint: bool = False,
) -> Tensor:
    """DPM-Solver-12/23 with its own step size (Lu et al. 2022, arXiv:2206.00927, app. C), order 3 with 2 inside.

    Of the levels only the ends count. Each picture has its own time, step size and verdict; all go through the model
    together, each at its own sigma, and those that have arrived are no longer changed. `dpm_adaptive_joint` judges the
    batch as one. `on_step` is called after each trial with the highest sigma of those still on the way.
    """
    t_start, t_end = _range_in_time(sigmas)
    batch = x.shape[0]
    t, h = [t_start] * batch, [abs(h_init)] * batch
    previous = x
    exponent = 1 / (1.5 if eta else 3)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *([1] * (x.ndim - 1)))

    def eps_at(u: Tensor, levels: Sequence[float]) -> tuple[Tensor, Tensor]:
        found = denoise(u, torch.tensor(levels, dtype=x.dtype, device=x.device))
        return (u - found) / column(levels), found

    index = 0
    while walking := [k for k in range(batch) if t[k] < t_end - 1e-5]:
        t_next = [torch.minimum(t_end, t[k] + h[k]) for k in range(batch)]
        targets = [_dpm_target(t[k], t_next[k], t_end, eta) for k in range(batch)]
        # A picture that has arrived goes through the model with the others, to no effect; its step must not be 0.
        there = [targets[k][0] if k in walking else t[k] + 1.0 for k in range(batch)]
        c = _SolverStep(*zip(*(_SolverStep.of(t[k], there[k], 1 / 3) for k in range(batch))))
        eps, denoised = eps_at(x, c.s)
        eps1, _ = eps_at(x - eps * column(c.to_s1), c.s1)
        eps2, _ = eps_at(x - eps * column(c.to_s2) - (eps1 - eps) * column(c.to_s2_bend), c.s2)
        first = x - eps * column(c.to_q)
        low = first - (eps1 - eps) * column(c.to_q_second)
        high = first - (eps2 - eps) * column(c.to_q_third)

        scale = torch.maximum(low.abs(), previous.abs()).mul(rtol).clamp(min=atol)
        squares = ((low - high) / scale).square()
        if dpm_adaptive_joint:
            errors = [math.sqrt(float(squares.mean()))] * batch
        else:
            errors = torch.stack([squares[k].mean() for k in range(batch)]).sqrt().tolist()
        accepted: list[int] = []
        for k in walking:
            if not math.isfinite(errors[k]):
                raise NotANumber(
                    f"DPM adaptive met a value that is no number at sigma {c.s[k]:g}; use another sampler."
                )
            factor = 1 + math.atan((1 / (errors[k] + 1e-8)) ** exponent - 1)
            if factor >= accept_safety:
                accepted.append(k)
                t[k] = t_next[k]
            h[k] *= factor
        if accepted:
            x, previous = x.clone(), previous.clone()
            x[accepted], previous[accepted] = high[accepted], low[accepted]
            if eta:
                up = column([float(targets[k][1]) * s_noise for k in accepted])
                x[accepted] = x[accepted] + noise.draw(accepted).to(x.dtype) * up
        on_step(index, x, denoised, max(c.s[k] for k in walking))
        index += 1
    return x


# Multistep methods on slopes


def sample_ipndm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """Adams-Bashforth with the coefficients of even steps (Zhang & Chen 2022, arXiv:2204.13902, iPNDM)."""
    levels = _floats(sigmas)
    slopes: list[Tensor] = []  # newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        slopes = [(x - denoised) / s, *slopes[:3]]
        x = x + _adams_bashforth(slopes) * (q - s)
        on_step(i, x, denoised, s)
    return x


_ADAMS = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _adams_bashforth(slopes: Sequence[Tensor]) -> Tensor:
    """The mean slope of the next step, from one to four slopes, newest first."""
    weights = _ADAMS[len(slopes) - 1]
    total = slopes[0] * weights[0]
    for slope, weight in zip(slopes[1:], weights[1:]):
        total = total + slope * weight
    return total


def sample_ipndm_v(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """iPNDM with coefficients for uneven steps (Zhang & Chen 2022, arXiv:2204.13902, as in diff-sampler)."""
    levels = _floats(sigmas)
    slopes: list[Tensor] = []  # newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        slopes = [(x - denoised) / s, *slopes[:3]]
        steps = [levels[i - j + 1] - levels[i - j] for j in range(len(slopes))]
        total = slopes[0] * 0.0
        for slope, weight in zip(slopes, _uneven_adams(steps)):
            total = total + slope * weight
        x = x + total * (q - s)
        on_step(i, x, denoised, s)
    return x


def _uneven_adams(steps: Sequence[float]) -> list[float]:
    """Weights of one to four slopes, newest first; `steps` are the sigma differences, newest first.

    From order 3 on these are diff-sampler's formulas, not the integrals of the interpolating polynomial
    (`_lagrange_integrals`): kept, because they are what this sampler's pictures are made with.
    """
    if len(steps) == 1:
        return [1.0]
    h0, h1 = steps[:2]
    first = h0 / h1
    weights = [(2 + first) / 2, -first / 2]
    if len(steps) == 2:
        return weights
    h2 = steps[2]
    a = (1 - h0 / (3 * (h0 + h1)) * (h0 * (h0 + h1)) / (h1 * (h1 + h2))) / 2
    second = h1 / h2
    weights = [weights[0] + a, weights[1] - (1 + second) * a, a * second]
    if len(steps) == 3:
        return weights
    h3 = steps[3]
    b = (1 - h0 / (3 * (h0 + h1))) / 2 + (1 - h0 / (2 * (h0 + h1))) * h0 / (6 * (h0 + h1 + h2))
    b *= h0 * (h0 + h1) * (h0 + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    third = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [
        weights[0] + b,
        weights[1] - (1 + second + third) * b,
        weights[2] + (second + third * (1 + h2 / h3)) * b,
        -b * third * second,
    ]


def sample_deis(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    order: int = 3,
) -> Tensor:
    """DEIS tAB: exponential Adams-Bashforth in the time of a VP diffusion (Zhang & Chen 2022, arXiv:2204.13902)."""
    levels = _floats(sigmas)
    weights = _deis_weights(levels, order)
    slopes: list[Tensor] = []  # newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        slopes = [(x - denoised) / s, *slopes[: order - 1]]
        for weight, slope in zip(weights[i] or [q - s], slopes):
            x = x + slope * weight
        on_step(i, x, denoised, s)
    return x


def _deis_weights(levels: list[float], order: int, points: int = 10000) -> list[list[float]]:
    """For each step the weights of its slopes, newest first; none for the first and for one to 0, which are Euler's.

    Sigma is mapped to the time of a VP diffusion between sigma 0.002 at 1e-3 and 80 at 1. The weights are sums over
    evenly spaced points, both ends among them, times length / points, as in the original: a relative 1e-4 off the
    integral.
    """
    eps, low, high = 1e-3, math.log(0.002**2 + 1), math.log(80.0**2 + 1)
    slope = 2 * (low / eps - high) / (eps - 1)  # beta_1 - beta_0
    beta_0 = high - 0.5 * slope
    times = [(math.sqrt(beta_0**2 + 2 * slope * math.log(s * s + 1)) - beta_0) / slope for s in levels]
    found: list[list[float]] = []
    for i, (t, t_next) in enumerate(pairwise(times)):
        if i == 0 or levels[i + 1] <= 0:  # Euler steps
            found.append([])
            continue
        nodes = [times[i - j] for j in range(min(i + 1, order))]
        tau = np.linspace(t, t_next, points)
        log_alpha = -0.5 * tau**2 * slope - tau * beta_0
        d_log_alpha = -tau * slope - beta_0
        alpha = np.exp(log_alpha)
        integrand = -0.5 * d_log_alpha / np.sqrt(alpha * (1 - alpha))
        weights = []
        for node in nodes:
            basis = np.prod([(tau - other) / (node - other) for other in nodes if other != node], axis=0)
            weights.append(float(np.sum(integrand * basis)) * (t_next - t) / points)
        found.append(weights)
    return found


# Ancestral samplers of other families


def sample_ddpm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """The posterior of the forward process (Ho et al. 2020, arXiv:2006.11239, eq. 7); Euler a with eta 1 equals it."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        x = denoised + (x - denoised) * (q * q / (s * s))
        if q > 0:
            x = x + noise.draw() * (q * math.sqrt(max(s * s - q * q, 0.0)) / s)
        on_step(i, x, denoised, s)
    return x


def sample_lcm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """Latent consistency: jump to the picture, put noise back (Luo et al. 2023, arXiv:2310.04378)."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        x = denoised + noise.draw() * q if q > 0 else denoised
        on_step(i, x, denoised, s)
    return x


def sample_tcd(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    levels: NoiseLevels,
    tcd_gamma: float = 0.3,
) -> Tensor:
    """Trajectory consistency (Zheng et al. 2024, arXiv:2402.19159): aim below the next level, put noise back.

    `tcd_gamma` 0 aims at the next level itself (no noise), 1 at the picture. `levels` maps sigma to timestep.
    """
    values = _floats(sigmas)
    times = levels.sigma_to_t(torch.tensor(values)).round()
    aims = levels.t_to_sigma(((1 - tcd_gamma) * times).floor()).tolist()
    last = len(values) - 2
    for i, (s, q) in enumerate(pairwise(values)):
        denoised = denoise(x, _at(x, s))
        aim = min(aims[i + 1], q)
        x = denoised + (x - denoised) * (aim / s)
        if i < last and aim < q:
            x = x + noise.draw() * math.sqrt(q * q - aim * aim)
        on_step(i, x, denoised, s)
    return _preserving(x, values)


# The DDIM family: fixed timesteps, results in variance-preserving scaling


def _preserving(x: Tensor, levels: list[float]) -> Tensor:
    return x / math.sqrt(1 + levels[-1] ** 2)


def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2020, arXiv:2010.02502, eq. 12)."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        # eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a') is this in units of sigma.
        up = eta * q * math.sqrt(s * s - q * q) / s
        x = denoised + (x - denoised) * (math.sqrt(max(q * q - up * up, 0.0)) / s)
        if up:
            x = x + noise.draw() * up
        on_step(i, x, denoised, s)
    return _preserving(x, levels)


def sample_ddim_cfgpp(
    denoise: DenoisePair,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 0.0,
) -> Tensor:
    """CFG++ (Chung et al. 2024, arXiv:2406.08070): guided picture, unguided direction. Guidance scale is 1/12.5."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised, uncond = denoise(x, _at(x, s))
        up = eta * q * math.sqrt(s * s - q * q) / s
        x = denoised + (x - uncond) * (math.sqrt(max(q * q - up * up, 0.0)) / s)
        if up:
            x = x + noise.draw() * up
        on_step(i, x, denoised, s)
    return _preserving(x, levels)


def sample_plms(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """Pseudo linear multistep (Liu et al. 2022, arXiv:2202.09778): an improved Euler step, then Adams-Bashforth."""
    levels = _floats(sigmas)
    slopes: list[Tensor] = []  # newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised = denoise(x, _at(x, s))
        slopes = [(x - denoised) / s, *slopes[:3]]
        if i == 0:
            ahead = x + slopes[0] * (q - s)
            slope = (slopes[0] + (ahead - denoise(ahead, _at(x, q))) / q) / 2
        else:
            slope = _adams_bashforth(slopes)
        x = x + slope * (q - s)
        on_step(i, x, denoised, s)
    return _preserving(x, levels)


def sample_uni_pc(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    variant: str = "bh1",
    order: int = 3,
    lower_order_final: bool = True,
) -> Tensor:
    """UniPC (Zhao et al. 2023, arXiv:2302.04867), multistep, predicting x0, in lambda = -ln sigma.

    `variant`: bh1 and bh2 choose B(h), vary_coeff solves for each derivative. Each new level costs one call, which
    both corrects it and serves the next step; the last is not corrected. The order is at most the number of steps.
    """
    if variant not in ("bh1", "bh2", "vary_coeff"):
        raise BadRequest(f"UniPC has no variant {variant!r}; use bh1, bh2 or vary_coeff.", field="uni_pc_variant")
    levels = _floats(sigmas)
    n = len(levels) - 1
    if n < 1:
        return _preserving(x, levels)
    order = max(1, min(order, n))
    history = [(-math.log(levels[0]), denoise(x, _at(x, levels[0])))]  # (lambda, denoised), newest first
    for i, (s, q) in enumerate(pairwise(levels)):
        p = min(order, i + 1)
        if lower_order_final:
            p = min(p, n - i)
        step = _unipc_weights(history[:p], -math.log(q), variant)
        denoised = history[0][1]
        base = _exponential_step(x, denoised, s, q)
        differences = [(old - denoised) / r for (_, old), r in zip(history[1:p], step.ratios)]
        predicted = base
        for weight, difference in zip(step.predictor, differences):
            predicted = predicted - difference * weight
        if i < n - 1:
            ahead = denoise(predicted, _at(x, q))
            x = base
            for weight, difference in zip(step.corrector, [*differences, ahead - denoised]):
                x = x - difference * weight
            history = [(-math.log(q), ahead), *history[: order - 1]]
        else:
            x = predicted
        on_step(i, x, denoised, s)
    return _preserving(x, levels)


@dataclass(frozen=True)
class _UniPCStep:
    ratios: list[float]
    predictor: list[float]
    corrector: list[float]


def _unipc_weights(history: Sequence[tuple[float, Tensor]], target: float, variant: str) -> _UniPCStep:
    """Distances of the older points in steps, and the weights of the difference quotients, the newest last.

    `history`: (lambda, denoised), newest first; `target`: lambda of the level gone to.
    """
    p = len(history)
    newest = history[0][0]
    h = target - newest
    ratios = [(old - newest) / h for old, _ in history[1:]]
    points = np.array([*ratios, 1.0])
    phi, factorial, value = [], 1.0, math.expm1(-h)  # phi_k times (-h)^k-ish: the paper's h phi_k, k = 1 ... p + 1
    for k in range(1, p + 2):
        phi.append(value)
        value = value / -h - 1 / factorial
        factorial *= k + 1
    if variant == "vary_coeff":
        matrix = np.stack([points**k / math.factorial(k + 1) for k in range(p)], axis=1)
        inverse = np.linalg.inv(matrix)
        predictor = np.array(phi[1:p]) @ np.linalg.inv(matrix[:-1, :-1]) if p > 1 else np.zeros(0)
        # The authors' program leaves the last row of the inverse out of the corrector and takes the weight of the new
        # point from the row before. That makes it a method of first order, but A1111's pictures are made with it.
        corrector = np.append(np.array(phi[1:p]) @ inverse[: p - 1, :-1], phi[p] * inverse[max(p - 2, 0), -1])
        return _UniPCStep(ratios, predictor.tolist(), corrector.tolist())
    b_h = -h if variant == "bh1" else math.expm1(-h)
    matrix = np.stack([points**k for k in range(p)])
    right = np.array([phi[k] * math.factorial(k) for k in range(1, p + 1)]) / b_h
    # The lowest orders take 1/2, which needs no equation and is exact in the limit (paper, app. F).
    corrector = np.array([0.5]) if p == 1 else np.linalg.solve(matrix, right)
    if p == 1:
        predictor = np.zeros(0)
    elif p == 2:
        predictor = np.array([0.5])
    else:
        predictor = np.linalg.solve(matrix[:-1, :-1], right[:-1])
    return _UniPCStep(ratios, (predictor * b_h).tolist(), (corrector * b_h).tolist())


# CFG++ in ComfyUI's form: guided picture, unguided direction


def sample_euler_cfg_pp(
    denoise: DenoisePair,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """CFG++ (Chung et al. 2024, arXiv:2406.08070) on Euler steps. Wants a guidance scale of about 1 to 2."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised, uncond = denoise(x, _at(x, s))
        x = denoised + (x - uncond) * (q / s)
        on_step(i, x, denoised, s)
    return x


def sample_euler_ancestral_cfg_pp(
    denoise: DenoisePair,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """Euler CFG++ with the ancestral split."""
    levels = _floats(sigmas)
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised, uncond = denoise(x, _at(x, s))
        down, up = ancestral(s, q, eta)
        x = denoised + (x - uncond) * (down / s)
        if up:
            x = x + noise.draw() * (s_noise * up)
        on_step(i, x, denoised, s)
    return x


def sample_dpmpp_2m_cfg_pp(
    denoise: DenoisePair,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    noise: StepNoise,
    on_step: OnStep = ignore,
) -> Tensor:
    """CFG++ on DPM++ 2M."""
    levels = _floats(sigmas)
    previous: Tensor | None = None
    for i, (s, q) in enumerate(pairwise(levels)):
        denoised, uncond = denoise(x, _at(x, s))
        after = denoised + (x - uncond) * (q / s)
        if previous is not None and q > 0:
            r = math.log(levels[i - 1] / s) / math.log(s / q)
            after = after + (denoised - previous) * ((1 - q / s) / (2 * r))
        x, previous = after, uncond
        on_step(i, x, denoised, s)
    return x
