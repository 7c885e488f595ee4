"""Noise that looks like it belongs to a picture: its spectrum, its colours.

For pictures that are continued beyond their edges: what is drawn over such noise tends to have the same grain and
tones. The amplitudes are the picture's, the phases are random; values are then mapped to the picture's histogram.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def matching_noise(image: Image.Image, size: tuple[int, int], fall_off: float, colour: float, seed: int) -> Image.Image:
    """A picture (RGB) of that size (width, height), at least as large as `image` in both directions.

    `fall_off`: exponent of the amplitudes, below 1 for finer grain; `colour`: 0…1, how far the channels differ.
    """
    rng = np.random.default_rng(seed)
    known = np.asarray(image.convert("RGB"), dtype=np.float64)
    width, height = size
    window = np.hanning(known.shape[0] + 2)[1:-1, None] * np.hanning(known.shape[1] + 2)[None, 1:-1]
    grey, own = rng.standard_normal((height, width)), rng.standard_normal((height, width, 3))
    made = np.empty((height, width, 3))
    for channel in range(3):
        values = known[..., channel]
        amplitudes = np.abs(np.fft.rfft2((values - values.mean()) * window, s=(height, width))) ** fall_off
        phases = np.fft.rfft2((1 - colour) * grey + colour * own[..., channel])
        phases /= np.maximum(np.abs(phases), 1e-12)
        shaped = np.fft.irfft2(amplitudes * phases, s=(height, width))
        made[..., channel] = _with_histogram(shaped, values)
    return Image.fromarray(np.clip(made + 0.5, 0, 255).astype(np.uint8))


def _with_histogram(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The values in their order, spread as those of `like`."""
    order = np.argsort(values, axis=None)
    spread = np.interp(np.linspace(0, 1, values.size), np.linspace(0, 1, like.size), np.sort(like, axis=None))
    result = np.empty(values.size)
    result[order] = spread
    return result.reshape(values.shape)
