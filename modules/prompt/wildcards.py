"""Wildcards: `__name__` draws a line of a file, `{a|b|c}` one of its options, both from the picture's seed.

Options may hold further choices and wildcards, and may carry a weight: `{3::red|blue}` draws red three times in four. A
wildcard file is `<folder>/<name>.txt`, one option per line; blank lines and lines that begin with # are comments. What
is not a choice (`{a}`, a stray brace, an unknown name) is literal text, as is a sign after a backslash. The same seed,
text and files always draw the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

MAX_DRAWS = 1_000  # choices in one prompt, so that files which name each other end
MAX_DEPTH = 20  # files within files
MAX_LENGTH = 100_000  # characters of the result
MAX_FILE = 16 * 2**20  # bytes read of a wildcard file

Lookup = Callable[[str], Sequence[str]]
"""The options of a wildcard name; empty when there is none."""

_TOKEN = re.compile(r"\\.|[{}|]|__([\w\-./]+?)__|[^\\{}|_]+|[\\_]", re.DOTALL)
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")


@dataclass(frozen=True)
class Choice:
    """What was drawn for what: `__animal__` or `{cat|dog}` as written, and the option as written."""

    source: str
    drawn: str


@dataclass(frozen=True)
class Expanded:
    """A prompt with everything drawn, what was drawn in order, and wildcard names that have no options."""

    text: str
    choices: tuple[Choice, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """The choices as one infotext value: `__animal__ = cat; {red|blue} = red`."""
        return "; ".join(f"{choice.source} = {choice.drawn}" for choice in self.choices)


@dataclass(eq=False)
class _Option:
    """One option: its weight, its place in the text without the weight, and its pieces."""

    weight: float
    start: int
    end: int
    pieces: list[_Piece]


@dataclass(eq=False)
class _Braces:
    """`{...|...}` at `text[start:end]`."""

    text: str
    start: int
    end: int
    options: list[_Option]


@dataclass(frozen=True)
class _Wildcard:
    name: str


_Piece = str | _Braces | _Wildcard


@dataclass(eq=False)
class _Frame:
    """An open brace: its places among the pieces and in the text, and those of the bars directly inside it."""

    piece: int
    start: int
    bars: list[tuple[int, int]] = field(default_factory=list)


def _read(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    frames: list[_Frame] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.group(1):
            pieces.append(_Wildcard(match.group(1)))
            continue
        if token == "{":
            frames.append(_Frame(len(pieces), match.start()))
        elif token == "|" and frames:
            frames[-1].bars.append((len(pieces), match.start()))
        elif token == "}" and frames:
            frame = frames.pop()
            if frame.bars:
                braces = _braces(text, pieces, frame, match.start())
                del pieces[frame.piece :]
                pieces.append(braces)
                continue
        pieces.append(token)
    return pieces


def _braces(text: str, pieces: list[_Piece], frame: _Frame, end: int) -> _Braces:
    options: list[_Option] = []
    for (first, start), (last, stop) in pairwise([(frame.piece, frame.start), *frame.bars, (len(pieces), end)]):
        option = _Option(1.0, start + 1, stop, pieces[first + 1 : last])
        head = option.pieces[0] if option.pieces else None
        if isinstance(head, str) and (match := _WEIGHT.match(head)):
            option.weight = float(match.group(1))
            option.start += match.end()
            option.pieces[0] = head[match.end() :]
        options.append(option)
    return _Braces(text, frame.start, end + 1, options)


def expand(text: str, seed: int, lookup: Lookup) -> Expanded:
    """The text with every choice drawn from the seed. Never raises; beyond the limits above the rest stays as written.

    >>> expand("a {red|blue} house", 1, lambda name: ()).text
    'a red house'
    """
    draw = random.Random(seed).random
    out: list[str] = []
    length = 0
    choices: list[Choice] = []
    unknown: dict[str, None] = {}
    # Each level: the pieces still to come, and how many files deep they are.
    pending: list[tuple[Iterator[_Piece], int]] = [(iter(_read(text)), 0)]
    while pending:
        pieces, depth = pending[-1]
        piece = next(pieces, None)
        if piece is None:
            pending.pop()
            continue
        may_draw = len(choices) < MAX_DRAWS and length < MAX_LENGTH
        if isinstance(piece, str):
            written = piece
        elif isinstance(piece, _Braces):
            written = piece.text[piece.start : piece.end]
            if may_draw:
                option = piece.options[_pick([option.weight for option in piece.options], draw())]
                choices.append(Choice(written, piece.text[option.start : option.end]))
                pending.append((iter(option.pieces), depth))
                continue
        else:
            written = f"__{piece.name}__"
            options = lookup(piece.name)
            if not options:
                unknown[piece.name] = None
            elif may_draw and depth < MAX_DEPTH:
                line = options[int(draw() * len(options))]
                choices.append(Choice(written, line))
                pending.append((iter(_read(line)), depth + 1))
                continue
        out.append(written)
        length += len(written)
    return Expanded("".join(out), tuple(choices), tuple(unknown))


def _pick(weights: Sequence[float], at: float) -> int:
    """The option at a fraction of the total weight; all equal when the total is 0."""
    total = sum(weights)
    if not 0 < total < float("inf"):
        return int(at * len(weights))
    at *= total
    for i, weight in enumerate(weights):
        at -= weight
        if at < 0:
            return i
    return max(i for i, weight in enumerate(weights) if weight)


def folder_lookup(folder: Path) -> Lookup:
    """Wildcards from the text files of a folder and its subfolders (`__animals/cats__`); each file is read once.

    A name that leads outside the folder, through `..` or a link, has no options.
    """
    read: dict[str, tuple[str, ...]] = {}

    def lookup(name: str) -> Sequence[str]:
        if name not in read:
            read[name] = _file_options(folder, name)
        return read[name]

    return lookup


def _file_options(folder: Path, name: str) -> tuple[str, ...]:
    try:
        path = (folder / f"{name}.txt").resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return ()
        with path.open("rb") as file:
            text = file.read(MAX_FILE).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return ()
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def names(folder: Path) -> list[str]:
    """Every wildcard name in a folder, sorted, as written between the underscores."""
    found = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.txt"))
    return sorted(name for name in found if re.fullmatch(r"[\w\-./]+?", name))
