"""Cases of the prompt room: emphasis, schedules, AND, tags, comments, styles, chunks, infotext."""

from __future__ import annotations

import re
from collections.abc import Callable

from modules.prompt import infotext, styles
from modules.prompt.parse import extract_tags, parse_emphasis, schedule, split_and, strip_comments
from modules.prompt.tokens import CLIP, PLACEHOLDER, chunk, embeddings, token_count, token_limit


def emphasis(case: dict) -> None:
    got = [list(piece) for piece in parse_emphasis(case["input"])]
    if isinstance(case["expected"], dict):
        # The original crashes on a weight that is no number; for us it is text. Nothing of it may get lost.
        assert case["expected"] == {"error": "ValueError"}
        assert "".join(str(text) for text, _ in got) == re.sub(r"[()]", "", case["input"])
    else:
        assert got == case["expected"]


def schedules(case: dict) -> None:
    got = schedule(case["input"], case["steps"], case.get("hires_steps"), case.get("old_timelines", False))
    # "accept": what the original answers depends on the process.
    assert [list(entry) for entry in got] in [case["expected"], *case.get("accept", [])]


def multicond(case: dict) -> None:
    got = split_and(case["input"])
    texts = list(dict.fromkeys(text for text, _ in got))
    assert texts == case["expected"]["prompts"]
    assert [[texts.index(text), weight] for text, weight in got] == case["expected"]["parts"]


def extra_networks(case: dict) -> None:
    text, tags = extract_tags(case["input"])
    networks: dict[str, list[dict]] = {}
    for tag in tags:
        entry = {"items": list(tag.items), "positional": list(tag.positional), "named": tag.named}
        networks.setdefault(tag.kind, []).append(entry)
    assert {"prompt": text, "networks": networks} == case["expected"]


def comments(case: dict) -> None:
    assert strip_comments(case["input"]) == case["expected"]


def style_apply(case: dict) -> None:
    assert styles.apply_fragment(case["style"], case["input"]) == case["expected"]


def style_extract(case: dict) -> None:
    assert list(styles.extract_fragment(case["style"], case["input"])) == case["expected"]


def chunks(case: dict) -> None:
    parsed = [(case["input"], 1.0)] if case["emphasis"] == "None" else parse_emphasis(case["input"])
    known = case["embeddings"] or {}
    got = chunk(parsed, CLIP, case["comma_padding_backtrack"], embeddings(CLIP, known))
    expected = case["expected"]
    assert (token_count(got), token_limit(token_count(got))) == (expected["token_count"], expected["limit"])
    assert len(got) == len(expected["chunks"])
    carried: list[list] = []
    for ours, theirs in zip(got, expected["chunks"]):
        assert len(ours.ids) == len(ours.weights) == 77
        ids = list(ours.ids[1 : 1 + ours.used])
        assert (ours.used, sorted(set(ours.weights))) == (theirs["used"], theirs["mults"])
        assert list(ours.ids[1:4]) == theirs["first_ids"]
        assert ids[-3:] == theirs["last_used_ids"]
        # Deliberate difference: when the comma rule moves an embedding to the next chunk, the original leaves its
        # position behind in the padding, at or after `used`, and encodes placeholders. Ours moves along.
        there = carried + [fix for fix in theirs["fixes"] if fix[0] < theirs["used"]]
        carried = [[fix[0] - theirs["used"], fix[1]] for fix in theirs["fixes"] if fix[0] >= theirs["used"]]
        assert [[fix.offset, fix.name] for fix in ours.fixes] == there
        rows = [fix.offset + row for fix in ours.fixes for row in range(known[fix.name])]
        assert all(ids[row] == PLACEHOLDER for row in rows)
    assert not carried


def infotext_parse(case: dict) -> None:
    info = infotext.parse(case["input"])
    assert {"Prompt": info.prompt, "Negative prompt": info.negative_prompt, **info.fields} == case["expected"]


def infotext_quote(case: dict) -> None:
    assert infotext.quote(case["input"]) == case["expected"]


def infotext_unquote(case: dict) -> None:
    assert infotext.unquote(case["input"]) == case["expected"]


RUNNERS: dict[str, Callable[[dict], None]] = {
    "emphasis": emphasis,
    "schedule": schedules,
    "multicond": multicond,
    "extra_networks": extra_networks,
    "comments": comments,
    "style_apply": style_apply,
    "style_extract": style_extract,
    "chunks": chunks,
    "infotext_parse": infotext_parse,
    "infotext_quote": infotext_quote,
    "infotext_unquote": infotext_unquote,
}
