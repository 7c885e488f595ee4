"""Infotext: what is written is read back, and pictures of older versions keep their meaning."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from modules.prompt.infotext import STYLES, Infotext, format, parse, quote, read, unquote
from modules.prompt.styles import Style

from .test_parse import _steps
from .texts import characters, holds_for, prompts

LINE = "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512"


def test_the_layout():
    fields = {"Steps": 20, "Lora hashes": "ink: 7c6b, b: 01", "Tiling": True, "User": None, "Refiner": "Refiner"}
    assert format("a\ncat", "bad,\nugly", fields) == (
        'a\ncat\nNegative prompt: bad,\nugly\nSteps: 20, Lora hashes: "ink: 7c6b, b: 01", Tiling: True, Refiner'
    )
    assert format("a cat", "", {"Steps": 20}) == "a cat\nSteps: 20"
    assert format("", "", {"Steps": 20}) == "Steps: 20"


def test_two_pairs_are_a_prompt_three_are_fields():
    assert read("Steps: 20, Seed: 1") == Infotext("Steps: 20, Seed: 1")
    assert read("Steps: 20, Seed: 1, Sampler: Euler").fields == {"Steps": "20", "Seed": "1", "Sampler": "Euler"}


@pytest.mark.parametrize(
    ("extra", "fields"),
    [
        ('Note: "a, \\"b\\": c"', {"Note": 'a, "b": c'}),
        ('Note: "a" b', {"Note": '"a" b'}),
        ("x: 5", {}),  # one-letter names are no fields
        ("-A-b/c d: 5", {"A-b/c d": "5"}),
        ("Note: , Next: y", {"Next": "y"}),
        ("Seed: 2", {"Seed": "2"}),
        ("Größe: 日本", {"Größe": "日本"}),
    ],
)
def test_values(extra, fields):
    base = read(f"x\n{LINE}").fields
    assert read(f"x\n{LINE}, {extra}").fields == {**base, **fields}


def test_sizes_are_two_fields_when_pasted():
    pasted = parse(f"x\n{LINE}, Seed resize from: 768x512").fields
    assert (pasted["Size-1"], pasted["Size-2"], pasted["Seed resize from-1"]) == ("512", "512", "768")
    assert "Size" not in pasted


def test_defaults_do_not_hide_what_is_written():
    pasted = parse(f"x\n{LINE}, RNG: CPU, FP8 weight: Enable").fields
    assert (pasted["RNG"], pasted["Clip skip"], pasted["Cache FP16 weight for LoRA"]) == ("CPU", "1", False)


@pytest.mark.parametrize(("prompt", "weighted"), [("a cat", 0), ("(a:1.2)", 1), ("[a]", 1), ("a BREAK b", 0)])
def test_emphasis_is_assumed_where_it_is_used(prompt, weighted):
    assert ("Emphasis" in parse(f"{prompt}\n{LINE}").fields) == bool(weighted)


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("v1.5.1", {"Old prompt editing timelines", "Pad conds v0", "Downcast alphas_cumprod", "Refiner"}),
        (
            "v1.6.0-RC-28-ga0af2852",
            {"Old prompt editing timelines", "Pad conds v0", "Downcast alphas_cumprod", "Refiner"},
        ),
        ("1.6.0", {"Downcast alphas_cumprod", "Refiner"}),
        ("v1.7.0-224-gabcdef", {"Downcast alphas_cumprod", "Refiner"}),
        ("v1.7.0-225-gabcdef", {"Refiner"}),
        ("v1.8.0", set()),
        ("v1.10.1", set()),
        ("f2.0.1v1.10.1-previous-659-gc055f2d4", set()),
        ("neoforge", set()),
    ],
)
def test_older_pictures_are_drawn_as_then(version, old):
    text = f"[a:b:0.5]\n{LINE.replace('Euler', 'DDIM')}, Refiner: r, Version: {version}"
    pasted = parse(text).fields
    names = {"Old prompt editing timelines", "Pad conds v0", "Downcast alphas_cumprod"}
    got = {name for name in names if pasted.get(name)}
    if pasted["Refiner switch by sampling steps"]:
        got.add("Refiner")
    assert got == old
    assert not any(parse(text, backcompat=False).fields.get(name) for name in names)


def test_first_pass_size_of_old_pictures():
    def sizes(text: str) -> list[str]:
        return [str(parse(text).fields[key]) for key in ("Size-1", "Size-2", "Hires resize-1", "Hires resize-2")]

    line = LINE.replace("512x512", "1024x768")
    assert sizes(f"x\n{line}, First pass size: 512x384") == ["512", "384", "1024", "768"]
    # 0x0 chose about 512x512 pixels of the same shape, in steps of 64.
    assert sizes(f"x\n{line}, First pass size: 0x0") == ["640", "448", "1024", "768"]


def test_styles_are_found_in_pasted_prompts():
    styles = {"oil": Style("oil", "oil painting", "photo")}
    text = f"a cat, oil painting\nNegative prompt: blurry, photo\n{LINE}"
    pasted = parse(text, styles=styles)
    assert (pasted.prompt, pasted.negative_prompt, pasted.fields[STYLES]) == ("a cat", "blurry", ["oil"])
    assert parse(text, styles=styles, style_rule="Ignore").prompt == "a cat, oil painting"
    assert STYLES not in parse(text, styles=styles, style_rule="Discard").fields
    assert STYLES not in parse(LINE, styles=styles).fields
    assert parse(LINE, styles=styles, style_rule="Apply").fields[STYLES] == []


def test_hires_prompts_lose_the_same_styles():
    styles = {"oil": Style("oil", "oil painting")}
    text = f'a cat, oil painting\n{LINE}, Hires prompt: "a lion, oil painting", Version: v1.9.0'
    pasted = parse(text, styles=styles)
    assert (pasted.prompt, pasted.fields["Hires prompt"]) == ("a cat", "a lion")
    other = parse(text.replace("lion, oil painting", "lion"), styles=styles)
    assert (other.prompt, STYLES in other.fields) == ("a cat, oil painting", False)


def test_fields_can_be_left_out():
    assert "Seed" not in parse(f"x\n{LINE}", skip=frozenset({"Seed"})).fields


name = st.from_regex(r"[A-Za-z_][A-Za-z0-9_ /-]{0,10}[A-Za-z]", fullmatch=True)
value = characters.map(str.strip).filter(lambda s: s and not s.startswith('"'))
lines = st.lists(characters.map(lambda s: s.replace("\n", "").strip()), max_size=4)
prompt = lines.map("\n".join).map(str.strip).filter(lambda s: "\nNegative prompt:" not in f"\n{s}")


@holds_for(prompt=prompt, negative=prompt, fields=st.dictionaries(name, value, min_size=3, max_size=8))
def test_what_is_written_is_read_back(prompt, negative, fields):
    fields = {key: text for key, text in fields.items() if text != key} | {"Steps": "1", "Seed": "2", "Sampler": "E"}
    assert read(format(prompt, negative, fields)) == Infotext(prompt, negative, fields)


@holds_for(text=characters)
def test_quoted_values_come_back(text):
    written = str(quote(text))
    assert unquote(written) == text or (written == text and text.startswith('"'))


@holds_for(text=prompts)
def test_any_text_is_an_infotext(text):
    for whole in (
        text,
        f"{text}\n{LINE}",
        f"x\n{LINE}, {text}",
        f"x\n{LINE}, Version: {text}, First pass size: {text}",
    ):
        got = parse(whole, styles={"s": Style("s", "cat", "")})
        assert got.fields["Clip skip"]
        assert "\n".join((got.prompt, got.negative_prompt)) is not None


@pytest.mark.parametrize("piece", ["aa: b, ", "a", 'aa:"b,', ": ", 'aa: "\\"', "a-", " "])
def test_twice_the_text_is_at_most_2_3_times_the_work(piece):
    once, twice = (_steps(lambda n=n: read(piece * (n // len(piece)))) for n in (2_000, 4_000))
    assert twice <= 2.3 * once + 100
    read(piece * 40_000)


def test_loras_of_the_extension_that_was_before_tags_become_tags() -> None:
    said = (
        "a house\nSteps: 3, Sampler: Euler, Seed: 1, AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: "
        "ink(0123456789ab), AddNet Weight A 1: 0.7, AddNet Weight B 1: 0.7, AddNet Module 2: Other, AddNet Model 2: x"
    )
    assert parse(said).prompt == "a house\n<lora:ink:0.7>"
