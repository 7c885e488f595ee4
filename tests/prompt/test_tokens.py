"""CLIP tokens, chunks and the counter. The ids of the original engine are in test_golden_units.py."""

from __future__ import annotations

import hashlib
import math
import random
from itertools import pairwise

import pytest
from hypothesis import strategies as st

from modules.prompt import tokens
from modules.prompt.cleanup import fix_text
from modules.prompt.counter import count
from modules.prompt.parse import parse_emphasis
from modules.prompt.tokens import (
    CLIP,
    COMMA,
    END,
    OPEN_CLIP,
    START,
    Fix,
    bracket_chunk,
    chunk,
    embeddings,
    token_count,
)

from .test_parse import _steps
from .texts import holds_for, prompts

BOTH = [CLIP, OPEN_CLIP]


def test_the_vocabulary_is_openais():
    assert hashlib.sha256(tokens._VOCABULARY.read_bytes()).hexdigest().startswith("924691ac288e54409236115652ad4aa2")
    vocabulary = tokens._vocabulary()
    assert len(vocabulary.ids) == START
    assert vocabulary.ids["in"] == 512
    assert vocabulary.ids["jekyll</w>"] == START - 1


@pytest.mark.parametrize("tokenizer", BOTH, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", ()),
        ("a photo of a cat", (320, 1125, 539, 320, 2368)),
        ("A  PHOTO\n", (320, 1125)),
        (",", (267,)),
        ("*", (265,)),
        ("(test:1.2)", (263, 1628, 281, 272, 269, 273, 264)),
        ("_under_score", (318, 1798, 318, 4431)),
        ("It’s “so”", (585, 568, 257, 706, 257)),
        ("１ｇｉｒｌ", CLIP.encode("1girl")),
        ("cafe\u0301", CLIP.encode("café")),
        ("itâ€™s", CLIP.encode("it's")),
        ("ﬁre", CLIP.encode("fire")),
        ("x½Ⅷ", CLIP.encode("x ½ Ⅷ")),
        ("a\ud800", CLIP.encode("a\ufffd")),
        ("\0\x07a\ufeff", CLIP.encode("a")),
    ],
)
def test_ids(tokenizer, text, ids):
    assert tokenizer.encode(text) == ids


def test_each_tokenizer_knows_its_own_special_words():
    assert CLIP.encode("a <|endoftext|>") == (320, END)
    assert OPEN_CLIP.encode("a <end_of_text>") == (320, END)
    assert END not in (*CLIP.encode("<end_of_text>"), *OPEN_CLIP.encode("<|endoftext|>"))


def test_entities_are_read_unless_the_text_holds_markup():
    assert CLIP.encode("a &amp;amp; b") == CLIP.encode("a & b")
    assert CLIP.encode("<i> &amp;") == (283, 328, 285, 261, 6259, 282)
    assert OPEN_CLIP.encode("<i> &amp;") == (283, 328, 285, 261)


def test_byte_pairs_merge_as_the_plain_algorithm_does(test_seed):
    """The textbook loop: the best-ranked pair, everywhere in the word, until none is left."""
    rng = random.Random(test_seed)
    ranks = tokens._vocabulary().ranks

    def plain(word: list[str]) -> list[str]:
        while True:
            pairs = [f"{a} {b}" for a, b in pairwise(word) if f"{a} {b}" in ranks]
            if not pairs:
                return word
            best = min(pairs, key=lambda pair: ranks[pair])
            out: list[str] = []
            for symbol in word:
                if out and f"{out[-1]} {symbol}" == best:
                    out[-1] += symbol
                    out.append("")  # a symbol just made does not merge again in this round
                else:
                    out.append(symbol)
            word = [symbol for symbol in out if symbol]

    for _ in range(300):
        letters = [rng.choice("abcdeinorst!") for _ in range(rng.randint(1, 30))]
        letters[-1] += "</w>"
        assert tokens._merged(list(letters), ranks) == plain(list(letters))


@pytest.mark.parametrize("letters", ["a", "ab", "é", "!", "½", "🐱", "&", "&amp;"])
def test_one_endless_word_grows_no_faster_than_n_log_n(letters):
    once, twice = (_steps(lambda n=n: CLIP.encode(letters * (n // len(letters)))) for n in (1_000, 2_000))
    assert twice <= 2.3 * once + 100


@holds_for(text=prompts)
def test_any_text_has_tokens(text):
    for tokenizer in BOTH:
        ids = tokenizer.encode(text)
        assert all(0 <= token <= END for token in ids)
    assert not any("\ud800" <= character <= "\udfff" for character in fix_text(text))


# ------------------------------------------------------------------------------------------------------------ chunks


@holds_for(text=prompts, backtrack=st.integers(0, 75), names=st.lists(st.sampled_from(["cat", "x", "red cat"])))
def test_chunks_hold_every_token_once(text, backtrack, names):
    for tokenizer in BOTH:
        parsed = parse_emphasis(text * 5)
        known = embeddings(tokenizer, dict.fromkeys(names, 4))
        chunks = chunk(parsed, tokenizer, backtrack, known)
        assert all(len(c.ids) == len(c.weights) == 77 and c.ids[0] == START and END in c.ids for c in chunks)
        assert all(fix.offset + fix.vectors <= c.used for c in chunks for fix in c.fixes)
        if not names:
            ids = [token for c in chunks for token in c.ids[1 : 1 + c.used]]
            plain = [t for text, weight in parsed if (text, weight) != ("BREAK", -1) for t in tokenizer.encode(text)]
            assert tokenizer is OPEN_CLIP or ids == plain  # OpenCLIP's padding overwrites what follows an END


def test_open_clip_is_padded_with_zeros_after_its_end():
    (c,) = chunk([("cat", 1.0)], OPEN_CLIP)
    assert c.ids == (START, 2368, END, *[0] * 74)
    (empty,) = chunk([("", 1.0)], OPEN_CLIP)
    assert empty.ids == (START, END, *[0] * 75)


@pytest.mark.parametrize(
    ("cats", "backtrack", "used"), [(55, 20, 56), (54, 20, 75), (70, 5, 71), (69, 5, 75), (70, 0, 75)]
)
def test_a_chunk_breaks_at_a_comma_that_is_near_enough(cats, backtrack, used):
    first, _ = chunk([("cat " * cats + "," + " dog" * 30, 1.0)], CLIP, backtrack)
    assert first.used == used


def test_each_symbol_comes_from_one_merge():
    merges = tokens._vocabulary().ranks
    assert len({merge.replace(" ", "") for merge in merges}) == len(merges)


def test_an_embedding_moves_with_the_text_after_its_comma():
    known = embeddings(CLIP, {"myemb": 4})
    first, second = chunk([("cat " * 66 + ", myemb " + "bird " * 6, 1.0)], CLIP, 20, known)
    assert (first.used, first.fixes, first.ids[67]) == (67, (), COMMA)
    assert second.fixes == (Fix(0, "myemb", 4),)
    assert second.ids[1:6] == (0, 0, 0, 0, 3329)


def test_the_longest_name_wins_and_names_are_found_in_any_case():
    known = embeddings(CLIP, {"red": 1, "red cat": 2})
    (c,) = chunk([("a Red  CAT, red dog", 1.2)], CLIP, 20, known)
    assert c.fixes == (Fix(1, "red cat", 2), Fix(4, "red", 1))
    assert c.weights[1:7] == (1.2,) * 6


def test_an_embedding_larger_than_a_chunk_is_cut_to_it():
    known = embeddings(CLIP, {"huge": 200, "none": 0})
    assert [c.used for c in chunk([("a huge none", 1.0)], CLIP, 20, known)] == [1, 75, 1]


# ----------------------------------------------------------------------------------------------------------- counter


def test_the_counter_takes_the_longest_reading():
    assert count("a [cat:dog bird fish:0.5] AND b <lora:x:1> # comment", CLIP).tokens == 4
    assert count("a AND b", CLIP, negative=True).tokens == 3
    assert count("(a:1.2)", CLIP, emphasis=False).tokens == 7
    assert (count("", CLIP).tokens, count("", CLIP).limit) == (0, 75)
    assert (count("dog BREAK", CLIP).tokens, count("dog BREAK cat", CLIP).limit) == (75, 150)


def test_boundaries_are_where_the_user_typed_the_next_chunk():
    text = "# first\n<lora:x:1> (" + "cat " * 50 + ":1.2), [bird:fish" + " fish" * 40 + ":5], last BREAK end"
    counted = count(text, CLIP)
    places = [text[place:].split()[0] for place in counted.boundaries]
    assert (counted.tokens, counted.limit) == (151, 225)
    assert places == ["fish", "end"]
    # 50 cats, a comma too far back to break at, 24 fish.
    assert text[: counted.boundaries[0]].endswith(" [bird:fish" + " fish" * 23 + " ")


@holds_for(text=prompts)
def test_the_counter_agrees_with_the_chunks(text):
    counted = count(text, CLIP, negative=True, comments=False, steps=3)
    assert all(0 <= place < len(text) for place in counted.boundaries)
    assert counted.limit >= counted.tokens
    if not any(sign in text for sign in "[<"):
        chunks = chunk(parse_emphasis(text), CLIP)
        assert counted.tokens == token_count(chunks)
        assert len(counted.boundaries) == sum(1 for c in chunks[1:] if c.used)


def test_old_emphasis_reads_brackets_token_by_token():
    (chunk,) = bracket_chunk("a (red:1.4) [[cat]] x", CLIP)
    words = [(token, round(weight, 6)) for token, weight in zip(chunk.ids, chunk.weights)][1 : 1 + chunk.used]
    plain = CLIP.encode("a red : 1 . 4 cat x")
    low = round(1 / 1.1 / 1.1, 6)
    assert words == list(zip(plain, [1.0, *[1.1] * 5, low, 1.0]))
    assert not chunk.closed


def test_old_emphasis_has_one_chunk_and_no_BREAK():
    (chunk,) = bracket_chunk("cat BREAK " * 60, CLIP)
    assert (chunk.used, len(chunk.ids)) == (75, 77)
    assert set(chunk.weights) == {1.0}
    known = embeddings(CLIP, {"zz": 4})
    (chunk,) = bracket_chunk("cat " * 73 + "zz", CLIP, embeddings=known)
    assert (chunk.used, chunk.fixes) == (73, ())


@holds_for(text=prompts, emphasis=st.booleans())
def test_old_emphasis_of_any_text(text, emphasis):
    (chunk,) = bracket_chunk(text, CLIP, emphasis)
    assert len(chunk.ids) == len(chunk.weights) == 77
    assert all(math.isfinite(weight) for weight in chunk.weights)
