"""The search language of the history: what is typed into its box, as conditions on the table of pictures.

    red hou            both words begin words of prompt, model, LoRA, sampler or file name
    "red house"        exactly these words in this order
    -day               not this
    model:dream        lora:ink  sampler:euler  file:00012  negative:blurry    part of a name, or a word
    seed:42            size:512x768  size:portrait  steps:>20  cfg:7
    after:2026-11-01   before:2026-11  on:today                              days, months, years; "7d" is a week ago
    rating:4           rating:>=3  is:favourite  is:missing  is:imported  task:inpaint

What cannot be understood is told and left out, since most of it is only half typed.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any

_TERM = re.compile(r'(-?)(?:([A-Za-z]+):)?("[^"]*"?|\S+)')
_COMPARED = re.compile(r"(<=|>=|<|>|=)?(\d+(?:\.\d+)?)(\+)?\Z")
_WORD = re.compile(r"[^\W_]+", re.UNICODE)
# Scripts that are written without spaces: their words begin anywhere.
_UNSPACED = re.compile(r"[\u0900-\u10ff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
TASKS = ("txt2img", "img2img", "inpaint", "extras", "grid")
SHAPES = {"portrait": "width < height", "landscape": "width > height", "square": "width = height"}
FLAGS = {
    "favourite": "favourite = 1", "favorite": "favourite = 1", "rated": "rating > 0", "unrated": "rating = 0",
    "missing": "missing = 1", "imported": "imported = 1", "made": "imported = 0",
}  # fmt: skip
TEXTS = {"model": "model", "lora": "networks", "sampler": "sampler", "file": "file", "negative": "negative"}
NUMBERS = {
    "seed": "seed", "steps": "steps", "cfg": "cfg_scale", "rating": "rating", "width": "width", "height": "height",
}  # fmt: skip
KEYS = frozenset({*TEXTS, *NUMBERS, "size", "after", "before", "on", "is", "task"})
LIKE = r"LIKE ? ESCAPE '\'"
MOST_TERMS = 40
LONGEST = 1000  # characters


@dataclass(frozen=True)
class Term:
    """One part of a query as typed, from `start` to `end`; what is wrong with it, or its condition in SQL."""

    text: str
    start: int
    end: int
    sql: str = ""
    values: tuple[Any, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Query:
    terms: tuple[Term, ...] = ()

    @property
    def where(self) -> tuple[str, list[Any]]:
        """The condition on `pictures`, and its values; "1" where everything is meant."""
        used = [term for term in self.terms if term.sql]
        return " AND ".join(term.sql for term in used) or "1", [value for term in used for value in term.values]


def read_query(text: str, today: dt.date | None = None) -> Query:
    """Never raises. `today` is what "today" and "7d" are counted from."""
    today = today or dt.date.today()
    terms = []
    for match in list(_TERM.finditer(text[:LONGEST]))[:MOST_TERMS]:
        minus, key, value = match.group(1), (match.group(2) or "").lower(), match.group(3)
        whole, start, end = match.group(0), match.start(), match.end()
        if key and key not in KEYS:
            key, value = "", whole.removeprefix("-")
        if not key and value.endswith(":") and value[:-1].lower() in KEYS:
            continue  # half typed
        try:
            sql, values = _condition(key, value, today)
        except ValueError as error:
            terms.append(Term(whole, start, end, problem=str(error)))
            continue
        if sql:
            # coalesce: a picture that tells no model is one without that model.
            terms.append(Term(whole, start, end, f"NOT coalesce({sql}, 0)" if minus else sql, tuple(values)))
    return Query(tuple(terms))


def _condition(key: str, value: str, today: dt.date) -> tuple[str, list[Any]]:
    """ValueError with a sentence where the value cannot be understood; "" where there is nothing to look for."""
    exact = value.startswith('"')
    value = value.strip('"')
    if not value.strip():
        return "", []
    if key in ("after", "before", "on"):
        return _days(key, value, today)
    if key == "size":
        return _size(value)
    if key == "task":
        if value.lower() not in TASKS:
            raise ValueError(f"task: is one of {', '.join(TASKS)}.")
        return "task = ?", [value.lower()]
    if key == "is":
        if value.lower() not in FLAGS:
            raise ValueError("is: goes with favourite, rated, unrated, missing, imported or made.")
        return FLAGS[value.lower()], []
    if key in NUMBERS:
        return _number(key, value)
    if key in ("model", "sampler", "file", "lora"):
        return f"{TEXTS[key]} {LIKE}", [f"%{_escaped(value)}%"]
    return _words(value, exact, "{negative}: " if key == "negative" else "")


def _words(value: str, exact: bool, column: str) -> tuple[str, list[Any]]:
    if _UNSPACED.search(value):
        columns = ("negative",) if column else ("prompt", "model", "networks", "file")
        return f"({' OR '.join(f'{name} {LIKE}' for name in columns)})", [f"%{_escaped(value)}%"] * len(columns)
    words = _WORD.findall(re.sub(r":[\d.]+([)>])", r"\1", value))  # "(red:1.2)" means red
    if not words:
        return "", []
    match = f'"{" ".join(words)}"' if exact else " ".join(f'"{word}"*' for word in words)
    scope = column or "- {negative}: "  # a word of the negative prompt is just what a picture does not show
    return "place IN (SELECT rowid FROM pictures_words WHERE pictures_words MATCH ?)", [f"{scope}({match})"]


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _number(key: str, value: str) -> tuple[str, list[Any]]:
    match = _COMPARED.match(value)
    if match is None:
        raise ValueError(f"{key}: takes a number, as in {key}:4 or {key}:>=4.")
    sign, number, plus = match.groups()
    wanted = float(number) if "." in number else int(number)
    if wanted >= 2**63:
        raise ValueError(f"No {key} is as large as {number}.")
    return f"{NUMBERS[key]} {'>=' if plus else sign or '='} ?", [wanted]


def _size(value: str) -> tuple[str, list[Any]]:
    if value.lower() in SHAPES:
        return SHAPES[value.lower()], []
    match = re.match(r"(\d{1,9})[x×*](\d{1,9})\Z", value.lower())
    if match is None:
        raise ValueError("size: takes 512x768, portrait, landscape or square.")
    return "(width = ? AND height = ?)", [int(match.group(1)), int(match.group(2))]


def _days(key: str, value: str, today: dt.date) -> tuple[str, list[Any]]:
    """`day` is kept as text, so that its order is that of the days."""
    first, last = _span(value.lower(), today)
    if key == "on":
        return "(day >= ? AND day <= ?)", [first, last]
    return ("day >= ?", [first]) if key == "after" else ("day < ?", [first])


def _span(value: str, today: dt.date) -> tuple[str, str]:
    """First and last day of "2026", "2026-11", "2026-11-03", "today", "yesterday", "7d" (seven days ago)."""
    ago = {"today": 0, "yesterday": 1}.get(value)
    if match := re.match(r"(\d{1,5})d\Z", value):
        ago = int(match.group(1))
    if ago is not None:
        try:
            day = (today - dt.timedelta(days=ago)).isoformat()
        except OverflowError:
            day = "0001-01-01"
        return day, day
    match = re.match(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?))?)?\Z", value)
    if match is None:
        raise ValueError("Days are written as 2026-11-03, 2026-11, 2026, today, yesterday or 7d.")
    year, month, day_of = (int(part) if part else None for part in match.groups())
    try:
        dt.date(year or 1, month or 1, day_of or 1)
    except ValueError:
        raise ValueError(f"There is no day {value}.") from None
    if month is None:
        return f"{year:04}-01-01", f"{year:04}-12-31"
    if day_of is None:
        return f"{year:04}-{month:02}-01", f"{year:04}-{month:02}-31"
    day = f"{year:04}-{month:02}-{day_of:02}"
    return day, day
