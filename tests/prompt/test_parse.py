"""The prompt language: what the forms mean, what is literal, and that no text is too deep, too long or too strange."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import strategies as st

from modules.prompt.parse import (
    BREAK,
    Tag,
    extract_tags,
    parse_emphasis,
    parse_prompt,
    problems,
    schedule,
    split_and,
    strip_comments,
)
from modules.prompt.wildcards import expand

from .texts import EXAMPLES, holds_for, is_subsequence, prompts

# ---------------------------------------------------------------------------------------------------------- emphasis


def test_weights_multiply_in_the_order_brackets_close():
    assert parse_emphasis("((x:1.3):1.7)") == [("x", 1.3 * 1.7)]
    assert parse_emphasis("(((x)))") == [("x", 1.1 * 1.1 * 1.1)]


def test_deep_weights_multiply_from_the_inside_out(test_seed):
    factors = [round(random.Random(test_seed + i).uniform(0.5, 1.9), 2) for i in range(30)]
    text = "(" * 30 + "x" + "".join(f":{factor})" for factor in factors)
    product = 1.0
    for factor in factors:
        product *= factor
    assert parse_emphasis(text) == [("x", product)]


def test_unclosed_round_brackets_count_before_unclosed_square_ones():
    rounds, squares = 1.1 * 1.1 * 1.1, 1 / 1.1
    assert rounds * squares * squares != squares * squares * 1.1 * 1.1 * 1.1
    assert parse_emphasis("[([((x") == [("x", rounds * squares * squares)]


def test_round_and_square_brackets_may_overlap():
    assert parse_emphasis("(a [b) c]") == [("a ", 1.1), ("b", 1.1 * (1 / 1.1)), (" c", 1 / 1.1)]


@pytest.mark.parametrize("weight", [".", "1.2.3", "..5", "1" * 400])
def test_a_weight_that_is_no_finite_number_is_text(weight):
    assert parse_emphasis(f"(x:{weight})") == [(f"x:{weight}", 1.1)]


def test_break_is_a_marker_only_outside_brackets():
    assert BREAK in parse_emphasis("a BREAK b")
    assert BREAK not in parse_emphasis("(a BREAK b)")


@pytest.mark.parametrize("depth", [33, 100, 1000])
def test_very_deep_brackets_weigh_what_they_should(depth):
    ((text, weight),) = parse_emphasis("(" * depth + "x" + ")" * depth)
    assert text == "x"
    assert weight == pytest.approx(min(1.1**depth, 1e30), rel=1e-12)


def test_deep_brackets_around_a_zero_are_not_nan():
    weights = [weight for _, weight in parse_emphasis("(" * 10_000 + "a (b:0) [c" + ")" * 10_000)]
    assert all(math.isfinite(weight) for weight in weights)
    assert 0.0 in weights


@holds_for(text=prompts)
def test_emphasis_of_any_text(text):
    pieces = parse_emphasis(text)
    assert pieces
    assert all(math.isfinite(weight) for _, weight in pieces)
    assert is_subsequence("".join(piece for piece, _ in pieces), text)
    assert all(a[1] != b[1] for a, b in pairwise(pieces))


# ------------------------------------------------------------------------------------------- editing and alternation


def test_fraction_and_step_differ_by_the_dot():
    assert schedule("[a:b:1]", 20) == ((1, "a"), (20, "b"))
    assert schedule("[a:b:1.0]", 20) == ((20, "a"),)


def test_one_schedule_spans_both_passes():
    text = "[a:b:0.5] [c:d:1.5] [e:f:25]"
    assert schedule(text, 20) == ((10, "a c e"), (20, "b c e"))
    assert schedule(text, 20, hires_steps=10) == ((5, "b c e"), (10, "b d f"))


def test_groups_work_beside_stray_brackets():
    assert schedule("[c:d:5]]", 10) == ((5, "c]"), (10, "d]"))
    assert schedule("([x:y] [c:d:5])", 10) == ((5, "([x:y] c)"), (10, "([x:y] d)"))


def test_a_malformed_group_makes_what_holds_it_literal():
    assert schedule("[(a:b:c):d:5] [e:f:5]", 10) == ((5, "[(a:b:c):d:5] e"), (10, "[(a:b:c):d:5] f"))
    assert schedule("[[a:b]:c:5]", 10) == ((10, "[[a:b]:c:5]"),)
    assert schedule("[(a:b):c:5]", 10) == ((5, "(a:b)"), (10, "c"))


def test_a_stray_bar_makes_the_whole_prompt_literal():
    assert schedule("cat | dog [a:b:5]", 10) == ((10, "cat | dog [a:b:5]"),)
    assert schedule(r"cat \| dog [a:b:5]", 10) == ((5, r"cat \| dog a"), (10, r"cat \| dog b"))


@pytest.mark.parametrize(("when", "end"), [("1e999", "a"), ("-1e999", "b"), ("0.0e999", "b")])
def test_a_when_beyond_all_numbers_is_a_step_that_never_comes(when, end):
    assert schedule(f"[a:b:{when}]", 20) == ((20, end),)


@pytest.mark.parametrize("opener", ["[", "("])
def test_ten_thousand_brackets_deep(opener):
    closer = {"[": "]", "(": ")"}[opener]
    text = opener * 10_000 + "x" + closer * 10_000
    assert schedule(text, 20) == ((20, text),)
    assert [piece for piece, _ in parse_emphasis(text)] == ["x"]
    assert problems(text) == []


def test_ten_thousand_edits_deep():
    text = "[" * 10_000 + "a" + ":b:1]" * 10_000
    assert schedule(text, 4) == ((1, "a"), (4, "b"))


@holds_for(text=prompts, steps=st.integers(0, 30), hires=st.none() | st.integers(0, 30), old=st.booleans())
def test_schedule_of_any_text(text, steps, hires, old):
    got = schedule(text, steps, hires, old)
    ends = [end for end, _ in got]
    assert ends == sorted(set(ends))
    assert ends[-1] == (steps if hires is None or old else hires)
    assert all(is_subsequence(entry, text) for _, entry in got)
    if "[" not in text:
        assert got == ((ends[-1], text),)


@holds_for(
    words=st.lists(st.text("abc \\:", max_size=5).map(lambda s: s.replace("\\", "\\\\")), min_size=2, max_size=5)
)
def test_alternation_takes_turns(words):
    words = [word.replace(":", "") for word in words]
    got = schedule(f"x[{'|'.join(words)}]", 12)
    assert [text for _, text in got] == [f"x{words[i % len(words)]}" for i in range(12)]


# ------------------------------------------------------------------------------------------------ AND, tags, comments


@holds_for(parts=st.lists(prompts.map(lambda s: s.replace("AND", "")), min_size=1, max_size=4))
def test_and_splits_at_the_word_only(parts):
    assert len(split_and("\nAND\n".join(parts))) == len(parts)


@holds_for(text=prompts)
def test_tags_and_rest_are_the_whole_text(text):
    rest, tags = extract_tags(text)
    assert len(rest) + sum(len(str(tag)) for tag in tags) == len(text)
    assert all(str(tag) in text for tag in tags)
    assert all(len(tag.positional) + len([i for i in tag.items if i.count("=") == 1]) == len(tag.items) for tag in tags)


@holds_for(text=prompts)
def test_no_comment_is_left(text):
    assert "#" not in strip_comments(text)
    if "#" not in text:
        assert strip_comments(text) == text


# ------------------------------------------------------------------------------------------------- the whole prompt


def test_a_whole_prompt():
    prompt = parse_prompt("a [cat:dog:0.5] <lora:ink:0.8> AND [x|y] :0.3", 4)
    assert prompt.tags == (Tag("lora", ("ink", "0.8")),)
    assert [(sub.text, sub.weight) for sub in prompt.subprompts] == [("a [cat:dog:0.5]", 1.0), (" [x|y]", 0.3)]
    assert prompt.texts == ("a cat", "a dog", " x", " y")
    # The entry that ends at step 2 serves calls 0, 1 and 2; the first option of an alternation comes twice.
    assert [prompt.at(call)[0][0] for call in range(5)] == ["a cat", "a cat", "a cat", "a dog", "a dog"]
    assert [prompt.at(call)[1][0] for call in range(5)] == [" x", " x", " y", " x", " y"]


def test_tags_and_AND_are_words_in_a_negative_prompt():
    prompt = parse_prompt("a AND b <lora:x:1>", 4, negative=True)
    assert prompt.tags == ()
    assert prompt.texts == ("a AND b <lora:x:1>",)


@holds_for(text=prompts, negative=st.booleans())
def test_any_text_is_a_prompt(text, negative):
    prompt = parse_prompt(text, 6, negative=negative)
    assert prompt.subprompts
    assert set(prompt.texts) == {entry for sub in prompt.subprompts for _, entry in sub.schedule}
    assert all(prompt.at(call)[0][0] in prompt.texts for call in (0, 3, 6, 100))


# ---------------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("text", "marked", "word"),
    [
        ("a (red", "(", "never closed"),
        ("a red)", ")", "closes nothing"),
        ("(a [b) c", "[", "not closed before"),
        ("[a:b:c:0.5]", "[a:b:c:0.5]", "too many colons"),
        ("[a:b:soon]", "[a:b:soon]", "no prompt edit"),
        ("(red:1,4) cat", "(red:1,4)", "not a number"),
        ("(red:1.2.3) cat", "(red:1.2.3)", "not a number"),
        ("cat | dog [a:b:5]", "|", "turns off"),
        ("[a|b:c:5]", "[a|b:c:5]", "turns off"),
        ("[a:b:5]\\", "\\", "turns off"),
        ("a <lora:ink:0.5", "<lora:", "no closing"),
    ],
)
def test_problems_are_pointed_at(text, marked, word):
    (span,) = problems(text)
    assert text[span.start : span.end] == marked
    assert word in span.message


@pytest.mark.parametrize(
    "text",
    ["", "a (red:1.3) [house], [cat:dog:0.5] [a|b] <lora:x:1> \\(x\\)", "10:30, (a: b), cat | dog", "((([x:5])))"],
)
def test_a_sound_prompt_has_no_problems(text):
    assert problems(text) == []


@holds_for(text=prompts)
def test_problems_lie_in_the_text(text):
    spans = problems(text)
    assert all(0 <= span.start < span.end <= len(text) and span.message.endswith(".") for span in spans)
    assert spans == sorted(spans, key=lambda span: (span.start, span.end))


# ------------------------------------------------------------------------------------------------------------ growth


def _steps(function: Callable[[], object]) -> int:
    """Lines of Python executed: a measure of work that no other load on the machine changes."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


SHAPES = {
    "words": lambda n: "a " * (n // 2),
    "nested round": lambda n: "(a" * (n // 3) + ")" * (n // 3),
    "nested square": lambda n: "[a" * (n // 3) + "]" * (n // 3),
    "overlapping": lambda n: "([a" * (n // 5) + ")]" * (n // 5),
    "nested edits": lambda n: "[a" * (n // 8) + ":b:0.5]" * (n // 8),
    "edits": lambda n: "[a:b:0.5] " * (n // 10),
    "alternations": lambda n: "[a|b] " * (n // 6),
    "open": lambda n: "(" * n,
    "closed": lambda n: "])" * (n // 2),
    "mixed closers": lambda n: "(" * (n // 2) + "]" * (n // 2),
    "colons": lambda n: ": " * (n // 2),
    "BREAK": lambda n: " BREAK" * (n // 6),
    "AND": lambda n: "a AND " * (n // 6),
    "tags": lambda n: "<a:b>" * (n // 5),
    "unclosed tags": lambda n: "<a:" * (n // 3),
}
PARSERS = [parse_emphasis, lambda s: schedule(s, 20), split_and, extract_tags, strip_comments, problems]


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_the_text_is_at_most_2_3_times_the_work(shape):
    for parser in PARSERS:
        once, twice = (_steps(partial(parser, SHAPES[shape](n))) for n in (1_000, 2_000))
        assert twice <= 2.3 * once + 100, parser


@pytest.mark.parametrize("text", [" ", "a", "(", ":", "\\", "<", "_", "1", ": 1", "<a:", "\n", "#", ".", "|", "[:"])
def test_a_long_text_is_read(text):
    # Regular expressions run outside Python's lines: a quadratic one would hang here.
    long = text * (60_000 // len(text))
    for parser in PARSERS:
        parser(long)
    assert schedule(long, 20)[-1][0] == 20
    assert sum(len(piece) for piece, _ in parse_emphasis(long)) <= len(long)


@holds_for(
    examples=EXAMPLES // 20,  # a quarter of a second each
    opener=st.sampled_from(["(", "[", "{", "<", "([", "[a:", "{a|", "\\"]),
    closer=st.sampled_from(["", ")", "]", "}", ">", ")]", ":1.1)", ":b:0.5]", "|b]", "|b}"]),
    depth=st.sampled_from([1, 40, 1_000, 10_000]),
    closed=st.sampled_from([0, 1, 999, 10_000]),
    inside=prompts,
)
def test_any_depth_is_read(opener, closer, depth, closed, inside):
    text = opener * depth + inside + closer * min(closed, depth)
    for parser in (*PARSERS, parse_prompt_of_4, lambda s: expand(s, 1, lambda name: ())):
        parser(text)
    assert schedule(text, 4)[-1][0] == 4
    assert all(math.isfinite(weight) for _, weight in parse_emphasis(text))


def parse_prompt_of_4(text: str) -> object:
    return parse_prompt(text, 4)
