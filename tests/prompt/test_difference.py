"""The difference of two pictures' settings in words."""

from __future__ import annotations

import random

import pytest

from modules.prompt import infotext
from modules.prompt.difference import Change, difference, in_words, phrases

FIELDS = {
    "Steps": 20, "Sampler": "Euler", "CFG scale": 7, "Seed": 1, "Size": "512x512", "Model hash": "aaaaaaaaaa",
    "Model": "dream", "Version": "Easel 0.1.0",
}  # fmt: skip


def text(prompt: str = "a house, day", negative: str = "", **changed: object) -> str:
    names = {name.replace("_", " "): value for name, value in changed.items()}
    return infotext.format(prompt, negative, {**FIELDS, **names})  # type: ignore[arg-type]


def words(before: str, after: str) -> str:
    return in_words(difference(before, after))


def test_the_example_of_the_issue() -> None:
    after = text("a house, night", Steps=30, Sampler="DPM++ 2M")
    assert words(text(), after) == "prompt: + 'night', − 'day'; steps 20 → 30; sampler Euler → DPM++ 2M"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (text(), text(), ""),
        (text(CFG_scale="7.0"), text(CFG_scale=7), ""),
        (text("a  house,day"), text("a house, day,"), ""),
        (text("day, a house"), text(), "prompt: in another order"),
        (text(), text("a house, (day:1.3)"), "prompt: 'day' → '(day:1.3)'"),
        (text("x <lora:ink:0.5>"), text("x <lora:ink:1> "), "prompt: '<lora:ink:0.5>' → '<lora:ink:1>'"),
        (text("a (red, b) cat"), text("a (red, c) cat"), "prompt: + 'a (red, c) cat', − 'a (red, b) cat'"),
        (text(), text(negative="blurry"), "negative prompt: + 'blurry'"),
        (text(), text(Size="768x512"), "size 512×512 → 768×512"),
        (text(), text(Model="ink", Model_hash="bbbbbbbbbb"), "model dream → ink"),
        (text(), text(Model_hash="bbbbbbbbbb"), "model hash aaaaaaaaaa → bbbbbbbbbb"),
        (text(), text(Clip_skip=2), "clip skip 1 → 2"),
        (text(Tiling=True), text(), "tiling True → nothing"),
        (text(), text(Denoising_strength=0.5), "denoising strength nothing → 0.5"),
        (text(RNG="CPU"), text(), "RNG CPU → GPU"),
        (text(), text(Version="v1.10.1", Seed=2), "seed 1 → 2; version Easel 0.1.0 → v1.10.1"),
        (text(Hires_prompt="a, b"), text(Hires_prompt="a"), "hires prompt: − 'b'"),
    ],
)  # fmt: skip
def test_what_is_said(before: str, after: str, said: str) -> None:
    assert words(before, after) == said


def test_a_field_is_only_told_once_and_both_ways_mirror_each_other(test_seed: int) -> None:
    rng = random.Random(test_seed)
    pool = ["day", "night", "(fog:1.2)", "(fog:1.4)", "<lora:ink:1>", "<lora:ink:0.3>", "a, b", "日本", r"smile \(x\)"]

    def made() -> str:
        prompt = ", ".join(rng.sample(pool, rng.randrange(len(pool))))
        numbers = {"Steps": rng.randrange(1, 4), "Seed": rng.randrange(3), "Clip_skip": rng.choice([1, 2])}
        return text(prompt, rng.choice(pool), **numbers)

    for _ in range(300):
        one, other = made(), made()
        there, back = difference(one, other), difference(other, one)
        fields = [change.name for change in there if not change.phrase]
        assert len(fields) == len(set(fields))
        turned = {"added": "removed", "removed": "added"}
        mirrored = {
            Change(change.name, turned.get(change.kind, change.kind), change.after, change.before, change.phrase)  # type: ignore[arg-type]
            for change in there
        }
        assert mirrored == set(back)
        assert (one == other) <= (there == ())


def test_phrases_stand_between_commas_outside_brackets() -> None:
    assert phrases("a cat, (b, c:1.2), <lora:x:1>d\ne\\(, f") == ["a cat", "(b, c:1.2)", "<lora:x:1>", "d", "e\\(", "f"]
