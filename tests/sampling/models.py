"""Denoisers with known answers, and noise that counts, for the sampler tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SPREAD = 0.5
MEAN = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64).view(1, 1, 2, 2)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The perfect denoiser of pictures that are normal around MEAN with deviation SPREAD."""
    s = sigma.view(-1, 1, 1, 1)
    return (SPREAD**2 * x + s * s * MEAN) / (SPREAD**2 + s * s)


def gaussian_solution(x: Tensor, start: float, end: float) -> Tensor:
    """Where the probability flow of `gaussian` takes x from sigma `start` to `end`."""
    return MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + start**2))


class Rational:
    """A denoiser of operations that round the same wherever a number lies in memory, unlike tanh or exp.

    Counts its calls; `pair` makes it answer (guided, unconditional).
    """

    def __init__(self, pair: bool = False) -> None:
        self.calls, self.pair = 0, pair
        self.sigmas: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Any:
        assert sigma.shape == (x.shape[0],)
        assert sigma.dtype == x.dtype
        self.calls += 1
        self.sigmas.append(float(sigma[0]))
        s = sigma.view(-1, 1, 1, 1)
        y = x / (1 + s)
        denoised = (x + s * s * (y / (1 + y * y))) / (1 + s * s)
        return (denoised, denoised * 0.75) if self.pair else denoised


class Silence:
    """Noise for samplers that should not want any."""

    def draw(self, only: Sequence[int] | None = None) -> Tensor:
        raise AssertionError("noise was drawn")

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        raise AssertionError("noise was drawn")
