"""Masks of inpainting: white is drawn anew. How one is read, softened and where it lies; what stands in for the masked.

The steps, their order and their numbers are A1111's, so that its users' masks do what they did.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter, ImageOps

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside
# Radius in pixels and how often it is laid over: far surroundings first, then nearer and nearer ones.
_FILL = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def read_mask(image: Image.Image, hard: bool = True) -> Image.Image:
    """A mask picture as mode L: its transparency where it has some (`hard`: above half is white), else its grey."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    if image.mode in ("P", "LA", "PA"):
        image = image.convert("RGBA")
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        alpha = image.getchannel("A")
        return alpha.point([255 * (value > 128) for value in range(256)]) if hard else alpha
    return image.convert("L")


def blur(mask: Image.Image, x: float, y: float) -> Image.Image:
    """Gaussian blur of standard deviation x and y pixels, cut off at 2.5 of them, edges mirrored.

    In whole numbers with OpenCV's weights of 1/256: where a mask begins decides what "only masked" crops, so the
    faintest grey counts.
    """
    values = np.asarray(mask, dtype=np.int64)
    for axis, sigma in ((1, x), (0, y)):
        if sigma > 0:
            values = _blurred(values, sigma, axis)
    return Image.fromarray(values.astype(np.uint8))


def _blurred(values: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    weights = _gaussian(sigma)
    reach, length = len(weights) // 2, values.shape[axis]
    width = [(0, 0), (0, 0)]
    width[axis] = (reach, reach)
    mirrored = np.pad(values, width, mode="reflect" if length > 1 else "edge")
    total = np.full_like(values, 128)
    for k, weight in enumerate(weights):
        total += np.take(mirrored, np.arange(k, k + length), axis) * weight
    return total >> 8


def _gaussian(sigma: float) -> list[int]:
    """Weights that add up to 256, what rounding leaves over carried inwards from the ends."""
    reach = int(2.5 * sigma + 0.5)
    exact = np.exp(-(np.arange(-reach, 1) ** 2) / (2 * sigma * sigma))
    exact *= 256 / (2 * exact[:-1].sum() + 1)
    half, left = [], 0.0
    for value in exact[:-1]:
        half.append(round(value + left))
        left += value - half[-1]
    return [*half, 256 - 2 * sum(half), *reversed(half)]


def hardened(mask: Image.Image) -> Image.Image:
    """The mask whose soft edge reaches full white half-way: what the finished picture is laid under."""
    return mask.point([min(2 * value, 255) for value in range(256)])


def unmasked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with its masked part transparent (RGBA); the mask has its size."""
    return _kept(image, mask).convert("RGBA")


def _kept(image: Image.Image, mask: Image.Image) -> Image.Image:
    """As `unmasked`, colours multiplied by their opacity (RGBa)."""
    kept = Image.new("RGBa", image.size)
    kept.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask))
    return kept


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The masked part painted over with its blurred surroundings (RGB)."""
    premultiplied = _kept(image, mask)
    result = Image.new("RGBA", image.size)
    for radius, times in _FILL:
        layer = premultiplied.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            result.alpha_composite(layer)
    return result.convert("RGB")


def crop_region(mask: Image.Image, padding: int) -> Box | None:
    """The box around everything in the mask that is not black, padded within the picture; None for an empty mask."""
    box = mask.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    return (
        max(left - padding, 0),
        max(top - padding, 0),
        min(right + padding, mask.width),
        min(bottom + padding, mask.height),
    )


def expand_to_ratio(box: Box, work: tuple[int, int], picture: tuple[int, int]) -> Box:
    """The box grown along its shorter side to the aspect ratio of the working size (width, height).

    It is moved back where it would leave the picture, and clipped only where the picture is too small for it.
    """
    left, top, right, bottom = box
    ratio = work[0] / work[1]
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _grow(top, bottom, (right - left) / ratio, picture[1])
    else:
        left, right = _grow(left, right, (bottom - top) * ratio, picture[0])
    return left, top, right, bottom


def _grow(start: int, end: int, length: float, limit: int) -> tuple[int, int]:
    """The span at that length, about the same middle, within 0…limit where it fits."""
    extra = int(length - (end - start))
    start, end = start - extra // 2, end + extra - extra // 2
    if end > limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, end - start
    return start, min(end, limit)
