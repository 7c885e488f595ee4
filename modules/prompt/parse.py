r"""The prompt language: emphasis, prompt editing, alternation, AND, BREAK, network tags, comments.

What each form means is docs-of-record in A1111's terms (1.10.1), so that shared prompts draw the same picture:

    (x) [x] (x:1.4)        emphasis: times 1.1, divided by 1.1, times the number; brackets nest and multiply
    \( \) \[ \] \\         the character itself; any other lone backslash vanishes when the text is weighted
    [from:to:when]         prompt editing; [to:when] and [from::when] leave a side empty
    [a|b|c]                alternation, one option per step
    x AND y:0.5            separately guided subprompts with weights (positive prompt only)
    BREAK                  starts a new 75-token chunk (outside brackets)
    <kind:name:arg:k=v>    a network tag, taken out of the positive prompt
    # ...                  a comment to the end of the line

Nothing here raises and nothing recurses: what cannot be read as a form is literal text, and every function is linear in
the length of the text (times the number of distinct steps, for schedules, whose output is that long).

Where the original is accidental (its grammar is ambiguous and picks by hash order, or it crashes), we mean this:
- a complete `[..:..:..]` or `[..|..]` group works wherever it stands; a stray bracket or colon around it is literal;
- a weight that is no finite number, as in `(x:1.2.3)`, is text, and the `)` closes with 1.1;
- a `when` too large for a float is a step that never comes.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

ROUND = 1.1  # what one ( ) multiplies by
SQUARE = 1 / 1.1  # what one [ ] multiplies by
BREAK = ("BREAK", -1.0)  # the emphasis item that closes a chunk
WEIGHT_LIMIT = 1e30  # thousands of nested brackets saturate here instead of reaching infinity
EXACT_DEPTH = 32  # see _Nesting.weight

# --------------------------------------------------------------------------------------------------------- emphasis

_EMPHASIS = re.compile(r"\\[()\[\]\\]|\\|[(\[\])]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK_WORD = re.compile(r"\bBREAK\b")


class _Nesting:
    """The brackets around each piece of text: two independent stacks, since `(a [b) c]` may overlap.

    An opener is a number; index 0 is "no bracket". Each knows the opener of its own kind below it, its multiplier, and
    when it was closed. Multipliers are known only at the closer, so weights are computed when the text has been read.
    """

    def __init__(self) -> None:
        self.below = [0]
        self.factor = [1.0]
        self.closed_at = [math.inf]
        self.top = {"(": 0, "[": 0}
        self._clock = 0
        self._outer: list[float] = []
        self._known: dict[tuple[int, int], float] = {}

    def open(self, bracket: str) -> None:
        self.below.append(self.top[bracket])
        # Never closed means closed at the end of the text: round ones first, then square ones.
        self.factor.append(ROUND if bracket == "(" else SQUARE)
        self.closed_at.append(1e18 if bracket == "(" else 2e18)
        self.top[bracket] = len(self.below) - 1

    def close(self, bracket: str, factor: float) -> bool:
        """Closes the innermost open bracket of this kind; False when none is open."""
        opener = self.top[bracket]
        if not opener:
            return False
        self._clock += 1
        self.factor[opener], self.closed_at[opener] = factor, self._clock
        self.top[bracket] = self.below[opener]
        return True

    def weight(self, around: tuple[int, int]) -> float:
        """The product of all brackets around (innermost round, innermost square), in the order they were closed.

        Doubles do not multiply associatively and equal weights are merged by ==, so the order is kept for the innermost
        32 brackets; what lies further out is one product, which keeps ten thousand nested brackets linear.
        """
        if around in self._known:
            return self._known[around]
        if not self._outer:
            for below, factor in zip(self.below, self.factor):
                self._outer.append(_saturate((self._outer[below] if self._outer else 1.0) * factor))
        a, b = around
        product = 1.0
        for _ in range(EXACT_DEPTH):
            if not (a or b):
                break
            if self.closed_at[a] < self.closed_at[b]:
                product, a = product * self.factor[a], self.below[a]
            else:
                product, b = product * self.factor[b], self.below[b]
        if a or b:
            product *= _saturate(self._outer[a] * self._outer[b])
        self._known[around] = product = _saturate(product)
        return product


def _saturate(weight: float) -> float:
    return min(max(weight, -WEIGHT_LIMIT), WEIGHT_LIMIT)


def emphasis_pieces(text: str) -> list[tuple[str, float, int]]:
    """Text in pieces with their weights and where each begins in the text, before equal neighbours are merged."""
    nesting = _Nesting()
    pieces: list[tuple[str, float, int, tuple[int, int]]] = []  # text, sign, start, brackets around it

    def add(piece: str, start: int, sign: float = 1.0) -> None:
        pieces.append((piece, sign, start, (nesting.top["("], nesting.top["["])))

    for match in _EMPHASIS.finditer(text):
        token, start = match.group(), match.start()
        if token[0] == "\\":
            if len(token) == 2:
                add(token[1], start + 1)
        elif token in ("(", "["):
            nesting.open(token)
        elif match.group(1) is not None and nesting.top["("]:
            weight = _number(match.group(1))
            if weight is None:
                add(token[:-1], start)
            nesting.close("(", ROUND if weight is None else weight)
        elif token == ")":
            if not nesting.close("(", ROUND):
                add(token, start)
        elif token == "]":
            if not nesting.close("[", SQUARE):
                add(token, start)
        else:
            done = 0
            for word in _BREAK_WORD.finditer(token):
                _add_stripped(add, token[done : word.start()], start + done, left=done > 0, right=True)
                add("BREAK", start + word.start(), -1.0)
                done = word.end()
            _add_stripped(add, token[done:], start + done, left=done > 0, right=False)
    return [(piece, sign * nesting.weight(around), start) for piece, sign, start, around in pieces]


def _add_stripped(add: Callable[[str, int], None], piece: str, start: int, left: bool, right: bool) -> None:
    """Adds a piece without the space towards a BREAK at its left or right."""
    if left:
        start += len(piece) - len(piece.lstrip())
        piece = piece.lstrip()
    add(piece.rstrip() if right else piece, start)


def parse_emphasis(text: str) -> list[tuple[str, float]]:
    r"""Text in pieces with their weights; neighbours of equal weight are one piece. Never empty.

    `BREAK` outside brackets is the piece `("BREAK", -1.0)`; inside brackets its weight differs and it is a word.

    >>> parse_emphasis("a (red:1.4) [house]")
    [('a ', 1.0), ('red', 1.4), (' ', 1.0), ('house', 0.9090909090909091)]
    """
    return [
        ("".join(piece for piece, _, _ in run), weight)
        for weight, run in groupby(emphasis_pieces(text), key=itemgetter(1))
    ] or [("", 1.0)]


def _number(text: str) -> float | None:
    """A finite float (any Unicode decimal digits), else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------- prompt editing and alternation

Schedule = tuple[tuple[int, str], ...]
"""`(end_step, text)` in rising order; the last end is the number of steps."""

_EDITING = re.compile(r"\\.|[\\\[\]():|]|[^\\\[\]():|]+")
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


@dataclass(eq=False, slots=True)
class _Edit:
    """`[before:after:when]`; `when` as written, because `1` and `1.0` mean different things."""

    options: list[list[_Piece]]  # before, after
    when: str
    boundary: int = 0  # the last step of `before`, once the number of steps is known

    def at(self, step: int) -> list[_Piece]:
        return self.options[step > self.boundary]


@dataclass(eq=False, slots=True)
class _Alternation:
    """`[a|b|c]`"""

    options: list[list[_Piece]]

    def at(self, step: int) -> list[_Piece]:
        return self.options[(step - 1) % len(self.options)]


Slice = tuple[int, int]
"""A part of the text, `text[start:end]`."""

_Piece = Slice | str | _Edit | _Alternation
"""Text is read as slices; `schedule` looks them up once, before it reads the prompt at every step."""


@dataclass(eq=False, slots=True)
class _Frame:
    """An open bracket: where it stands among the pieces, and the colons and bars directly inside it.

    Three colons are as wrong as any more, so no more are kept. No lists until needed: there may be thousands of these.
    """

    bracket: str
    start: int
    colons: tuple[int, ...] = ()
    bars: list[int] | None = None


class _Unreadable(Exception):
    """A stray `|` or a dangling backslash: the whole prompt is literal."""


def _read_edits(text: str) -> tuple[list[_Piece], list[_Edit | _Alternation]]:
    """The prompt as pieces, and all groups in it. Raises _Unreadable.

    Only a bracket with nothing stray inside can be a group, so a stray bracket or a malformed group makes every bracket
    that is still open literal: one look at each token is enough.
    """
    pieces: list[_Piece] = []
    groups: list[_Edit | _Alternation] = []
    frames: list[_Frame] = []

    def make_literal() -> None:
        if any(frame.bars for frame in frames):
            raise _Unreadable
        frames.clear()

    for match in _EDITING.finditer(text):
        token = match.group()
        if token == "\\":
            raise _Unreadable
        if token in ("(", "["):
            frames.append(_Frame(token, len(pieces)))
        elif token == ":" and frames:
            if len(frames[-1].colons) < 3:
                frames[-1].colons += (len(pieces),)
        elif token == "|":
            if not frames or frames[-1].bracket != "[":
                raise _Unreadable
            frames[-1].bars = frames[-1].bars or []
            frames[-1].bars.append(len(pieces))
        elif token == ")":
            if not frames or frames[-1].bracket != "(" or len(frames.pop().colons) > 1:
                make_literal()
        elif token == "]":
            if not frames or frames[-1].bracket != "[":
                make_literal()
            else:
                frame = frames.pop()
                group = _group(text, pieces, frame)
                if group is not None:
                    del pieces[frame.start :]
                    pieces.append(group)
                    groups.append(group)
                    continue
                if frame.bars:
                    raise _Unreadable
                if frame.colons:
                    make_literal()
        pieces.append(match.span())
    make_literal()
    return _joined(pieces), groups


def _group(text: str, pieces: list[_Piece], frame: _Frame) -> _Edit | _Alternation | None:
    """What a `[ ]` is, the pieces after frame.start being its inside; None when it is not a group."""
    if frame.bars:
        if frame.colons:
            return None
        edges = [frame.start, *frame.bars, len(pieces)]
        return _Alternation([_joined(pieces[a + 1 : b]) for a, b in pairwise(edges)])
    if len(frame.colons) not in (1, 2):
        return None
    last = frame.colons[-1]
    when = pieces[-1]
    number = _WHEN.fullmatch(text, *when) if isinstance(when, tuple) else None
    if number is None or len(pieces) != last + 2:
        return None
    if len(frame.colons) == 1:
        return _Edit([[], _joined(pieces[frame.start + 1 : last])], number.group(1))
    first = frame.colons[0]
    return _Edit([_joined(pieces[frame.start + 1 : first]), _joined(pieces[first + 1 : last])], number.group(1))


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """The same pieces with neighbouring texts put together."""
    out: list[_Piece] = []
    for piece in pieces:
        if out and isinstance(piece, tuple) and isinstance(out[-1], tuple) and out[-1][1] == piece[0]:
            out[-1] = (out[-1][0], piece[1])
        else:
            out.append(piece)
    return out


def _leaves_at(pieces: list[_Piece], step: int) -> list[Any]:
    """The texts (strings or slices, as they are in the pieces) that the prompt consists of at a (1-based) step."""
    out: list[Slice | str] = []
    pending: list[Iterator[_Piece]] = [iter(pieces)]
    while pending:
        for piece in pending[-1]:
            if isinstance(piece, (str, tuple)):
                out.append(piece)
            else:
                pending.append(iter(piece.at(step)))
                break
        else:
            pending.pop()
    return out


def _boundary(when: str, steps: int, first_pass_steps: int | None, use_old: bool) -> int:
    """The last step of an edit's first text; below 1 it never shows, at `steps` it never ends."""
    value = float(when)
    if use_old:
        value = value * steps if value < 1 else value
    elif "." in when:
        value = (value if first_pass_steps is None else value - 1.0) * steps
    elif first_pass_steps is not None:
        value -= first_pass_steps
    return int(min(max(value, 0.0), steps)) if not math.isnan(value) else 0


def _read_schedule(
    text: str, steps: int, hires_steps: int | None, use_old: bool
) -> tuple[list[int], list[_Piece], list[_Edit | _Alternation]]:
    """Where the entries of the schedule end, and the prompt in pieces."""
    second_pass = hires_steps is not None and not use_old
    total = hires_steps if hires_steps is not None and second_pass else steps
    try:
        pieces, groups = _read_edits(text)
    except _Unreadable:
        return [total], [(0, len(text))], []
    ends = {total}
    for group in groups:
        if isinstance(group, _Edit):
            group.boundary = _boundary(group.when, total, steps if second_pass else None, use_old)
            if group.boundary >= 1:
                ends.add(group.boundary)
        else:
            ends.update(range(1, total + 1))
    return sorted(ends), pieces, groups


def schedule_slices(text: str, steps: int) -> tuple[tuple[int, tuple[Slice, ...]], ...]:
    """As `schedule`, but each entry's text as parts of the prompt, in order."""
    ends, pieces, _ = _read_schedule(text, steps, None, False)
    return tuple((end, tuple(_leaves_at(pieces, end))) for end in ends)


def schedule(text: str, steps: int, hires_steps: int | None = None, use_old: bool = False) -> Schedule:
    """What the prompt reads at which steps: `((end_step, text), ...)`, the last end being the steps of this pass.

    steps: of the first pass, in denoiser calls (twice the steps for second-order samplers).
    hires_steps: given, the schedule is of the second pass: fractions 1.0-2.0 and steps beyond `steps` address it.
    use_old: the rule before 1.6.0: below 1 a fraction, otherwise a step, in both passes counted from the first pass.

    >>> schedule("a [cat:dog:0.5]", 20)
    ((10, 'a cat'), (20, 'a dog'))
    """
    ends, pieces, groups = _read_schedule(text, steps, hires_steps, use_old)

    def looked_up(pieces: list[_Piece]) -> list[_Piece]:
        return [text[slice(*piece)] if isinstance(piece, tuple) else piece for piece in pieces]

    for group in groups:
        group.options = [looked_up(option) for option in group.options]
    pieces = looked_up(pieces)
    # Alternations repeat after `period` steps, so between two edits there are no more texts than that.
    period = math.lcm(*(len(group.options) for group in groups if isinstance(group, _Alternation)))
    edits = sorted({group.boundary for group in groups if isinstance(group, _Edit)})
    texts: dict[tuple[int, int], str] = {}
    entries: list[tuple[int, str]] = []
    for end in ends:
        state = bisect_left(edits, end), end % period
        if state not in texts:
            texts[state] = "".join(_leaves_at(pieces, end))
        entries.append((end, texts[state]))
    return tuple(entries)


# ------------------------------------------------------------------------------------------------ AND, tags, comments

AND_WORD = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))")


def split_and(text: str) -> tuple[tuple[str, float], ...]:
    """The subprompts between the words AND, with their weights.

    >>> split_and("a cat AND a dog :0.5")
    (('a cat', 1.0), (' a dog', 0.5))
    """
    out: list[tuple[str, float]] = []
    for part in AND_WORD.split(text):
        part = part.rstrip()
        before, colon, after = part.rpartition(":")
        match = _AND_WEIGHT.fullmatch(after) if colon else None
        weight = _number(match.group(1)) if match else None
        out.append((part, 1.0) if weight is None else (before.rstrip(), weight))
    return tuple(out)


@dataclass(frozen=True)
class Tag:
    """`<kind:item:item:...>`; an item with exactly one `=` is a named argument, every other is positional."""

    kind: str
    items: tuple[str, ...]

    @property
    def positional(self) -> tuple[str, ...]:
        return tuple(item for item in self.items if item.count("=") != 1)

    @property
    def named(self) -> dict[str, str]:
        return dict(item.split("=") for item in self.items if item.count("=") == 1)

    def __str__(self) -> str:
        return f"<{':'.join((self.kind, *self.items))}>"


_TAG_HEAD = re.compile(r"<(\w+):(?=[^>])")


def tag_spans(text: str) -> Iterator[tuple[int, int, Tag]]:
    """Every network tag with its place, `text[start:end]`."""
    position = 0
    while (head := _TAG_HEAD.search(text, position)) is not None:
        end = text.find(">", head.end())
        if end < 0:
            return
        yield head.start(), end + 1, Tag(head.group(1), tuple(text[head.end() : end].split(":")))
        position = end + 1


def extract_tags(text: str) -> tuple[str, tuple[Tag, ...]]:
    """The text without its network tags (known or not), and the tags in order. Commas around a tag stay.

    >>> extract_tags("a cat <lora:ink:0.8>")
    ('a cat ', (Tag(kind='lora', items=('ink', '0.8')),))
    """
    kept: list[str] = []
    tags: list[Tag] = []
    position = 0
    for start, end, tag in tag_spans(text):
        kept.append(text[position:start])
        tags.append(tag)
        position = end
    return "".join(kept) + text[position:], tuple(tags)


COMMENTS = (re.compile(r"(?:\A|\n)#[^\n]*\n?"), re.compile(r"#[^\n]*\n?"))
"""Whole comment lines with both line ends, then comments at the end of a line; one newline takes the place of each."""


def strip_comments(text: str) -> str:
    """The text without `#` comments: first whole comment lines, then line ends; each leaves one newline."""
    for comment in COMMENTS:
        text = comment.sub("\n", text)
    return text


# ------------------------------------------------------------------------------------------------- the whole prompt


@dataclass(frozen=True)
class Subprompt:
    """One part between ANDs: its text as written, its guidance weight, and what it reads at which steps."""

    text: str
    weight: float
    schedule: Schedule

    def at(self, call: int) -> str:
        """The text for the 0-based denoiser call: the first entry that ends at or after it.

        Ends count from 1 and calls from 0, so the first entry lasts one call longer than written; shared pictures were
        drawn that way.
        """
        for end, text in self.schedule:
            if end >= call:
                return text
        return self.schedule[-1][1]


@dataclass(frozen=True)
class Prompt:
    """A prompt ready for the text encoder: subprompts, each with a schedule of texts, and the networks it names."""

    text: str
    subprompts: tuple[Subprompt, ...]
    tags: tuple[Tag, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every distinct text to encode, in order of first use."""
        return tuple(dict.fromkeys(text for sub in self.subprompts for _, text in sub.schedule))

    def at(self, call: int) -> tuple[tuple[str, float], ...]:
        """`(text, weight)` of each subprompt for the 0-based denoiser call."""
        return tuple((sub.at(call), sub.weight) for sub in self.subprompts)


def parse_prompt(
    text: str, steps: int, hires_steps: int | None = None, *, use_old: bool = False, negative: bool = False
) -> Prompt:
    """A prompt, comments stripped and styles merged, as the pipeline uses it. Steps as in `schedule`.

    In a negative prompt tags and AND are plain words. Within a batch only the first prompt's tags count.
    """
    rest, tags = (text, ()) if negative else extract_tags(text)
    parts = ((rest, 1.0),) if negative else split_and(rest)
    return Prompt(
        text,
        tuple(Subprompt(part, weight, schedule(part, steps, hires_steps, use_old)) for part, weight in parts),
        tags,
    )


# ---------------------------------------------------------------------------------------------------------- problems


@dataclass(frozen=True)
class Span:
    """A place in the text, `[start, end)` in characters, and one sentence on what is odd about it."""

    start: int
    end: int
    message: str


_WEIGHT_LIKE = re.compile(r"\s*[+-]?[.,\d]*\d[.,\d]*\s*")


def problems(text: str) -> list[Span]:
    """Brackets and edits that do not do what they look like, for an editor to underline. Sorted by place."""
    found: list[Span] = []
    frames: list[tuple[str, int, list[int], bool]] = []  # bracket, position, colons, has a bar
    is_open = {"(": 0, "[": 0}
    editing = "[" in text  # a sign that turns off prompt editing only matters where there may be some

    def note(start: int, end: int, message: str) -> None:
        found.append(Span(start, end, message))

    for match in _EDITING.finditer(text):
        token, at = match.group(), match.start()
        if token == "\\" and editing:
            note(at, at + 1, "A backslash at the end of a line turns off all [a:b:when] here; remove it.")
        elif token in ("(", "["):
            frames.append((token, at, [], False))
            is_open[token] += 1
        elif token == ":" and frames:
            frames[-1][2].append(at)
        elif token == "|":
            if frames and frames[-1][0] == "[":
                frames[-1] = (*frames[-1][:3], True)
            elif editing:
                note(at, at + 1, r"A | outside [a|b] turns off all [a:b:when] here; write \| for the sign.")
        elif token in (")", "]"):
            opener = "(" if token == ")" else "["
            if not is_open[opener]:
                note(at, at + 1, f"This {token} closes nothing; remove it or write \\{token} for the sign.")
                continue
            while frames[-1][0] != opener:
                other, start, _, _ = frames.pop()
                is_open[other] -= 1
                note(start, start + 1, f"This {other} is not closed before the {token} that follows.")
            _, start, colons, bar = frames.pop()
            is_open[opener] -= 1
            if message := _inside(text, token, colons, bar, at):
                note(start, at + 1, message)
    for bracket, at, _, _ in frames:
        note(at, at + 1, f"This {bracket} is never closed; close it or write \\{bracket} for the sign.")
    for match in _TAG_HEAD.finditer(text, text.rfind(">") + 1):
        note(match.start(), match.end(), "This network tag has no closing >, so it stays in the prompt as text.")
    return sorted(found, key=lambda span: (span.start, span.end))


def _inside(text: str, closer: str, colons: list[int], bar: bool, end: int) -> str | None:
    """What is odd about a closed bracket whose closer stands at `end`, or None."""
    if not colons:
        return None
    last = text[colons[-1] + 1 : end]
    if closer == ")":
        if _WEIGHT_LIKE.fullmatch(last) and _number(last) is None:
            return f"{last.strip()} is not a number, so this weighs 1.1; write it like (text:1.2)."
        return None
    if bar:
        return r"[a|b] cannot hold a colon of its own, which turns off all editing here; write \: for the sign."
    if _WHEN.fullmatch(last) is None:
        return "This is no prompt edit, as its last part is not a number; write [from:to:when] with a step or fraction."
    if len(colons) > 2:
        return "This is no prompt edit, as it has too many colons; write [from:to:when], and \\: for the sign."
    return None
