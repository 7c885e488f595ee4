"""Pictures made into maps that a ControlNet looks at, without a model: edges, lines, tiles; and maps brought to size.

Names, steps and numbers are those of sd-webui-controlnet, so that a net sees here what it was shown there.

    lines = preprocess(picture, "canny", 512, 100, 200)      # RGB, its shorter side 512
    shown = fitted(lines, "Crop and Resize", (768, 512))
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from modules.imaging.resize import resize
from modules.schema.control import RESIZE_MODES

Size = tuple[int, int]  # width, height
MAX_PIXELS = 4096 * 2048
"""Of a map while it is made; a larger resolution is taken as the one that stays within."""
JUST_RESIZE, CROP, FILL = RESIZE_MODES


def preprocess(image: Image.Image, name: str, resolution: int, a: float, b: float) -> Image.Image:
    """The map (RGB) that a preprocessor makes of a picture; KeyError for one that is not there.

    `resolution`: of the shorter side, where the preprocessor works at one; `a`, `b`: its thresholds.
    """
    sized, make = _MAKERS[name]
    image = image.convert("RGB")
    return make(at_resolution(image, resolution) if sized else image, a, b)


def pixel_perfect(source: Size, target: Size, mode: str) -> int:
    """The resolution whose map needs no resizing to the size drawn."""
    ratios = target[0] / source[0], target[1] / source[1]
    return max(64, round((min if mode == FILL else max)(ratios) * min(source)))


def at_resolution(image: Image.Image, resolution: int) -> Image.Image:
    """With a shorter side of so many pixels."""
    scale = resolution / min(image.size)
    scale = min(scale, (MAX_PIXELS / (image.width * image.height)) ** 0.5)
    return _scaled(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def fitted(image: Image.Image, mode: str, size: Size) -> Image.Image:
    """A map (or a mask) at the size drawn; what "Resize and Fill" leaves open has the colour that its edges mostly
    have."""
    if image.size == size:
        return image
    if mode == JUST_RESIZE:
        return _scaled(image, size)
    if mode == CROP:
        return resize(image, "cover", size)
    scale = min(size[0] / image.width, size[1] / image.height)
    small = _scaled(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    values = np.asarray(image)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    colour = np.median(border, axis=0).astype(np.uint8)
    canvas = Image.new(image.mode, size, tuple(map(int, colour)) if colour.ndim else int(colour))
    canvas.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
    return canvas


def _scaled(image: Image.Image, size: Size) -> Image.Image:
    """Areas are averaged where it becomes smaller; lines then stay as bright as they are wide."""
    if image.size == size:
        return image
    smaller = size[0] * size[1] < image.width * image.height
    return image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC)


# ------------------------------------------------------------------------------------------------------ preprocessors


def canny(image: Image.Image, low: float, high: float) -> Image.Image:
    """Edges one pixel wide (Canny 1986): of each pixel's steepest colour, in the whole numbers of OpenCV."""
    low, high = sorted((int(low), int(high)))
    dx, dy = _steepest(np.asarray(image, dtype=np.int16))
    steep = np.abs(dx) + np.abs(dy)
    around = np.pad(steep, 1)

    def beside(down: int, right: int) -> np.ndarray:
        height, width = steep.shape
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = np.abs(dx).astype(np.int32), np.abs(dy).astype(np.int32) << 15
    flat = x * 13573  # tan 22.5° in 1 / 2^15
    level, upright = y < flat, y > flat + (x << 16)
    rising = (dx ^ dy) < 0
    # The crest across a level, an upright and both slanting edges; the first neighbour of two equals loses.
    crest = np.select(
        [level, upright, rising],
        [
            (steep > beside(0, -1)) & (steep >= beside(0, 1)),
            (steep > beside(-1, 0)) & (steep >= beside(1, 0)),
            (steep > beside(-1, 1)) & (steep > beside(1, -1)),
        ],
        (steep > beside(-1, -1)) & (steep > beside(1, 1)),
    ).astype(bool)
    edges = _joined(crest & (steep > high), crest & (steep > low))
    return _white(edges)


def _steepest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's derivatives [H, W] of colours [H, W, 3], each pixel's of the colour that changes most."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    dx = across[:-2] + 2 * across[1:-1] + across[2:]
    down = padded[2:] - padded[:-2]
    dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    most = np.argmax(np.abs(dx) + np.abs(dy), axis=2)[..., None]
    return np.take_along_axis(dx, most, 2)[..., 0], np.take_along_axis(dy, most, 2)[..., 0]


def _joined(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """The weak pixels [H, W] that a strong one is joined to by others."""
    found = np.pad(strong, 1)
    weak = np.pad(weak, 1)
    width = found.shape[1]
    flat, allowed = found.reshape(-1), weak.reshape(-1)
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    fresh = np.flatnonzero(flat)
    while len(fresh):
        near = np.unique((fresh[:, None] + steps).ravel())
        fresh = near[allowed[near] & ~flat[near]]
        flat[fresh] = True
    return found[1:-1, 1:-1]


def threshold(image: Image.Image, least: float, _b: float) -> Image.Image:
    """White where every colour is brighter."""
    return _white(np.asarray(image).min(axis=2) > least)


def scribble_xdog(image: Image.Image, least: float, _b: float) -> Image.Image:
    """Strokes where a picture is darker than around (difference of Gaussians, Winnemöller et al. 2012)."""
    values = np.asarray(image, dtype=np.float32)
    darker = (_blurred(values, 5.0) - _blurred(values, 0.5)).min(axis=2)
    dog = (255 - darker).clip(0, 255).astype(np.uint8)
    return _white(2 * (255 - dog.astype(np.int32)) > least)


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of [H, W, C], edges mirrored, cut off at 4 standard deviations."""
    reach = round(sigma * 4)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma * sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        length = values.shape[axis]
        pads = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(values, pads, mode="reflect" if length > 1 else "edge")
        values = sum(weight * padded.take(range(k, k + length), axis) for k, weight in enumerate(weights))  # type: ignore[assignment]
    return values


def tile_resample(image: Image.Image, rate: float, _b: float) -> Image.Image:
    if rate < 1.1:
        return image
    return _scaled(image, (max(1, int(image.width / rate)), max(1, int(image.height / rate))))


def shuffle(image: Image.Image, _a: float, _b: float) -> Image.Image:
    """The picture's colours in other places, nearby ones together; the same way each time."""
    values = np.asarray(image, dtype=np.float32)
    height, width = values.shape[:2]
    random = np.random.default_rng(0)
    x, y = _waves(height, width, random) * (width - 1), _waves(height, width, random) * (height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = values[top, left] * (1 - u) + values[top, right] * u
    lower = values[bottom, left] * (1 - u) + values[bottom, right] * u
    return Image.fromarray((upper * (1 - v) + lower * v).round().clip(0, 255).astype(np.uint8))


def _waves(height: int, width: int, random: np.random.Generator, length: int = 256) -> np.ndarray:
    """Smooth noise [H, W] from 0 to 1, its waves about `length` pixels long."""
    small = random.random((height // length + 2, width // length + 2), dtype=np.float32)
    large = Image.fromarray(small).resize((width + 2 * length, height + 2 * length), Image.Resampling.BICUBIC)
    values = np.asarray(large)[length : length + height, length : length + width]
    values = values - values.min()
    return values / max(float(values.max()), 1e-6)


def _white(where: np.ndarray) -> Image.Image:
    return Image.fromarray(where.astype(np.uint8) * 255).convert("RGB")


Maker = Callable[[Image.Image, float, float], Image.Image]
_MAKERS: dict[str, tuple[bool, Maker]] = {
    "none": (False, lambda image, a, b: image),
    "invert": (False, lambda image, a, b: ImageOps.invert(image)),
    "canny": (True, canny),
    "scribble_xdog": (True, scribble_xdog),
    "threshold": (True, threshold),
    "tile_resample": (False, tile_resample),
    "blur_gaussian": (True, lambda image, a, b: image.filter(ImageFilter.GaussianBlur(a))),
    "shuffle": (True, shuffle),
    "inpaint_global_harmonious": (False, lambda image, a, b: image),
}
"""By name: whether it works at a resolution, and what makes the map."""
