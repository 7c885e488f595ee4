"""Where a mask lies: the part of a picture that "only masked" inpainting works on."""

from __future__ import annotations

from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside


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
