"""Pictures side by side: one cut into overlapping tiles that cover it evenly, and the filmstrip of a drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one direction begin: as few as cover the length with at least that overlap, spread evenly."""
    if tile >= length:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [k * (length - tile) // (count - 1) for k in range(count)]


@dataclass(frozen=True)
class Tiles:
    """A picture of `size` in tiles of one size (width, height), those of a row next to each other.

    tiles = Tiles.over(image.size, (512, 512), overlap=64)
    tiles.joined([draw(part) for part in tiles.cut(image)])
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    overlap: int
    columns: tuple[int, ...]
    rows: tuple[int, ...]

    @staticmethod
    def over(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> Tiles:
        """Tiles no larger than the picture, with at least that overlap (pixels, less than a tile)."""
        tile = min(tile[0], size[0]), min(tile[1], size[1])
        spread = (tuple(tile_starts(length, side, overlap)) for length, side in zip(size, tile))
        return Tiles(size, tile, overlap, *spread)

    @property
    def starts(self) -> list[tuple[int, int]]:
        """Upper left corners (x, y)."""
        return [(x, y) for y in self.rows for x in self.columns]

    def cut(self, image: Image.Image) -> list[Image.Image]:
        return [image.crop((x, y, x + self.tile[0], y + self.tile[1])) for x, y in self.starts]

    def joined(self, images: Sequence[Image.Image]) -> Image.Image:
        """The picture of the tiles as they became (each is brought back to its size).

        Each tile fades in over the first `overlap` pixels of what it shares with the one before.
        """
        parts = [image if image.size == self.tile else image.resize(self.tile) for image in images]
        whole = Image.new("RGB", self.size)
        across = len(self.columns)
        for row, y in enumerate(self.rows):
            line = Image.new("RGB", (self.size[0], self.tile[1]))
            for column, x in enumerate(self.columns):
                _laid(line, parts[row * across + column], (x, 0), self.overlap if column else 0, upright=True)
            _laid(whole, line, (0, y), self.overlap if row else 0, upright=False)
        return whole


def _laid(canvas: Image.Image, part: Image.Image, at: tuple[int, int], overlap: int, upright: bool) -> None:
    """Put a part on a canvas, its first columns (`upright`) or rows fading in."""
    fade = np.minimum(np.arange(part.width if upright else part.height) * 255.0 / max(overlap, 1), 255)
    if not overlap:
        fade[:] = 255
    shape = (part.height, part.width)
    mask = np.broadcast_to(fade if upright else fade[:, None], shape).astype(np.uint8)
    canvas.paste(part, at, Image.fromarray(mask))


def sheet(images: Sequence[Image.Image], rows: int, most_pixels: float) -> Image.Image | None:
    """RGB pictures side by side, each in a cell as large as the largest. `rows`: -1 as square as can be, as A1111's
    n_rows. None where it would have more pixels than that."""
    rows = min(len(images), rows) if rows > 0 else max(1, round(math.sqrt(len(images))))
    columns = math.ceil(len(images) / rows)
    width, height = max(i.width for i in images), max(i.height for i in images)
    if columns * width * rows * height > most_pixels:
        return None
    whole = Image.new("RGB", (columns * width, rows * height), "black")
    for k, image in enumerate(images):
        whole.paste(image, (k % columns * width, k // columns * height))
    return whole


FRAMES_IN_ROW = 8
FRAME_GAP = 4


def filmstrip(frames: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Small pictures in rows of eight on black, each with its caption in its lower left corner."""
    width, height = max(f.width for f in frames), max(f.height for f in frames)
    columns, rows = min(len(frames), FRAMES_IN_ROW), math.ceil(len(frames) / FRAMES_IN_ROW)
    strip = Image.new("RGB", (columns * (width + FRAME_GAP) + FRAME_GAP, rows * (height + FRAME_GAP) + FRAME_GAP))
    draw = ImageDraw.Draw(strip)
    for k, (frame, caption) in enumerate(zip(frames, captions)):
        left = FRAME_GAP + k % FRAMES_IN_ROW * (width + FRAME_GAP)
        top = FRAME_GAP + k // FRAMES_IN_ROW * (height + FRAME_GAP)
        strip.paste(frame, (left, top))
        box = draw.textbbox((left + 3, top + height - 14), caption)
        draw.rectangle((box[0] - 2, box[1] - 1, box[2] + 2, box[3] + 1), fill="black")
        draw.text((left + 3, top + height - 14), caption, fill="white")
    return strip
