"""Pictures in rows and columns, with words above the columns and beside the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageColor, ImageDraw, ImageFont

from modules.schema.errors import BadRequest

MAX_MEGAPIXELS = 200
# Beside Pillow's own font, for what it lacks (Cyrillic, Chinese, …): what systems usually have.
OTHER_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "arialuni.ttf", "Arial Unicode.ttf",
    "msyh.ttc", "PingFang.ttc", "segoeui.ttf", "wqy-zenhei.ttc",
)  # fmt: skip
Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Look:
    """Colours as CSS writes them; `font`: a font file's path or name, empty for a fitting one."""

    background: str = "#ffffff"
    active: str = "#000000"
    inactive: str = "#999999"
    lines: str = "#999999"
    font: str = ""


@dataclass(frozen=True)
class Words:
    """One line of a legend; one that is not active is paler and struck through."""

    text: str
    active: bool = True


def check_size(width: int, height: int) -> None:
    """BadRequest for a grid too large to be made."""
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise BadRequest(
            f"The grid would be {width}x{height}, {width * height / 1e6:.0f} megapixels; {MAX_MEGAPIXELS} are the "
            "most. Give fewer values or draw smaller pictures."
        )


def rows_for(count: int, prevent_empty: bool = False) -> int:
    """How many rows make a grid of so many pictures squarish."""
    rows = max(1, round(math.sqrt(count)))
    if prevent_empty:
        rows = next(row for row in range(math.isqrt(count), 0, -1) if count % row == 0)
    return min(rows, count)


def sheet(
    images: Sequence[Image.Image | None], rows: int, look: Look = Look(), cell: tuple[int, int] | None = None
) -> Image.Image:
    """Pictures from left to right and top to bottom in so many rows, each in the middle of its place; None is empty.

    Places have the size of the largest picture, or `cell`.
    """
    there = [image for image in images if image is not None]
    width, height = cell or (max(i.width for i in there), max(i.height for i in there))
    columns = math.ceil(len(images) / rows)
    check_size(columns * width, rows * height)
    grid = Image.new("RGB", (columns * width, rows * height), _colour(look.background))
    for k, image in enumerate(images):
        if image is not None:
            left, top = k % columns * width, k // columns * height
            grid.paste(image, (left + (width - image.width) // 2, top + (height - image.height) // 2))
    return grid


def annotated(
    grid: Image.Image,
    cell: tuple[int, int],
    above: Sequence[Sequence[Words]],
    beside: Sequence[Sequence[Words]],
    margin: int = 0,
    look: Look = Look(),
) -> Image.Image:
    """A grid of places of that size, taken apart by a margin, with the words of its columns and its rows."""
    (width, height), (columns, rows) = cell, (len(above), len(beside))
    size = (width + height) // 25
    spacing = size // 2
    left = width * 3 // 4 if any(line.text for lines in beside for line in lines) else 0
    heads = [_wrapped(lines, width, size, look) for lines in above]
    sides = [_wrapped(lines, left, size, look) for lines in beside]
    line = size * 4 // 5

    def tall(lines: Sequence[Words]) -> int:
        return len(lines) * (line + spacing) - spacing if lines else 0

    named = any(text.text for lines in above for text in lines)
    top = max(map(tall, heads)) + spacing * 2 if named else 0
    check_size(grid.width + left + margin * (columns - 1), grid.height + top + margin * (rows - 1))
    result = Image.new(
        "RGB", (grid.width + left + margin * (columns - 1), grid.height + top + margin * (rows - 1)),
        _colour(look.background),
    )  # fmt: skip
    for row in range(rows):
        for column in range(columns):
            part = grid.crop((width * column, height * row, width * (column + 1), height * (row + 1)))
            result.paste(part, (left + (width + margin) * column, top + (height + margin) * row))
    draw = ImageDraw.Draw(result)
    pen = _Pen(draw, size, line + spacing, look)
    for column, lines in enumerate(heads):
        pen.write(left + (width + margin) * column + width / 2, top / 2 - tall(lines) / 2, lines, width)
    for row, lines in enumerate(sides):
        pen.write(left / 2, top + (height + margin) * row + height / 2 - tall(lines) / 2, lines, left)
    return result


@dataclass(frozen=True)
class _Pen:
    """Writes lines `step` pixels apart in letters of `size`, smaller ones where a word is too long."""

    draw: ImageDraw.ImageDraw
    size: int
    step: int
    look: Look

    def write(self, x: float, y: float, lines: Sequence[Words], width: int) -> None:
        """Lines around x, the first one's upper edge at y."""
        for words in lines:
            size = self.size
            font = font_for(words.text, size, self.look.font)
            while font.getlength(words.text) > width and size > 6:
                size -= 1
                font = font_for(words.text, size, self.look.font)
            ink = _colour(self.look.active if words.active else self.look.inactive)
            middle = y + self.size * 2 / 5
            self.draw.text((x, middle), words.text, font=font, fill=ink, anchor="mm")
            if not words.active:
                half = font.getlength(words.text) / 2
                strike = (x - half, middle, x + half, middle)
                self.draw.line(strike, fill=_colour(self.look.lines), width=max(2, self.size // 12))
            y += self.step


def _wrapped(lines: Sequence[Words], width: int, size: int, look: Look) -> list[Words]:
    """Lines broken at spaces to fit the width."""
    found: list[Words] = []
    for words in lines:
        font = font_for(words.text, size, look.font)
        line = ""
        for word in words.text[:2000].split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                found.append(Words(line, words.active))
                longer = word
            line = longer
        if line:
            found.append(Words(line, words.active))
    return found


def font_for(text: str, size: int, wanted: str = "") -> Font:
    """The first font that has all letters of a text: the one wanted, Pillow's own, those of the system."""
    size = max(size, 6)
    first = _named(wanted, size) if wanted else None
    if first is not None:
        return first
    own = _own(size)
    if text.isascii() or _has(own, text):
        return own
    for name in OTHER_FONTS:
        font = _named(name, size)
        if font is not None and _has(font, text):
            return font
    return own


@lru_cache(64)
def _own(size: int) -> Font:
    font = ImageFont.load_default(size)
    assert isinstance(font, Font)
    return font


@lru_cache(64)
def _named(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has(font: Font, text: str) -> bool:
    """Whether no letter looks as one that no font has."""
    missing = _drawn(font, "\U0010fffe")
    return all(_drawn(font, letter) != missing for letter in set(text) if not letter.isspace())


def _drawn(font: Font, letter: str) -> bytes:
    image = Image.new("L", (2 * int(font.size), 2 * int(font.size)))
    ImageDraw.Draw(image).text((0, 0), letter, font=font, fill=255)
    return image.tobytes()


def _colour(text: str) -> tuple[int, ...]:
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        return (255, 255, 255)
