"""The original's own answers for 92 prompts: weights, schedules, AND, chunks, tags. From the golden runs, exact.

$GOLDEN_RUNS names the folder (default: shared/golden beside the repository, else the subset in tests/reference).
"""

from __future__ import annotations

import json

import pytest

from modules.prompt.parse import extract_tags, parse_emphasis, schedule, split_and
from modules.prompt.tokens import CLIP, chunk, token_count
from tests.reference.golden import golden_folder

UNIT = golden_folder() / "unit" / "unit.json"
PROMPTS = json.loads(UNIT.read_text("utf-8"))["prompts"] if UNIT.exists() else []


@pytest.fixture(params=PROMPTS, ids=lambda case: case["prompt"][:40])
def case(request) -> dict:
    return request.param


def test_emphasis(case):
    assert [list(piece) for piece in parse_emphasis(case["prompt"])] == case["attention"]


@pytest.mark.parametrize("key", ["8_None_False", "20_None_False", "20_10_False", "20_None_True"])
def test_schedule(case, key):
    steps, hires, old = key.split("_")
    got = schedule(case["prompt"], int(steps), None if hires == "None" else int(hires), old == "True")
    assert [list(entry) for entry in got] == case[f"schedule_{key}"]


def test_subprompts(case):
    assert [list(part) for part in split_and(case["prompt"])] == case["multicond"]


def test_chunks(case):
    got = chunk(parse_emphasis(case["prompt"]), CLIP)
    assert [
        {"tokens": list(c.ids), "multipliers": list(c.weights), "fixes": [[fix.offset, fix.name] for fix in c.fixes]}
        for c in got
    ] == case["chunks"]
    assert token_count(got) == case["token_count"]


def test_tags(case):
    text, tags = extract_tags(case["prompt"])
    networks: dict[str, list] = {}
    for tag in tags:
        networks.setdefault(tag.kind, []).append([list(tag.positional), tag.named])
    assert [text, networks] == case["extra_networks"]
