"""Wildcards and choices: drawn from the seed, recorded, bounded, and kept inside their folder."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st

from modules.prompt import wildcards
from modules.prompt.wildcards import Choice, draw_prompts, expand, folder_lookup, names, places

from .test_parse import _steps
from .texts import holds_for, prompts


def nothing(name: str) -> list[str]:
    return []


def test_options_are_drawn_about_equally_and_by_the_seed(test_seed):
    drawn = [expand("{a|b|c}", test_seed + i, nothing).text for i in range(3000)]
    assert drawn == [expand("{a|b|c}", test_seed + i, nothing).text for i in range(3000)]
    assert set(drawn) == set("abc")
    assert all(850 < n < 1150 for n in Counter(drawn).values())


def test_weights(test_seed):
    drawn = Counter(expand("{3::a|b|0::c}", test_seed + i, nothing).text for i in range(3000))
    assert 2100 < drawn["a"] < 2400
    assert drawn["c"] == 0


def test_choices_nest_and_are_recorded():
    got = expand("a {{dark|dark} red} __animal__", 5, lambda name: ["{big|big} cat"] if name == "animal" else [])
    assert got.text == "a {dark red} big cat"
    assert got.choices == (
        Choice("{dark|dark}", "dark"),
        Choice("__animal__", "{big|big} cat"),
        Choice("{big|big}", "big"),
    )
    assert got.note == "{dark|dark} = dark; __animal__ = {big|big} cat; {big|big} = big"


@pytest.mark.parametrize(
    "text", ["{a}", "a|b", "{a", "a}", r"\{a\|b\}", "__init", "a_b__c", "[a|b]", "__no such__", ""]
)
def test_what_is_no_choice_is_literal(text):
    assert expand(text, 1, nothing).text == text


def test_an_unknown_name_stays_and_is_reported():
    got = expand("a __beast__", 1, nothing)
    assert (got.text, got.unknown, got.choices) == ("a __beast__", ("beast",), ())


def test_files_that_name_each_other_end():
    got = expand("__loop__", 1, lambda name: ["x __loop__ __loop__"])
    assert len(got.choices) <= wildcards.MAX_DRAWS
    assert got.text.count("__loop__") > 0
    assert got.unknown == ()
    assert len(expand("__long__ " * 50, 1, lambda name: ["y" * 10_000]).text) < wildcards.MAX_LENGTH + 11_000


@pytest.mark.parametrize(
    ("text", "counts", "separator"),
    [
        ("{2$$a|b|c}", {2}, ", "),
        ("{1-2$$ and $$a|b|c}", {1, 2}, " and "),
        ("{9$$a|b}", {2}, ", "),
        ("{2$$__x__}", {2}, ", "),
    ],
)
def test_several_different_options_at_once(text, counts, separator, test_seed):
    drawn = [expand(text, test_seed + i, lambda name: ["a", "b", "c"]).text.split(separator) for i in range(200)]
    assert {len(parts) for parts in drawn} == counts
    assert all(len(set(parts)) == len(parts) and set(parts) <= set("abc") for parts in drawn)
    assert len({tuple(parts) for parts in drawn}) >= 2


def test_weights_hold_for_several_options(test_seed):
    drawn = [expand("{2$$8::a|b|c}", test_seed + i, nothing).text.split(", ") for i in range(1000)]
    assert 740 < sum(parts[0] == "a" for parts in drawn) < 860


def test_braces_stay_where_they_are_not_asked_for_but_choose_in_files():
    got = expand("{a|b} __x__", 3, lambda name: ["{c|c}"], braces=False)
    assert got.text == "{a|b} c"


def test_prompt_and_negative_prompt_draw_for_themselves(test_seed):
    drawn = [draw_prompts("{a|b}", "{a|b}", test_seed + i, nothing, True) for i in range(200)]
    assert {(one.prompt, one.negative_prompt) for one in drawn} == {(a, b) for a in "ab" for b in "ab"}
    assert all(one.note == f"{{a|b}} = {one.prompt}; {{a|b}} = {one.negative_prompt}" for one in drawn)


def test_a_star_stands_for_any_part_of_a_name_and_extensions_bring_folders(tmp_path):
    ours, brought = tmp_path / "wildcards", tmp_path / "extensions" / "sd-dynamic-prompts" / "wildcards"
    for folder, name, line in (
        (ours, "animals/cats", "lion"), (brought, "animals/dogs", "wolf"), (brought, "animals/cats", "puma"),
    ):  # fmt: skip
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line)
    assert places(ours, None) == (ours,)
    folders = places(ours, tmp_path / "extensions")
    assert folders == (ours, brought)
    lookup = folder_lookup(*folders)
    assert list(lookup("animals/*")) == ["lion", "wolf"]  # of equal names our own folder's file counts
    assert expand("__animals/dogs__", 1, lookup).text == "wolf"
    assert names(*folders) == ["animals/cats", "animals/dogs"]


def test_a_folder_of_files(tmp_path):
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cats.txt").write_bytes(b"\xef\xbb\xbf# big ones\r\nlion\r\n\r\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    lookup = folder_lookup(tmp_path)
    assert expand("a __animals/cats__", 1, lookup).text == "a lion"
    assert expand("__empty__", 1, lookup).unknown == ("empty",)
    assert names(tmp_path) == ["animals/cats", "empty"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/../../secret", "link", "..", "sub", "a" * 300])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    folder = tmp_path / "wildcards"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    got = expand(f"__{name}__", 1, folder_lookup(folder))
    assert (got.text, got.choices) == (f"__{name}__", ())


@holds_for(text=prompts, seed=st.integers())
def test_any_text_expands(text, seed):
    def lookup(name: str) -> list[str]:
        return [text] if name == "x" else []

    got = expand(text, seed, lookup)
    assert got == expand(text, seed, lookup)
    if not got.choices:
        assert got.text == text


@pytest.mark.parametrize("piece", ["{", "{a|", "_", "__a", "{a|b}", "|", "}", "\\", "{2$$", "{2$$a|b}", "__*"])
def test_twice_the_text_is_at_most_2_3_times_the_work(piece):
    def text(n: int) -> str:
        return piece * n + "}" * (n if piece == "{a|" else 0)

    once, twice = (_steps(lambda n=n: expand(text(n), 1, nothing)) for n in (400, 800))
    assert twice <= 2.3 * once + 100
