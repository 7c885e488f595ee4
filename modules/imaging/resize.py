"""A picture made another size: stretched, cropped to cover, or fitted with its edges drawn out, as A1111 does it."""

from __future__ import annotations

from typing import Literal

from PIL import Image

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


def resize(image: Image.Image, mode: Mode, target: Size) -> Image.Image:
    """The picture at the target size (Lanczos). "fit" fills the bands with the picture's outermost rows or columns."""
    scaled, (left, top) = placement(mode, image.size, target)
    picture = image.resize((max(1, scaled[0]), max(1, scaled[1])), Image.Resampling.LANCZOS)
    if mode == "stretch":
        return picture
    result = Image.new(image.mode, target)
    result.paste(picture, (left, top))
    if mode == "fit":
        (width, height), (w, h) = target, picture.size
        if top > 0:
            result.paste(picture.crop((0, 0, w, 1)).resize((width, top)), (0, 0))
            result.paste(picture.crop((0, h - 1, w, h)).resize((width, height - top - h)), (0, top + h))
        if left > 0:
            result.paste(picture.crop((0, 0, 1, h)).resize((left, height)), (0, 0))
            result.paste(picture.crop((w - 1, 0, w, h)).resize((width - left - w, height)), (left + w, 0))
    return result
