"""The token counter beside a prompt: how many tokens, out of how many, and where in the text each new chunk begins.

Counts what will be encoded: comments and network tags taken out, subprompts apart, edits and alternations as they read
at each step; the longest of these texts counts (A1111's rule). The text is followed through those steps as characters
with their places in the prompt, so that a boundary can be drawn where the user typed it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter

from modules.prompt.parse import AND_WORD, COMMENTS, Slice, emphasis_pieces, schedule_slices, split_and, tag_spans
from modules.prompt.tokens import Embeddings, Tokenizer, measure, token_limit

MAX_READINGS = 1_000_000
"""Characters of all readings together; a long prompt that changes at every step is counted by the first of them."""


@dataclass(frozen=True)
class TokenCount:
    """Tokens of the longest reading, the room in its chunks, and the places in the prompt where chunks 2, 3 begin."""

    tokens: int
    limit: int
    boundaries: tuple[int, ...]


@dataclass(frozen=True)
class _Located:
    """A text and, for each of its characters, its place in the prompt."""

    text: str
    places: Sequence[int]

    def kept(self, slices: Iterable[Slice]) -> _Located:
        slices = list(slices)
        return _Located(
            "".join(self.text[a:b] for a, b in slices), [place for a, b in slices for place in self.places[a:b]]
        )


def count(
    text: str,
    tokenizer: Tokenizer,
    *,
    steps: int = 20,
    negative: bool = False,
    comments: bool = True,
    emphasis: bool = True,
    comma_backtrack: int = 20,
    embeddings: Embeddings | None = None,
) -> TokenCount:
    """Counts a prompt, styles merged in. negative: AND is a word. emphasis: False for the emphasis mode None."""
    located = _Located(text, range(len(text)))
    if comments:
        located = _without_comments(located)
    located = located.kept(_between([(start, end) for start, end, _ in tag_spans(located.text)], len(located.text)))

    longest, starts, pieces = -1, [], []
    seen: set[str] = set()
    length = 0
    for reading in _readings(located, steps, negative):
        if length > MAX_READINGS:
            break
        if reading.text not in seen:
            seen.add(reading.text)
            length += len(reading.text)
            reading_pieces = _pieces(reading, emphasis)
            parsed = [(piece.text, weight) for piece, weight in reading_pieces]
            tokens, reading_starts = measure(parsed, tokenizer, comma_backtrack, embeddings)
            if tokens > longest:
                longest, starts, pieces = tokens, reading_starts, reading_pieces

    boundaries: list[int] = []
    for number, run in groupby(starts, key=itemgetter(0)):
        boundaries += _places(pieces[number][0], [token for _, token in run], tokenizer)
    return TokenCount(longest, token_limit(longest), tuple(boundaries))


def _between(removed: Iterable[Slice], length: int) -> Iterable[Slice]:
    position = 0
    for start, end in removed:
        yield position, start
        position = end
    yield position, length


def _without_comments(located: _Located) -> _Located:
    for comment in COMMENTS:
        # A newline stays behind: the one that ended the comment, or, at the end of the text, nothing that counts.
        removed = [(m.start(), m.end() - m.group().endswith("\n")) for m in comment.finditer(located.text)]
        located = located.kept(_between(removed, len(located.text)))
    return located


def _readings(located: _Located, steps: int, negative: bool) -> Iterable[_Located]:
    """Every text that is encoded on the way: each subprompt at each of its steps."""
    parts = [located]
    if not negative:
        spans = list(_between([match.span() for match in AND_WORD.finditer(located.text)], len(located.text)))
        texts = [text for text, _ in split_and(located.text)]  # each is the beginning of its span
        parts = [located.kept([(start, start + len(text))]) for (start, _), text in zip(spans, texts)]
    for part in parts:
        for slices in {slices: None for _, slices in schedule_slices(part.text, steps)}:
            yield part.kept(slices)


def _pieces(located: _Located, emphasis: bool) -> list[tuple[_Located, float]]:
    """As parse_emphasis, with places."""
    if not emphasis:
        return [(located, 1.0)]
    pieces = [
        (located.kept((start, start + len(text)) for text, _, start in run), weight)
        for weight, run in groupby(emphasis_pieces(located.text), key=itemgetter(1))
    ]
    return pieces or [(located.kept([]), 1.0)]


def _places(piece: _Located, tokens: Sequence[int], tokenizer: Tokenizer) -> Iterable[int]:
    """The places in the prompt of the words that some tokens of a piece belong to."""
    words = list(re.finditer(r"\S+", piece.text))
    ends = list(accumulate(len(tokenizer.encode(word.group())) for word in words))
    for token in tokens:
        word = words[min(bisect_right(ends, token), len(words) - 1)]
        yield piece.places[word.start()]
