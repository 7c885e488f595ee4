"""What a net predicts, and at which noise levels it was taught: tables of levels, and wrappers that give `denoised`.

x is in the variance-exploding scaling throughout, x = x0 + sigma * noise (Karras et al. 2022, arXiv:2206.00364); the
wrapper scales it to what the net was trained on. Flow models alone mix, x = (1 - sigma) x0 + sigma * noise.
Noise levels: Ho et al. 2020 (arXiv:2006.11239) with the betas of latent diffusion; v: Salimans & Ho 2022
(arXiv:2202.00512); zero terminal SNR: Lin et al. 2023 (arXiv:2305.08891); flow: Esser et al. 2024 (arXiv:2403.03206).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from modules.schema.errors import NotFound

TRAINING_STEPS = 1000
ZERO_SNR_LAST_ALPHA = 4.8973451890853435e-08
"""What the rescaled schedule has at its end instead of 0, so that the highest sigma is 4518.76 and not infinite."""


def scaled_linear_betas(start: float = 0.00085, end: float = 0.012, n: int = TRAINING_STEPS) -> Tensor:
    """[n] float64: evenly spaced square roots of beta, which latent diffusion calls "linear"."""
    return torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2


def alphas_cumprod(betas: Tensor | None = None) -> Tensor:
    """[n] float32, rounded once from float64: cumulative product of 1 - beta, A1111's table for SD 1, 2 and XL."""
    chosen = scaled_linear_betas() if betas is None else betas.double()
    return torch.cumprod(1 - chosen, dim=0).float()


def zero_terminal_snr(alphas: Tensor) -> Tensor:
    """The table of alphas_cumprod shifted and scaled so that its last level is pure noise (Lin et al. 2023, alg. 1)."""
    root = alphas.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    rescaled = ((root - last) * (first / (first - last))) ** 2
    rescaled[-1] = ZERO_SNR_LAST_ALPHA
    return rescaled


def sigmas_of(alphas: Tensor) -> Tensor:
    """Noise-to-signal ratio sqrt((1 - a) / a) of alphas_cumprod."""
    return ((1 - alphas) / alphas) ** 0.5


class NoiseLevels(Protocol):
    """A map between noise level and the time that a net is told. `table`: [n] float32, rising."""

    @property
    def table(self) -> Tensor: ...

    def sigma_to_t(self, sigma: Tensor) -> Tensor: ...

    def t_to_sigma(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The discrete levels a net was trained on, joined by straight lines in log sigma.

    Entry i of the table belongs to timestep `i * stride + stride - 1`; stride is 1 but for consistency models.
    `quantize`: the nearest entry instead of a time between two.
    """

    table: Tensor
    log_table: Tensor
    stride: int = 1
    quantize: bool = False

    @classmethod
    def from_alphas(cls, alphas: Tensor, *, stride: int = 1, quantize: bool = False) -> NoiseSchedule:
        table = sigmas_of(alphas)
        return cls(table, table.log(), stride, quantize)

    @classmethod
    def stable_diffusion(
        cls, *, zero_snr: bool = False, downcast: bool = False, quantize: bool = False, betas: Tensor | None = None
    ) -> NoiseSchedule:
        """SD 1, 2 and XL. `downcast` rounds alphas_cumprod to half precision first, as A1111 did before 1.7."""
        alphas = alphas_cumprod(betas)
        if downcast:
            alphas = alphas.half().float()
        if zero_snr:
            alphas = zero_terminal_snr(alphas)
        return cls.from_alphas(alphas, quantize=quantize)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same levels on another device, so that mapping a sigma there needs no copy."""
        return replace(self, table=self.table.to(device), log_table=self.log_table.to(device))

    @property
    def alphas(self) -> Tensor:
        """alphas_cumprod of the table: 1 / (1 + sigma^2)."""
        return 1 / (1 + self.table.double() ** 2)

    @property
    def sigma_min(self) -> float:
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        return float(self.table[-1])

    @property
    def last_t(self) -> int:
        return len(self.table) * self.stride - 1

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Timestep of each sigma, same shape: between two entries in log sigma, never outside the table."""
        log_table = self.log_table.to(sigma)
        log_sigma = sigma.log()
        if self.quantize:
            index = (log_sigma[..., None] - log_table).abs().argmin(dim=-1).to(sigma)
        else:
            low = (torch.searchsorted(log_table, log_sigma.contiguous(), right=True) - 1).clamp(0, len(log_table) - 2)
            below, above = log_table[low], log_table[low + 1]
            weight = ((below - log_sigma) / (below - above)).clamp(0, 1)
            index = (1 - weight) * low + weight * (low + 1)
        return index * self.stride + (self.stride - 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Sigma of each timestep, same shape. Whole and fractional times; clamped to the table."""
        log_table = self.log_table.to(t.device)
        index = ((t - (self.stride - 1)) / self.stride).clamp(0, len(log_table) - 1)
        low, high = index.floor().long(), index.ceil().long()
        weight = index - low
        return ((1 - weight) * log_table[low] + weight * log_table[high]).exp()

    def lcm(self, entries: int = 50) -> NoiseSchedule:
        """The table a latent consistency model was distilled on: every 20th level, the nearest one taken."""
        stride = len(self.table) // entries
        kept = self.table[stride - 1 :: stride]
        return NoiseSchedule(kept, kept.log(), stride, quantize=True)


@dataclass(frozen=True, eq=False)
class FlowSchedule:
    """Levels of a rectified-flow model: sigma = shift t / (1 + (shift - 1) t), t = i / 1000, sigma in (0, 1].

    The net is told `time_scale * t` (SD3: 1000 times the shifted sigma, Flux: the sigma itself).
    """

    table: Tensor
    shift: float = 1.0
    time_scale: float = 1000.0

    @classmethod
    def of(cls, shift: float = 3.0, *, time_scale: float = 1000.0, n: int = TRAINING_STEPS) -> FlowSchedule:
        t = torch.arange(1, n + 1, dtype=torch.float64) / n
        return cls((shift * t / (1 + (shift - 1) * t)).float(), shift, time_scale)

    def to(self, device: torch.device | str) -> FlowSchedule:
        return replace(self, table=self.table.to(device))

    @property
    def sigma_min(self) -> float:
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        return float(self.table[-1])

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        return sigma * self.time_scale

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Inverse of `sigma_to_t`; even steps in t are even steps in sigma. For even steps before the shift see
        `schedules.simple`, which walks the table."""
        return t / self.time_scale


class Prediction(Protocol):
    """How a net's input and output relate to x and denoised; sigma is shaped [B, 1, 1, 1]."""

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor: ...

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Eps:
    """The net predicts the noise (SD 1, SDXL)."""

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma**2 + 1) ** 0.5

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * out


@dataclass(frozen=True)
class V(Eps):
    """The net predicts the velocity sqrt(a) noise - sqrt(1 - a) x0 (SD 2 at 768, many SDXL fine-tunes)."""

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma**2 + 1) - out * (sigma / (sigma**2 + 1) ** 0.5)


@dataclass(frozen=True)
class X0(Eps):
    """The net predicts the picture itself."""

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return out


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, table 1: skip and output scaling around data of standard deviation `sigma_data`.

    The time that belongs to it is ln(sigma) / 4 (`EDMSchedule`).
    """

    sigma_data: float = 0.5

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (sigma**2 + self.sigma_data**2) ** 0.5

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        total = sigma**2 + self.sigma_data**2
        return x * (self.sigma_data**2 / total) + out * (sigma * self.sigma_data / total**0.5)


@dataclass(frozen=True, eq=False)
class EDMSchedule:
    """Levels of an EDM model: any sigma in a range; the net is told ln(sigma) / 4. The table is even in log sigma."""

    table: Tensor

    @classmethod
    def of(cls, sigma_min: float = 0.002, sigma_max: float = 80.0, n: int = TRAINING_STEPS) -> EDMSchedule:
        table = torch.linspace(math.log(sigma_min), math.log(sigma_max), n, dtype=torch.float64).exp()
        return cls(table.float())

    def to(self, device: torch.device | str) -> EDMSchedule:
        return replace(self, table=self.table.to(device))

    @property
    def sigma_min(self) -> float:
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        return float(self.table[-1])

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        return sigma.log() * 0.25

    def t_to_sigma(self, t: Tensor) -> Tensor:
        return (t / 0.25).exp()


@dataclass(frozen=True)
class Flow:
    """The net predicts noise - x0, and x is the mix (1 - sigma) x0 + sigma * noise (SD3, Flux)."""

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * out


@dataclass(frozen=True)
class Consistency:
    """Boundary condition of latent consistency models around another prediction (Luo et al. 2023, arXiv:2310.04378).

    `levels` gives the time of a sigma: at time 0 the answer is x itself, soon after it the inner prediction.
    """

    inner: Prediction
    levels: NoiseLevels
    sigma_data: float = 0.5
    time_scale: float = 10.0

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.inner.scale_input(x, sigma)

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        time = self.levels.sigma_to_t(sigma) * self.time_scale
        total = time**2 + self.sigma_data**2
        return self.inner.denoised(x, out, sigma) * (time / total**0.5) + x * (self.sigma_data**2 / total)


PREDICTIONS: dict[str, Prediction] = {"eps": Eps(), "v": V(), "x0": X0(), "edm": EDM(), "flow": Flow()}


def find_prediction(name: str) -> Prediction:
    """eps, v, x0, edm or flow."""
    if name not in PREDICTIONS:
        raise NotFound(f"No prediction type is called {name!r}; use one of {', '.join(PREDICTIONS)}.")
    return PREDICTIONS[name]


Net = Callable[[Tensor, Tensor], Tensor]
"""(input [B, C, h, w], time [B]) -> output [B, C, h, w]."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A prediction type with its noise levels: turns a call of the net into denoised."""

    prediction: Prediction
    levels: NoiseLevels

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the net is given for x [B, C, h, w] at sigma [B]: the scaled x and the time [B]."""
        return self.prediction.scale_input(x, _over(x, sigma)), self.levels.sigma_to_t(sigma)

    def denoised(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        """The picture that the net's output stands for. x and out [B, C, h, w], sigma [B]."""
        return self.prediction.denoised(x, out, _over(x, sigma))

    def __call__(self, net: Net, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoised(x, net(*self.inputs(x, sigma)), sigma)

    def lcm(self) -> Predictor:
        """The wrapper for the LCM sampler: the coarse table and the boundary condition."""
        if not isinstance(self.levels, NoiseSchedule):
            return self
        levels = self.levels.lcm()
        return Predictor(Consistency(self.prediction, levels), levels)


def _over(x: Tensor, sigma: Tensor) -> Tensor:
    """sigma [B] as [B, 1, 1, 1] in x's precision."""
    return sigma.to(x.dtype).view(-1, *([1] * (x.ndim - 1)))
