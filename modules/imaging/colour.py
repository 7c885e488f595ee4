"""Colours of one picture brought to those of another, and transparency laid on a colour.

Correction as A1111 does it: histograms are matched channel by channel in CIE L*a*b* (sRGB, D65, 8 bits a channel),
then the picture gets its own luminosity back (W3C Compositing and Blending Level 1, section 10.3).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from modules.schema.errors import BadRequest

_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.950456, 1.0, 1.088754])
_LUMA = np.array([0.299, 0.587, 0.114])
_KNEE = 0.008856  # below it CIE L*a*b* goes straight
_LEVELS = 2040


def flatten(image: Image.Image, background: str) -> Image.Image:
    """RGB, with what is transparent laid on a colour ("#ffffff")."""
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGBA":
        return image.convert("RGB")
    try:
        colour = ImageColor.getrgb(background)
    except ValueError:
        raise BadRequest(
            f"{background!r} is no colour; write it as #rrggbb.", field="img2img_background_color"
        ) from None
    result = Image.new("RGBA", image.size, colour)
    result.alpha_composite(image)
    return result.convert("RGB")


def match_colours(image: Image.Image, model: Image.Image) -> Image.Image:
    """The RGB picture in the colours of the other one, its own light and shadow kept."""
    source, target = _lab(image), _lab(model)
    matched = np.stack([_matched(source[..., c], target[..., c]) for c in range(3)], axis=-1)
    own = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    return Image.fromarray((_with_luminosity(_rgb(matched) / 255, own @ _LUMA) * 255).astype(np.uint8))


def _matched(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """8-bit values of source changed so that they are spread as those of target."""
    counts = np.bincount(target.reshape(-1), minlength=256)
    present = np.nonzero(counts)[0]
    reached = np.cumsum(counts[present]) / target.size
    share = np.cumsum(np.bincount(source.reshape(-1), minlength=256)) / source.size
    return np.interp(share, reached, present)[source].astype(np.uint8)


def _lab(image: Image.Image) -> np.ndarray:
    """[h, w, 3] uint8: L* times 255/100, a* and b* plus 128.

    In fixed point with OpenCV's 8-bit tables (2040 light levels), whose rounding the original's colours have in them.
    """
    light = np.rint(_LEVELS * _linear(np.arange(256) / 255)).astype(np.int64)[np.asarray(image.convert("RGB"))]
    steps = np.arange(_LEVELS * 3 // 2 + 1) / _LEVELS
    roots = np.rint(2**15 * np.where(steps < _KNEE, 7.787 * steps + 16 / 116, np.cbrt(steps))).astype(np.int64)
    weights = np.rint(2**12 * _TO_XYZ / _WHITE[:, None]).astype(np.int64)
    fx, fy, fz = np.moveaxis(roots[_descaled(light @ weights.T, 12)], -1, 0)
    lab = (296 * fy - 1336934, 500 * (fx - fy) + (128 << 15), 200 * (fy - fz) + (128 << 15))
    return np.clip(np.stack([_descaled(values, 15) for values in lab], axis=-1), 0, 255).astype(np.uint8)


def _descaled(values: np.ndarray, bits: int) -> np.ndarray:
    return (values + (1 << (bits - 1))) >> bits


def _linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _rgb(lab: np.ndarray) -> np.ndarray:
    """The way back of `_lab`, [h, w, 3] float64, whole numbers 0…255."""
    light = lab[..., 0] / 2.55
    fy = np.where(light > 903.3 * _KNEE, (light + 16) / 116, 7.787 * light / 903.3 + 16 / 116)
    f = np.stack([fy + (lab[..., 1] - 128.0) / 500, fy, fy - (lab[..., 2] - 128.0) / 200], axis=-1)
    xyz = np.where(f > _KNEE ** (1 / 3), f**3, (f - 16 / 116) / 7.787) * _WHITE
    linear = np.clip(xyz @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def _with_luminosity(rgb: np.ndarray, luminosity: np.ndarray) -> np.ndarray:
    """rgb [h, w, 3] in 0…1 moved to that luminosity [h, w]; what leaves the range is drawn towards grey."""
    moved = rgb + (luminosity - rgb @ _LUMA)[..., None]
    grey = (moved @ _LUMA)[..., None]
    low, high = moved.min(axis=-1, keepdims=True), moved.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.where(low < 0, grey + (moved - grey) * grey / (grey - low), moved)
        moved = np.where(high > 1, grey + (moved - grey) * (1 - grey) / (high - grey), moved)
    return np.clip(moved, 0, 1)
