"""Pictures side by side: one cut into overlapping tiles that cover it evenly, and the filmstrip of a drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one direction begin: as few as cover the length with at least that overlap, spread evenly."""
    if tile >= length:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [k * (length - tile) // (count - 1) for k in range(count)]


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
