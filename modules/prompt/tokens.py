"""CLIP tokens: byte-pair encoding, 75-token chunks with weights, and the token counter. No torch, no dependencies.

The vocabulary (data/) is OpenAI CLIP's: ids 0-255 bytes, 256-511 bytes that end a word, 512-49405 merges in order of
priority, then the two specials. Byte-pair encoding: Sennrich et al. 2016 (arXiv:1508.07909).
"""

from __future__ import annotations

import gzip
import heapq
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from modules.prompt.cleanup import fix_text
from modules.prompt.parse import BREAK, ROUND, WEIGHT_LIMIT

START = 49406
END = 49407
COMMA = 267  # ",</w>"
PLACEHOLDER = 0  # stands where a row of an embedding goes
CHUNK = 75  # prompt tokens in a chunk; 77 with START and END

_VOCABULARY = Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48894
_LONGEST_CACHED_WORD = 64  # longer "words" are rare and would fill the cache with junk


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    byte_symbols: tuple[str, ...]  # the character that stands for each byte
    ranks: dict[str, int]  # "left right" -> priority, 0 first
    ids: dict[str, int]  # symbol -> token id


@lru_cache(1)
def _vocabulary() -> _Vocabulary:
    """Read on first use (about 60 ms). Only the first fifth of the file holds merges CLIP was trained with."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    order = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    symbols = list(order.values())
    with gzip.open(_VOCABULARY) as file:
        merges = file.read(700_000).decode("utf-8", "ignore").split("\n", _MERGES + 1)[1 : _MERGES + 1]
    names = [*symbols, *(symbol + "</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    return _Vocabulary(
        byte_symbols=tuple(order[byte] for byte in range(256)),
        ranks=dict(zip(merges, range(_MERGES))),
        ids=dict(zip(names, range(len(names)))),
    )


def _merged(symbols: list[str], ranks: Mapping[str, int]) -> list[str]:
    """Symbols of one word after all merges: the best-ranked pair first, everywhere in the word from left to right.

    A heap of candidate pairs over a linked list makes a word of n letters cost n log n; the plain way is quadratic and
    a prompt may be one word of ten thousand letters. A symbol comes from one merge only, so whatever it merges into
    ranks behind that: all pairs of one rank leave the heap together, from left to right.
    """
    count = len(symbols)
    right = [*range(1, count), -1]
    left = [*range(-1, count - 1)]
    alive = [True] * count

    def pair_at(i: int) -> str | None:
        return f"{symbols[i]} {symbols[right[i]]}" if right[i] >= 0 else None

    candidates: list[tuple[int, int, str]] = []
    for i in range(count - 1):
        pair = f"{symbols[i]} {symbols[i + 1]}"
        if pair in ranks:
            candidates.append((ranks[pair], i, pair))
    heapq.heapify(candidates)
    while candidates:
        _, i, pair = heapq.heappop(candidates)
        if not alive[i] or pair_at(i) != pair:
            continue
        taken = right[i]
        symbols[i] += symbols[taken]
        alive[taken] = False
        right[i] = right[taken]
        if right[i] >= 0:
            left[right[i]] = i
        for start in (left[i], i):
            if start >= 0 and (new := pair_at(start)) is not None and new in ranks:
                heapq.heappush(candidates, (ranks[new], start, new))
    return [symbol for symbol, there in zip(symbols, alive) if there]


def _word_ids(word: str) -> tuple[int, ...]:
    vocabulary = _vocabulary()
    symbols = [vocabulary.byte_symbols[byte] for byte in word.encode("utf-8", "replace")]
    symbols[-1] += "</w>"
    return tuple(vocabulary.ids[symbol] for symbol in _merged(symbols, vocabulary.ranks))


_cached_word_ids = lru_cache(1 << 15)(_word_ids)


@lru_cache
def _word_pattern(special: tuple[str, ...]) -> re.Pattern[str]:
    r"""Words: specials, English endings, letters, single digits, runs of anything else.

    `[^\W\d_]` are the letters, but also numerals that are no digits (½ Ⅷ); see _words.
    """
    first = "|".join(map(re.escape, special))
    return re.compile(first + r"|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)


def _words(text: str, special: tuple[str, ...]) -> Iterable[str]:
    for word in _word_pattern(special).findall(text):
        if word.isascii() or len(word) == 1 or word.isalpha() or not word[0].isalnum():
            yield word
        else:  # each numeral is a word of its own
            yield from "".join(c if c.isalpha() else f" {c} " for c in word).split()


@dataclass(frozen=True)
class Tokenizer:
    """One of the two spellings of CLIP's tokenizer; ids are the same, the text before them is cleaned differently.

    special: words that mean START and END if someone writes them in a prompt. split_special: they are looked for before
    the text is cleaned. unescape: all HTML entities are decoded, twice. pad: the id that fills a chunk after its END.
    """

    name: str
    special: tuple[str, str]
    split_special: bool
    unescape: bool
    pad: int

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without START and END. Never raises.

        >>> CLIP.encode("a photo of a cat")
        (320, 1125, 539, 320, 2368)
        """
        parts = re.split(f"({'|'.join(map(re.escape, self.special))})", text) if self.split_special else [text]
        ids: list[int] = []
        for part in parts:
            for word in _words(self._cleaned(part), self.special):
                if word in self.special:
                    ids.append(START + self.special.index(word))
                else:
                    ids.extend(_cached_word_ids(word) if len(word) <= _LONGEST_CACHED_WORD else _word_ids(word))
        return tuple(ids)

    def _cleaned(self, text: str) -> str:
        text = fix_text(text)
        if self.unescape and "&" in text:
            text = html.unescape(html.unescape(text))
        return text.lower()


CLIP = Tokenizer("clip", ("<|startoftext|>", "<|endoftext|>"), split_special=True, unescape=False, pad=END)
"""Of CLIP-L: SD1 and the first encoder of SDXL."""

OPEN_CLIP = Tokenizer("open_clip", ("<start_of_text>", "<end_of_text>"), split_special=False, unescape=True, pad=0)
"""Of OpenCLIP H and bigG: SD2, the second encoder of SDXL, the SDXL refiner."""


# ----------------------------------------------------------------------------------------------------------- chunks


@dataclass(frozen=True)
class Fix:
    """Where the rows of an embedding go: from token `offset` of the chunk (START not counted), `vectors` of them."""

    offset: int
    name: str
    vectors: int


@dataclass(frozen=True)
class Chunk:
    """77 token ids and weights for one pass of the text encoder; `used` of the 75 in the middle are prompt.

    closed: more text, or a BREAK, came after it; the token counter then counts it as full.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    fixes: tuple[Fix, ...]
    used: int
    closed: bool


@dataclass(frozen=True)
class Embeddings:
    """Textual inversion names as token sequences, to be found in a prompt."""

    by_first_token: Mapping[int, Sequence[tuple[tuple[int, ...], str, int]]]

    def find(self, tokens: Sequence[int], position: int) -> tuple[str, int, int] | None:
        """(name, vectors, tokens taken) of the longest name that begins here."""
        for sequence, name, vectors in self.by_first_token.get(tokens[position], ()):
            if tuple(tokens[position : position + len(sequence)]) == sequence:
                return name, vectors, len(sequence)
        return None


def embeddings(tokenizer: Tokenizer, vectors: Mapping[str, int]) -> Embeddings:
    """Names of embeddings with their numbers of vectors, ready for `chunk`; at most 75 rows of each fit."""
    table: dict[int, list[tuple[tuple[int, ...], str, int]]] = {}
    for name, count in vectors.items():
        sequence = tokenizer.encode(name)
        if sequence and count > 0:
            table.setdefault(sequence[0], []).append((sequence, name, min(count, CHUNK)))
    for entries in table.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return Embeddings(table)


class _Page:
    """A chunk being filled."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.weights: list[float] = []
        self.fixes: list[Fix] = []
        self.origins: list[Origin] = []
        self.closed = True

    def finished(self, pad: int) -> Chunk:
        missing = CHUNK - len(self.ids)
        ids = [START, *self.ids, *[END] * (missing + 1)]
        if pad != END:
            first_end = ids.index(END)
            ids[first_end + 1 :] = [pad] * (len(ids) - first_end - 1)
        weights = (1.0, *self.weights, *[1.0] * (missing + 1))
        return Chunk(tuple(ids), weights, tuple(self.fixes), used=len(self.ids), closed=self.closed)

    def split(self, at: int) -> _Page:
        """Keeps the first `at` tokens and returns the rest, embeddings included, as the beginning of the next chunk."""
        rest = _Page()
        rest.ids, self.ids = self.ids[at:], self.ids[:at]
        rest.weights, self.weights = self.weights[at:], self.weights[:at]
        rest.origins, self.origins = self.origins[at:], self.origins[:at]
        rest.fixes = [Fix(fix.offset - at, fix.name, fix.vectors) for fix in self.fixes if fix.offset >= at]
        self.fixes = [fix for fix in self.fixes if fix.offset < at]
        return rest


Origin = tuple[int, int]
"""Where a token comes from: the number of its piece, the number of its token."""


def _pages(
    parsed: Iterable[tuple[str, float]], tokenizer: Tokenizer, comma_backtrack: int, embeddings: Embeddings | None
) -> list[_Page]:
    pages: list[_Page] = []
    page = _Page()
    last_comma = -1
    for number, (text, weight) in enumerate(parsed):
        if (text, weight) == BREAK:
            pages.append(page)
            page, last_comma = _Page(), -1
            continue
        tokens = tokenizer.encode(text)
        position = 0
        while position < len(tokens):
            token = tokens[position]
            full = len(page.ids) == CHUNK
            if token == COMMA:
                # Recorded before a full chunk is closed, which then forgets it: so it was, and so chunks fall.
                last_comma = len(page.ids)
            elif full and comma_backtrack and last_comma != -1 and CHUNK - last_comma <= comma_backtrack:
                rest = page.split(last_comma + 1)
                pages.append(page)
                page, last_comma = rest, -1
            match = embeddings.find(tokens, position) if embeddings else None
            name, vectors, taken = match or ("", 1, 1)
            if len(page.ids) + vectors > CHUNK:
                pages.append(page)
                page, last_comma = _Page(), -1
            if match:
                page.fixes.append(Fix(len(page.ids), name, vectors))
            page.ids.extend([PLACEHOLDER if match else token] * vectors)
            page.weights.extend([weight] * vectors)
            page.origins.extend([(number, position)] * vectors)
            position += taken
    if page.ids or not pages:
        page.closed = False
        pages.append(page)
    return pages


def chunk(
    parsed: Iterable[tuple[str, float]],
    tokenizer: Tokenizer,
    comma_backtrack: int = 20,
    embeddings: Embeddings | None = None,
) -> list[Chunk]:
    """Weighted pieces of text (from `parse_emphasis`) as chunks of 77 tokens; at least one.

    Each piece is tokenised by itself. BREAK closes a chunk. When a chunk overflows and its last comma is fewer than
    `comma_backtrack` tokens from the end, what follows that comma moves to the next chunk (0 turns that off). An
    embedding is never cut in two; one that moves takes its place along (the original leaves it behind, encoding
    placeholders instead).
    """
    return [page.finished(tokenizer.pad) for page in _pages(parsed, tokenizer, comma_backtrack, embeddings)]


def bracket_chunk(
    text: str, tokenizer: Tokenizer, emphasis: bool = True, embeddings: Embeddings | None = None
) -> list[Chunk]:
    """A text as the first interfaces read it (A1111's `use_old_emphasis_implementation`): one chunk, the rest cut off.

    A token with a bracket in it is left out and multiplies the weight of all that follow: `(` and `]` by 1.1, `)` and
    `[` divide by it. Numbers are words, `),` takes its comma along, and brackets that are never closed stay open.
    emphasis: False keeps such tokens as words.
    """
    factors = _bracket_factors() if emphasis else {}
    tokens = tokenizer.encode(text)
    page = _Page()
    page.closed = False
    weight = 1.0
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token in factors:
            weight = min(weight * factors[token], WEIGHT_LIMIT)
            position += 1
            continue
        match = embeddings.find(tokens, position) if embeddings else None
        name, vectors, taken = match or ("", 1, 1)
        if len(page.ids) + vectors > CHUNK:
            break
        if match:
            page.fixes.append(Fix(len(page.ids), name, vectors))
        page.ids.extend([PLACEHOLDER if match else token] * vectors)
        page.weights.extend([weight] * vectors)
        position += taken
    return [page.finished(tokenizer.pad)]


@lru_cache(1)
def _bracket_factors() -> Mapping[int, float]:
    """What the tokens with brackets in them multiply by; pairs of brackets within one token cancel out."""
    factors: dict[int, float] = {}
    for symbol, token in _vocabulary().ids.items():
        # Multiplied bracket by bracket, since doubles do not multiply associatively.
        factor = 1.0
        for character in symbol:
            if character in "([":
                factor = factor * ROUND if character == "(" else factor / ROUND
            elif character in ")]":
                factor = factor / ROUND if character == ")" else factor * ROUND
        if factor != 1.0:
            factors[token] = factor
    return factors


def measure(
    parsed: Iterable[tuple[str, float]],
    tokenizer: Tokenizer,
    comma_backtrack: int = 20,
    embeddings: Embeddings | None = None,
) -> tuple[int, list[Origin]]:
    """What `token_count` says of these chunks, and where the first token of each chunk but the first comes from.

    An empty chunk (between two BREAKs) begins nowhere and is left out of the second.
    """
    pages = _pages(parsed, tokenizer, comma_backtrack, embeddings)
    tokens = sum(CHUNK if page.closed else len(page.ids) for page in pages)
    return tokens, [page.origins[0] for page in pages[1:] if page.origins]


def token_count(chunks: Sequence[Chunk]) -> int:
    """Tokens as the counter shows them: a closed chunk counts 75 however short it is, so BREAK jumps."""
    return sum(CHUNK if chunk.closed else chunk.used for chunk in chunks)


def token_limit(count: int) -> int:
    """The size of the chunks that hold so many tokens."""
    return -(-max(count, 1) // CHUNK) * CHUNK
