"""How far two pictures are apart."""

from __future__ import annotations

from PIL import Image, ImageChops


def apart(one: Image.Image, other: Image.Image) -> tuple[float, int]:
    """The share of the pixels of two pictures of one size and mode that differ, and by how much of 255 at most."""
    largest = Image.new("L", one.size)
    for band in ImageChops.difference(one, other).split():
        largest = ImageChops.lighter(largest, band)
    counts = largest.histogram()
    return 1 - counts[0] / sum(counts), max((level for level, count in enumerate(counts) if count), default=0)
