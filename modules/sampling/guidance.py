"""Guidance: what is made of the predictions with and without the prompt, in denoised space.

Functions of one picture take [C, h, w] and use elementwise operations (sums over one picture in `rescale`), so that a
batch cannot change a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.schema.errors import BadRequest
from modules.schema.settings import Sampling


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598). Any shape."""
    return uncond + (cond - uncond) * scale


def combine(parts: Sequence[Tensor], weights: Sequence[float], uncond: Tensor, scale: float) -> Tensor:
    """Guidance by several prompts joined with AND (Liu et al. 2022, arXiv:2206.01714).

    uncond + sum of weight * scale * (part - uncond); one part of weight 1 is `cfg`.
    """
    if len(parts) != len(weights) or not parts:
        raise BadRequest(f"{len(parts)} parts of a prompt and {len(weights)} weights do not belong together.")
    guided = uncond
    for part, weight in zip(parts, weights):
        guided = guided + (part - uncond) * (weight * scale)
    return guided


def three_way(cond: Tensor, image_only: Tensor, uncond: Tensor, scale: float, image_scale: float) -> Tensor:
    """Guidance by text and by a picture (Brooks et al. 2022, arXiv:2211.09800, eq. 3).

    `image_only` is the prediction with the picture and without the text, `uncond` that with neither.
    """
    return uncond + (cond - image_only) * scale + (image_only - uncond) * image_scale


def rescale(
    guided: Tensor, cond: Tensor, x: Tensor, sigma: float | Tensor, amount: float, *, velocity: bool = True
) -> Tensor:
    """Guidance that keeps the contrast of the prompt's own prediction (Lin et al. 2023, arXiv:2305.08891, eq. 15).

    All [C, h, w]; `sigma` a number, or one on the device, float64. `amount` 0 changes nothing, 0.7 is usual. The
    standard deviations are compared in v space, where the paper has them; with `velocity` off as noise.
    """
    if amount == 0:
        return guided
    # As v = (x / (s^2 + 1) - D) sqrt(s^2 + 1) / s, or eps = (x - D) / s.
    base = x / (sigma * sigma + 1) if velocity else x
    target, present = base - cond, base - guided
    # Factors common to both cancel in the quotient.
    rescaled = present * (target.std() / present.std())
    return base - (rescaled * amount + present * (1 - amount))


def skips_negative(call: int, total: int, sigma: float, options: Sampling) -> bool:
    """Whether a model call does without the negative prompt.

    `call` counts model calls from 0, `total` is how many there will be; `sigma` is the noise level, for the timestep
    samplers the timestep. Two rules: the first part of the run (`skip_early_cond`), then low noise (`s_min_uncond`),
    there every other call or, with `s_min_uncond_all`, each.
    """
    if options.skip_early_cond != 0 and call / max(total, 1) <= options.skip_early_cond:
        return True
    low = options.s_min_uncond > 0 and sigma < options.s_min_uncond
    return low and (call % 2 == 1 or options.s_min_uncond_all)


def rescale_batch(guided: Tensor, cond: Tensor, x: Tensor, sigma: Sequence[float], amount: float) -> Tensor:
    """`rescale` for each picture of [B, C, h, w] by itself."""
    if amount == 0:
        return guided
    rows = zip(guided, cond, x, sigma)
    return torch.stack([rescale(g, c, one, s, amount) for g, c, one, s in rows])
