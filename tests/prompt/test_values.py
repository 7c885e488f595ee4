"""Lists of values, and lines with options, as people write them."""

from __future__ import annotations

import random

import pytest

from modules.prompt.lines import lines, options
from modules.prompt.values import joined, numbers, split
from modules.schema.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,2, 3", [1, 2, 3]), ("1-5", [1, 2, 3, 4, 5]), ("1-5 (+2)", [1, 3, 5]), ("1-6(+2)", [1, 3, 5]),
        ("10-5 (-3)", [10, 7]), ("5-1 (-1)", [5, 4, 3, 2, 1]), ("1-10 [5]", [1, 3, 5, 7, 10]), ("7-7", [7]),
        ("-3--1", [-3, -2, -1]), ("3, 1-2, 10-20[3]", [3, 1, 2, 10, 15, 20]), ("5-1", []), ("-1", [-1]),
    ],
)  # fmt: skip
def test_whole_numbers(text: str, found: list[int]) -> None:
    assert numbers(text, whole=True) == found
    assert all(isinstance(value, int) for value in numbers(text, whole=True))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7", [7.0]), ("0-1 (+0.25)", [0, 0.25, 0.5, 0.75, 1]), ("0-1 [3]", [0, 0.5, 1]),
        ("0-1 (+0.3)", [0, 0.3, 0.6, 0.9]),
        ("1.5-3.5", [1.5, 2.5, 3.5]), ("4, .5", [4, 0.5]), ("1-0 (-0.5)", [1, 0.5, 0]),
    ],
)  # fmt: skip
def test_numbers(text: str, found: list[float]) -> None:
    assert numbers(text, whole=False) == found
    assert all(isinstance(value, float) for value in numbers(text, whole=False))


@pytest.mark.parametrize("text", ["x", "1-", "1-5 (2)x", "1.5", "1 (+0)", "0-9999999", "1-2 [99999]", "nan"])
def test_what_is_no_list_of_whole_numbers_is_said(text: str) -> None:
    with pytest.raises(BadRequest):
        numbers(text, whole=True)


def test_texts_keep_their_commas_in_quotes(test_seed: int) -> None:
    assert split('a, b , "c, d",, "e ""f"""') == ["a", "b", "c, d", 'e "f"']
    rng = random.Random(test_seed)
    for _ in range(200):
        values = ["".join(rng.choice("ab ,\"'|x") for _ in range(rng.randint(1, 8))).strip() or "x" for _ in range(4)]
        assert split(joined(values)) == values


def test_lines_are_prompts_or_options() -> None:
    assert lines(" a\n\n b \r\n") == ["a", "b"]
    assert options("a red house") == {"prompt": "a red house"}
    assert options('--prompt a "red house" --steps 30 --cfg_scale 6.5 --tiling true') == {
        "prompt": "a red house", "steps": 30, "cfg_scale": 6.5, "tiling": True,
    }  # fmt: skip
    for odd in ('--prompt "unclosed', "--unknown 3", "a -- b", "--steps", "--steps many"):
        assert options(odd) == {"prompt": odd}
