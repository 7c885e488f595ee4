"""Wildcards: `__name__` draws a line of a file, `{a|b|c}` one of its options, both from the picture's seed.

    __animals/cats__       a line of animals/cats.txt; __animals/*__ a line of any file there
    {red|blue}             one of them; options may hold further choices and wildcards
    {3::red|blue}          red three times in four
    {2$$a|b|c}             two different ones, joined by ", "; {1-2$$ and $$a|b|c} one or two, joined by " and "
    {2$$__animals__}       two different lines of a file

A wildcard file is `<folder>/<name>.txt`, one option per line; blank lines and lines that begin with # are comments.
What is not a choice (`{a}`, a stray brace, an unknown name) is literal text, as is a sign after a backslash. The same
seed, text and files always draw the same.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

MAX_DRAWS = 1_000  # choices in one prompt, so that files which name each other end
MAX_DEPTH = 20  # files within files
MAX_LENGTH = 100_000  # characters of the result
MAX_FILE = 16 * 2**20  # bytes read of a wildcard file
MAX_NOTE = 4_000  # characters of what an infotext says of the draws

Lookup = Callable[[str], Sequence[str]]
"""The options of a wildcard name; empty when there is none."""

_TOKEN = re.compile(r"\\.|[{}|]|__([\w\-./*]+?)__|[^\\{}|_]+|[\\_]", re.DOTALL)
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_COUNT = re.compile(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\$\$(?:([^$]*)\$\$)?")


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
        note = "; ".join(f"{choice.source} = {choice.drawn}" for choice in self.choices)
        return note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…"


@dataclass(eq=False)
class _Option:
    """One option: its weight, its place in the text without the weight, and its pieces."""

    weight: float
    start: int
    end: int
    pieces: list[_Piece]

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Takes what the pattern finds off the option's beginning."""
        head = self.pieces[0] if self.pieces else None
        match = pattern.match(head) if isinstance(head, str) else None
        if match:
            self.start += match.end()
            self.pieces[0] = match.string[match.end() :]
        return match


@dataclass(eq=False)
class _Braces:
    """`{...|...}` at `text[start:end]`: between `fewest` and `most` of the options, joined by `separator`."""

    text: str
    start: int
    end: int
    options: list[_Option]
    fewest: int = 1
    most: int = 1
    separator: str = ", "

    @property
    def file(self) -> str | None:
        """The wildcard that alone stands in braces without a bar, whose lines are then the options."""
        if len(self.options) > 1:
            return None
        held = [piece for piece in self.options[0].pieces if not isinstance(piece, str) or piece.strip()]
        return held[0].name if len(held) == 1 and isinstance(held[0], _Wildcard) else None


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


def _read(text: str, braces: bool = True) -> list[_Piece]:
    pieces: list[_Piece] = []
    frames: list[_Frame] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.group(1):
            pieces.append(_Wildcard(match.group(1)))
            continue
        if token == "{" and braces:
            frames.append(_Frame(len(pieces), match.start()))
        elif token == "|" and frames:
            frames[-1].bars.append((len(pieces), match.start()))
        elif token == "}" and frames:
            frame = frames.pop()
            # Without a bar only a few lines of one file can be meant; those are three pieces: {, 2$$ and the name.
            if frame.bars or len(pieces) - frame.piece <= 4:
                group, counted = _braces(text, pieces, frame, match.start())
                if frame.bars or (counted and group.file):
                    del pieces[frame.piece :]
                    pieces.append(group)
                    continue
        pieces.append(token)
    return pieces


def _braces(text: str, pieces: list[_Piece], frame: _Frame, end: int) -> tuple[_Braces, bool]:
    """The group, and whether it says how many options to draw."""
    group = _Braces(text, frame.start, end + 1, [])
    counted = False
    for (first, start), (last, stop) in pairwise([(frame.piece, frame.start), *frame.bars, (len(pieces), end)]):
        option = _Option(1.0, start + 1, stop, pieces[first + 1 : last])
        if not group.options and (match := option.take(_COUNT)):
            counted = True
            group.fewest, group.most = sorted((int(match.group(1)), int(match.group(2) or match.group(1))))
            group.separator = match.group(3) if match.group(3) is not None else group.separator
        if match := option.take(_WEIGHT):
            option.weight = float(match.group(1))
        group.options.append(option)
    return group, counted


def expand(text: str, seed: int | str, lookup: Lookup, braces: bool = True) -> Expanded:
    """The text with every choice drawn from the seed. Never raises; beyond the limits above the rest stays as written.

    braces: False leaves those of the text alone; within the lines of a file they always choose.

    >>> expand("a {red|blue} house", 1, lambda name: ()).text
    'a red house'
    """
    draw = random.Random(seed).random
    out: list[str] = []
    length = 0
    choices: list[Choice] = []
    unknown: dict[str, None] = {}
    # Each level: the pieces still to come, and how many files deep they are.
    pending: list[tuple[Iterator[_Piece], int]] = [(iter(_read(text, braces)), 0)]
    while pending:
        pieces, depth = pending[-1]
        piece = next(pieces, None)
        if piece is None:
            pending.pop()
            continue
        if isinstance(piece, str):
            out.append(piece)
            length += len(piece)
            continue
        group = piece if isinstance(piece, _Braces) else None
        written = group.text[group.start : group.end] if group else f"__{piece.name}__"  # type: ignore[union-attr]
        file = group.file if group else piece.name  # type: ignore[union-attr]
        options: Sequence[_Option | str] = group.options if group else ()
        if file is not None:
            options = lookup(file)
            if not options:
                unknown[file] = None
        may_draw = len(choices) < MAX_DRAWS and length < MAX_LENGTH and (file is None or depth < MAX_DEPTH)
        if not options or not may_draw:
            out.append(written)
            length += len(written)
            continue
        count = group.fewest if group else 1
        if group and group.most > group.fewest:
            count += int(draw() * (group.most - group.fewest + 1))
        chosen = _sample(options, count, draw)
        separator = group.separator if group else ""
        texts = [o if isinstance(o, str) else group.text[o.start : o.end] for o in chosen]  # type: ignore[union-attr]
        choices.append(Choice(written, separator.join(texts)))
        joined: list[_Piece] = []
        for number, option in enumerate(chosen):
            joined += [separator] if number else []
            joined += _read(option) if isinstance(option, str) else option.pieces
        pending.append((iter(joined), depth + (file is not None)))
    return Expanded("".join(out), tuple(choices), tuple(unknown))


def _sample(options: Sequence[_Option | str], count: int, draw: Callable[[], float]) -> list[_Option | str]:
    """`count` different options (all there are, if fewer), by their weights; lines of a file weigh the same."""
    if count == 1 and isinstance(options[0], str):  # files may have a million lines
        return [options[int(draw() * len(options))]]
    left = list(options)
    chosen: list[_Option | str] = []
    while left and len(chosen) < min(count, MAX_DRAWS):
        weights = [1.0 if isinstance(option, str) else option.weight for option in left]
        chosen.append(left.pop(_pick(weights, draw())))
    return chosen


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


@dataclass(frozen=True)
class Drawn:
    """Both prompts of one picture as drawn, what was drawn for them, and names that have no options."""

    prompt: str
    negative_prompt: str
    note: str = ""
    unknown: tuple[str, ...] = ()


def draw_prompts(prompt: str, negative_prompt: str, seed: int, lookup: Lookup, braces: bool) -> Drawn:
    """Both prompts of the picture with this seed. The negative one has draws of its own from the same seed."""
    positive = expand(prompt, seed, lookup, braces)
    negative = expand(negative_prompt, f"{seed} negative", lookup, braces)
    note = Expanded("", positive.choices + negative.choices).note
    return Drawn(positive.text, negative.text, note, tuple(dict.fromkeys(positive.unknown + negative.unknown)))


def no_files(name: str) -> Sequence[str]:
    """Where there are no wildcard files."""
    return ()


def places(
    wildcards: Path, extensions: Path | None, disables: Callable[[str], bool] = lambda key: False
) -> tuple[Path, ...]:
    """The folders with wildcard files: our own, then those that extensions brought (`extensions/*/wildcards`), but for
    the extensions that `disables` names."""
    try:
        brought = sorted(path for path in extensions.glob("*/wildcards") if path.is_dir()) if extensions else []
    except OSError:
        brought = []
    return (wildcards, *(path for path in brought if not disables(path.parent.name)))


def folder_lookup(*folders: Path) -> Lookup:
    """Wildcards from the text files of folders and their subfolders (`__animals/cats__`); each file is read once.

    Of files with the same name that of the first folder counts. A `*` stands for any part of a name: the lines of all
    these files. A name that leads outside its folder, through `..` or a link, has no options.
    """
    read: dict[str, tuple[str, ...]] = {}

    def lookup(name: str) -> Sequence[str]:
        if name not in read:
            if "*" in name:
                matching = [one for one in names(*folders) if fnmatchcase(one, name)]
                read[name] = tuple(option for one in matching for option in lookup(one))
            else:
                read[name] = next(filter(None, (_file_options(folder, name) for folder in folders)), ())
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
    return tuple(line for line in lines if line and not line.startswith("#") and len(line) < MAX_LENGTH)


def names(*folders: Path) -> list[str]:
    """Every wildcard name in the folders, sorted, as written between the underscores."""
    found: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found |= {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.txt")}
    return sorted(name for name in found if re.fullmatch(r"[\w\-./]+?", name))


def brace_spans(text: str) -> list[tuple[int, int]]:
    """The outermost `{...|...}` of a text, `text[start:end]`; what stands inside is no business of other checks."""
    return [(piece.start, piece.end) for piece in _read(text) if isinstance(piece, _Braces)]


def name_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Every `__name__` of a text with its place, `text[start:end]`."""
    for match in _TOKEN.finditer(text):
        if match.group(1):
            yield match.start(), match.end(), match.group(1)
