"""Soft inpainting: no hard border between what is drawn anew and what is kept.

The grey of a mask says how early a place may leave its source (differential diffusion, Levin and Fried 2023,
arXiv:2306.00950): at each noise level the mask is raised to a power that falls with the noise, and the picture so
far is blended with its source by it. What then really changed decides where the finished picture replaces the source.
The numbers are those of A1111's soft inpainting, so its users' masks do what they did.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.schema.request import Soft

# Weights of a place's neighbourhood: a Gaussian of that radius, tapered to nothing one step outside.
_RADIUS, _REACH = 1.5, 2


def blend(kept: Tensor, drawn: Tensor, new: Tensor, sigma: Tensor, soft: Soft) -> Tensor:
    """kept and drawn [B, C, h, w] mixed by the mask `new` [1, 1, h, w] in 0…1 at the noise levels sigma [B].

    Mixed vectors are shorter than either of their parts, which would show as faded places; so they get the length
    that lies between, by a power mean.
    """
    level = (sigma**soft.schedule_bias * soft.preservation_strength).view(-1, 1, 1, 1)
    share = new.pow(level)
    mixed = torch.lerp(kept, drawn, share)
    power = soft.transition_contrast_boost

    def length(x: Tensor) -> Tensor:
        return x.double().norm(dim=1, keepdim=True)

    wanted = ((1 - share) * length(kept) ** power + share * length(drawn) ** power) ** (1 / power)
    return mixed * (wanted / (length(mixed) + 1e-5)).to(mixed)


def changed(kept: Tensor, drawn: Tensor, new: Tensor, soft: Soft) -> Image.Image:
    """Where one picture's latents [C, h, w] have left their source's: L, white is new; `new` [1, h, w] is the mask."""
    distance = (drawn - kept).float().norm(dim=0).cpu().numpy().astype(np.float64)
    distance = percentile(percentile(distance, 0.9, 1.0), 0.25, 0.75)
    open_ = 1 - new[0].float().clamp(0, 1).cpu().numpy() ** (soft.preservation_strength / 2)
    weight = 0.5 * (1 - soft.mask_influence) + open_ * soft.mask_influence
    half = soft.difference_threshold * weight / (1.00001 - weight)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        like = 1 / (1 + np.nan_to_num(distance / half) ** soft.difference_contrast)
    white = 1 - like**3 * (like * (6 * like - 15) + 10)
    return Image.fromarray((255 * white).astype(np.uint8))


def percentile(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """For each place of [h, w] the mean of what lies between two weighted percentiles of its neighbourhood.

    The span between them holds at least a weight of 1, the centre's own.
    """
    offsets = np.arange(-_REACH, _REACH + 1)
    squared = (offsets[:, None] ** 2 + offsets[None, :] ** 2).ravel()
    edge = np.exp(-((_REACH + 1) ** 2) / _RADIUS**2)
    kernel = np.maximum((np.exp(-squared / _RADIUS**2) - edge) / (1 - edge), 0)
    height, width = values.shape

    def windows(plane: np.ndarray) -> np.ndarray:
        padded = np.pad(plane, _REACH)
        shifted = [padded[y : y + height, x : x + width] for y in range(len(offsets)) for x in range(len(offsets))]
        return np.stack(shifted, axis=-1)

    around, weights = windows(values), windows(np.ones_like(values)) * kernel  # beyond the border nothing weighs
    order = np.argsort(around, axis=-1, kind="stable")
    around, weights = np.take_along_axis(around, order, -1), np.take_along_axis(weights, order, -1)
    ends = np.cumsum(weights, axis=-1)
    total = ends[..., -1:]
    begin, end = total * low, total * high
    narrow = end - begin < 1
    middle = (begin + end) / 2
    begin, end = np.where(narrow, middle - 0.5, begin), np.where(narrow, middle + 0.5, end)
    over = narrow & (end > total)
    begin, end = np.where(over, total - 1, begin), np.where(over, total, end)
    under = narrow & (begin < 0)
    begin, end = np.where(under, 0, begin), np.where(under, 1, end)
    within = np.clip(np.minimum(ends, end) - np.maximum(ends - weights, begin), 0, None)
    return (around * within).sum(-1) / within.sum(-1)
