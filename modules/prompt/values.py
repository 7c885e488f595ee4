"""Lists of values as people write them: `a, b, "c, d"`, ranges `1-5`, `1-9 (+2)`, `0-1 [5]`.

    numbers("1-3, 10-20 [3]", whole=True) == [1, 2, 3, 10, 15, 20]

The syntax is that of A1111's X/Y/Z plot; a range ends at the last value that does not pass its end, also downwards.
"""

from __future__ import annotations

import csv
import io
import math
import re
from typing import TypeVar

from modules.schema.errors import BadRequest

MOST_VALUES = 1000
Value = TypeVar("Value")
_NUMBER = r"([+-]?\s*\d+(?:\.\d*)?|[+-]?\s*\.\d+)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*(?:\(\s*([+-]\s*(?:\d+(?:\.\d*)?|\.\d+))\s*\))?\s*")
_COUNTED = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*\[\s*(\d{{1,6}})\s*\]\s*")


def split(text: str) -> list[str]:
    """The values of a line of text, trimmed; one in double quotes may hold commas. Empty ones are left out."""
    if len(text) > 100_000:
        raise BadRequest(f"That is {len(text):,} characters of values; 100,000 are the most.")
    found: list[str] = []
    try:
        for row in csv.reader(io.StringIO(text), skipinitialspace=True):
            found += [value.strip() for value in row if value.strip()]
    except csv.Error:
        raise BadRequest("The list of values cannot be read; separate them by commas.") from None
    return _few(found)


def joined(values: list[str]) -> str:
    """The text that `split` takes apart into these values."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue()


def numbers(text: str, whole: bool) -> list[int | float]:
    """The numbers of a list with ranges; BadRequest names what is none."""
    found: list[int | float] = []
    for part in split(text):
        found += _range(part, whole)
        _few(found)
    return found


def _few(values: list[Value]) -> list[Value]:
    if len(values) > MOST_VALUES:
        raise BadRequest(f"An axis has {MOST_VALUES} values at most; give fewer.")
    return values


def _range(part: str, whole: bool) -> list[int | float]:
    """The numbers that one part of a list stands for."""
    kind = int if whole else float
    try:
        if (match := _RANGE.fullmatch(part)) is not None:
            start, end = (kind(_close(group)) for group in match.groups()[:2])
            step = kind(_close(match.group(3))) if match.group(3) else kind(1)
            if not step:
                raise BadRequest(f"{part!r} goes on for ever; give a step that is not 0.")
            count = int((end - start) / step + 1e-9) + 1 if (end - start) / step >= 0 else 0
            if count > MOST_VALUES:
                raise BadRequest(f"{part!r} has {count:,} values; an axis has {MOST_VALUES} at most.")
            return [_round(start + k * step) for k in range(count)]
        if (match := _COUNTED.fullmatch(part)) is not None:
            start, end, count = float(_close(match.group(1))), float(_close(match.group(2))), int(match.group(3))
            if count > MOST_VALUES:
                raise BadRequest(f"{part!r} has {count:,} values; an axis has {MOST_VALUES} at most.")
            spread = [start + (end - start) * k / max(count - 1, 1) for k in range(count)]
            return [int(value + 1e-9) if whole else _round(value) for value in spread]
        value = kind(_close(part))
        if not math.isfinite(value):
            raise ValueError
        return [value]
    except (ValueError, OverflowError):
        example = "1, 2, 3 or 1-9 (+2) or 1-9 [5]" if whole else "0.5, 1 or 0-1 (+0.25) or 0-1 [5]"
        what = "whole number" if whole else "number"
        raise BadRequest(f"{part[:40]!r} is no {what}; write {example}.") from None


def _close(text: str) -> str:
    return text.replace(" ", "")


def _round(value: int | float) -> int | float:
    """Without what adding binary fractions leaves behind."""
    return round(value, 10)
