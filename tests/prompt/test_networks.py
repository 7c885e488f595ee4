"""What network tags mean, and how strengths change over the calls of the model."""

from __future__ import annotations

from typing import Any

import pytest

from modules.prompt.networks import Strength, read_networks, renamed, strengths
from modules.prompt.parse import parse_prompt


@pytest.mark.parametrize(
    ("tag", "meaning"),
    [
        ("<lora:ink>", {"text_encoder": "1.0", "unet": "1.0"}),
        ("<lyco:ink:0.7>", {"text_encoder": "0.7", "unet": "0.7"}),
        ("<lora:ink:0.7:0.4:8>", {"text_encoder": "0.7", "unet": "0.4", "ranks": 8}),
        ("<lora:ink:0.7:te=0.2>", {"text_encoder": "0.2", "unet": "0.2"}),
        ("<lora:ink:te=0.2:unet=0.9:dyn=4>", {"text_encoder": "0.2", "unet": "0.9", "ranks": 4}),
        ("<lora:ink:-1>", {"text_encoder": "-1", "unet": "-1"}),
        ("<lora:ink:[0:1:0.5]>", {"text_encoder": "[0:1:0.5]", "unet": "[0:1:0.5]"}),
        ("<lora:ink:0.5:[0:1:8]:4>", {"text_encoder": "0.5", "unet": "[0:1:8]", "ranks": 4}),
        ("<lora:ink:unet=[1::8]>", {"text_encoder": "1.0", "unet": "[1::8]"}),
        ("<lora:ink:1:lbw=OUTALL>", {"text_encoder": "1", "unet": "1", "blocks": "OUTALL"}),
        ("<lora:ink:1:1:lbw=1,0,0.5:stop=9>", {"text_encoder": "1", "unet": "1", "blocks": "1,0,0.5", "stop": 9}),
        ("<lora:ink:1:step=3-7>", {"text_encoder": "1", "unet": "1", "start": 3, "stop": 7}),
        ("<lora:ink:1:future=7>", {"text_encoder": "1", "unet": "1"}),
        ("<hypernet:ink:0.7>", {"kind": "hypernet", "text_encoder": "1.0", "unet": "0.7"}),
        ("<hypernet:ink>", {"kind": "hypernet", "text_encoder": "1.0", "unet": "1.0"}),
    ],
)
def test_tags(tag: str, meaning: dict[str, Any]) -> None:
    (use,), problems = read_networks(f"a house {tag}, red")
    assert problems == ()
    wanted = {"kind": "lora", "name": "ink", "ranks": None, "blocks": "", "start": 1, "stop": None} | meaning
    assert use.model_dump(exclude={"path", "hash"}) == wanted


@pytest.mark.parametrize(
    ("tag", "problem"),
    [
        ("<lora:ink:strong>", "'strong' is no strength"),
        ("<lora:ink:nan>", "'nan' is no strength"),
        ("<lora:ink:[a:1:0.5]>", "'a' is no strength"),
        ("<lora:te=1>", "it has no name"),
        ("<lora:ink:1:1:many>", "dyn is a whole number"),
        ("<lora:ink:1:start=0>", "start is a whole number"),
        ("<sticker:ink>", "known are"),
    ],
)
def test_tags_that_switch_nothing_on_are_told(tag: str, problem: str) -> None:
    uses, (told,) = read_networks(f"a house {tag}, red")
    assert uses == ()
    assert tag in told
    assert problem in told


def over_calls(tag: str, calls: int, **options: Any) -> list[float]:
    uses, _ = read_networks(tag)
    table = strengths(uses, calls, **options)
    return [next(now for until, now in table if until >= call)[0].unet for call in range(calls)]


@pytest.mark.parametrize("when", ["0.5", "3", "7", "0.1", "12"])
def test_a_strength_changes_at_the_call_where_a_prompt_edit_does(when: str) -> None:
    prompt = parse_prompt(f"[0.25:0.75:{when}]", 8).subprompts[0]
    assert over_calls(f"<lora:ink:[0.25:0.75:{when}]>", 8) == [float(prompt.at(call)) for call in range(8)]


def test_forms_of_schedules() -> None:
    assert over_calls("<lora:ink:[1::4]>", 8) == [1, 1, 1, 1, 1, 0, 0, 0]
    assert over_calls("<lora:ink:[1:4]>", 8) == [0, 0, 0, 0, 0, 1, 1, 1]
    assert over_calls("<lora:ink:[0.5|1]>", 4) == [0.5, 0.5, 1, 0.5]
    assert over_calls("<lora:ink:[0:[0.5:1:6]:3]>", 8) == [0, 0, 0, 0, 0.5, 0.5, 0.5, 1]


def test_start_and_stop_count_steps() -> None:
    assert over_calls("<lora:ink:0.7:start=3>", 6) == [0, 0, 0.7, 0.7, 0.7, 0.7]
    assert over_calls("<lora:ink:0.7:stop=2>", 6) == [0.7, 0.7, 0, 0, 0, 0]
    assert over_calls("<lora:ink:0.7:step=2-3>", 6) == [0, 0.7, 0.7, 0, 0, 0]
    assert over_calls("<lora:ink:0.7:step=2-3>", 8, calls_per_step=2) == [0, 0, 0.7, 0.7, 0.7, 0.7, 0, 0]
    assert over_calls("<lora:ink:0.7:start=7>", 4, first_calls=4) == [0, 0, 0.7, 0.7]
    uses, _ = read_networks("<lora:ink:0.7:stop=2>")
    assert {now[0].text_encoder for _, now in strengths(uses, 6)} == {0.7}


def test_several_networks_share_one_table() -> None:
    uses, _ = read_networks("<lora:a:[0:1:2]> <lora:b:0.5>")
    a, b = Strength(0, 0), Strength(0.5, 0.5)
    assert strengths(uses, 4) == ((2, (a, b)), (4, (Strength(1, 1), b)))
    assert strengths((), 4) == ((4, ()),)


def test_loras_of_another_machine_are_called_as_the_same_files_are_here() -> None:
    here = {"0123456789ab": "My Ink", "ffffffffffff": "haze"}
    hashes = "ink: 0123456789ab, fog a: ffffffffffff, gone: 999999999999"
    text = "a <lora:ink:0.8> b <lyco:fog, a:1:0.5><lora:gone:1> <lora:ink> <lora:other:1> <hypernet:ink:1>"
    wanted = "a <lora:My Ink:0.8> b <lyco:haze:1:0.5><lora:gone:1> <lora:My Ink> <lora:other:1> <hypernet:ink:1>"
    assert renamed(text, hashes, here) == wanted
    assert renamed(text, "", here) == text
    assert renamed(text, "nonsense, : ,", here) == text
