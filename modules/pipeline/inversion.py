"""The noise a picture would have come from: the Euler walk of a prompt taken backwards, from the picture to noise.

The idea is trygvebw's "reverse Euler" (k_euler img2img, 2022), which A1111 has as its alternative img2img test.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modules.sampling.prediction import NoiseLevels
from modules.sampling.schedules import Basis, normal
from modules.schema.request import Inversion


def rising(steps: int, levels: NoiseLevels) -> Tensor:
    """[steps + 1] noise levels from 0 up to the model's highest, timesteps evenly spread."""
    low, high = float(levels.table[0]), float(levels.table[-1])
    return normal(steps, low, high, Basis(levels)).float().flip(0)


def found_noise(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    adjusted: bool,
    on_step: Callable[[int, Tensor], None],
) -> Tensor:
    """Unit noise [B, C, h, w] that Euler's method would lead to the latents x [B, C, h, w] through rising `sigmas`.

    `adjusted`: each step is judged at the level it begins at, and the result is scaled by the last level; else at the
    level it ends at, and the result is scaled to a standard deviation of 1, each picture by itself.
    """
    ones = x.new_ones(x.shape[0])
    levels = sigmas.tolist()
    for k in range(1, len(levels)):
        at = levels[k - 1] if adjusted else levels[k]
        if at > 0:  # from level 0 the first adjusted step goes nowhere
            denoised = denoise(x, at * ones)
            x = x + (x - denoised) / at * (levels[k] - levels[k - 1])
            on_step(k - 1, denoised)
    if adjusted:
        return x / levels[-1]
    return torch.stack([one / one.std() for one in x])


def mixed(found: Tensor, fresh: Tensor, asked: Inversion) -> Tensor:
    """Found noise with a share of fresh noise, still of unit variance."""
    share = asked.randomness
    return ((1 - share) * found + share * fresh) / (share**2 + (1 - share) ** 2) ** 0.5
