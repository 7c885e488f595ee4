"""A picture made another size: stretched, cropped to cover, or fitted with its edges drawn out, as A1111 does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from PIL import Image

Upscale = Callable[[Image.Image, float], Image.Image]
"""A picture made about so many times larger, before it is brought to an exact size."""
Mode = Literal["stretch", "cover", "fit"]
Size = tuple[int, int]  # width, height


def placement(mode: Mode, source: Size, target: Size) -> tuple[Size, Size]:
    """The size the source is scaled to, and where its top left corner then lies on the target.

    One side is met exactly, the other by whole-number division; offsets halve each side on its own, as in A1111.
    """
    (w, h), (width, height) = source, target
    if mode == "stretch":
        return target, (0, 0)
    wider = width * h > height * w  # the target is wider than the source
    scaled = (width, h * width // w) if wider == (mode == "cover") else (w * height // h, height)
    return scaled, (width // 2 - scaled[0] // 2, height // 2 - scaled[1] // 2)


def resize(image: Image.Image, mode: Mode, target: Size, upscale: Upscale | None = None) -> Image.Image:
    """The picture at the target size (Lanczos). "fit" fills the bands with the picture's outermost rows or columns.

    Where it becomes larger `upscale` goes first; a mask (mode L) is not a picture and does without.
    """
    scaled, (left, top) = placement(mode, image.size, target)
    scaled = (max(1, scaled[0]), max(1, scaled[1]))
    factor = max(scaled[0] / image.width, scaled[1] / image.height)
    if upscale is not None and factor > 1 and image.mode != "L":
        image = upscale(image, factor)
    picture = image.resize(scaled, Image.Resampling.LANCZOS) if image.size != scaled else image
    if mode == "stretch":
        return picture
    result = Image.new(image.mode, target)
    result.paste(picture, (left, top))
    if mode == "fit":
        (width, height), (w, h) = target, picture.size
        # Boxes without extent, as the original has them: at the far edges Pillow then sharpens a little across the last
        # two rows, which pictures of the original show.
        bands = (
            (0, 0, width, top, (0, 0, w, 0)),
            (0, top + h, width, height - top - h, (0, h, w, h)),
            (0, 0, left, height, (0, 0, 0, h)),
            (left + w, 0, width - left - w, height, (w, 0, w, h)),
        )
        for x, y, wide, high, edge in bands:
            if wide > 0 and high > 0:
                result.paste(picture.resize((wide, high), box=edge), (x, y))
    return result
