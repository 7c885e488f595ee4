"""The search language of the history, as conditions on real rows."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.schema.folders import Folders
from modules.service.database import Database
from modules.service.history import History, insert, told
from modules.service.search import read_query

TODAY = dt.date(2026, 11, 28)
ROWS = {
    # name: (prompt, negative, fields, day, more)
    "house": (
        "a red house, <lora:ink wash:0.8>", "blurry", "Sampler: Euler a, Seed: 42, Model: dream_v2", "2026-11-28",
        {"rating": 5},
    ),
    "cat": ("Räuber cat on a red roof", "", "Sampler: DPM++ 2M, Seed: 7, Model: ink", "2026-11-27", {"favourite": 1}),
    "boat": ("small white boat", "house", "Sampler: Euler, Seed: 8, Model: dream_v3", "2026-10-01", {"rating": 3}),
    "moon": (
        "赤い家と月, 100% sure_thing", "", "Sampler: Heun, Seed: 9, Model: ink", "2025-02-28",
        {"imported": 1, "missing": 1},
    ),
}  # fmt: skip
SIZES = {"house": (512, 768), "cat": (512, 512), "boat": (768, 512), "moon": (512, 512)}


def add(database: Database, name: str, prompt: str, negative: str, fields: str, day: str, **more: object) -> None:
    width, height = SIZES.get(name, (64, 64))
    text = f"{prompt}\n" + (f"Negative prompt: {negative}\n" if negative else "")
    text += f"Steps: 20, {fields}, CFG scale: 7, Size: {width}x{height}"
    created = dt.datetime.fromisoformat(f"{day}T12:00:00").timestamp()
    with database.write(durable=False) as db:
        insert(
            db,
            {
                "id": name, "owner": "", "created": created, "day": day, "path": f"outputs/{name}.png",
                "file": f"{name}.png", "width": width, "height": height, "infotext": text, **vars(told(text)), **more,
            },
        )  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "history.sqlite3")
    yield database
    database.close()


@pytest.fixture
def find(database: Database, tmp_path: Path) -> Callable[[str], set[str]]:
    for name, (prompt, negative, fields, day, more) in ROWS.items():
        add(database, name, prompt, negative, fields, day, **more)
    history = History(database, Folders.under(tmp_path))
    return lambda query: {picture.id for picture in history.page(query).pictures}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "house cat boat moon"),
        ("red", "house cat"),
        ("RED hou", "house"),
        ("rauber", "cat"),
        ('"red house"', "house"),
        ('"house red"', ""),
        ("red -cat", "house"),
        ("house", "house"),  # not the boat: it is in its negative prompt
        ("negative:house", "boat"),
        ("dream_v2", "house"),
        ("(red:1.2)", "house cat"),
        ("赤い", "moon"),
        ("の月 -red", ""),
        ("と月 -red", "moon"),
        ("sure_th", "moon"),
        ("model:dream", "house boat"),
        ('model:"dream_v3"', "boat"),
        ("-model:dream", "cat moon"),
        ("lora:ink", "house"),
        ("sampler:euler", "house boat"),
        ("file:boat.png", "boat"),
        ("seed:42", "house"),
        ("seed:>7 seed:<=9", "boat moon"),
        ("size:512x512", "cat moon"),
        ("size:512×768", "house"),
        ("size:landscape", "boat"),
        ("steps:20", "house cat boat moon"),
        ("cfg:>7", ""),
        ("rating:5", "house"),
        ("rating:3+", "house boat"),
        ("rating:>=4 model:dream", "house"),
        ("is:favourite", "cat"),
        ("is:missing", "moon"),
        ("-is:missing is:unrated", "cat"),
        ("is:imported", "moon"),
        ("after:2026-11", "house cat"),
        ("before:2026-11-28", "cat boat moon"),
        ("before:2026", "moon"),
        ("on:2026-11-27", "cat"),
        ("on:2026", "house cat boat"),
        ("task:txt2img red", "house cat"),
        ("http://red", ""),  # an unknown key is two words
        ("red:", "house cat"),
        ("red lora:", "house cat"),  # half typed
        ("%", "house cat boat moon"),  # nothing to look for
        ('"', "house cat boat moon"),
    ],
)  # fmt: skip
def test_what_is_found(find: Callable[[str], set[str]], query: str, found: str) -> None:
    assert find(query) == set(found.split())


def test_days_are_counted_from_today() -> None:
    def days(text: str) -> list[object]:
        return read_query(text, TODAY).where[1]

    assert days("on:today") == ["2026-11-28", "2026-11-28"]
    assert days("after:yesterday") == ["2026-11-27"]
    assert days("after:28d") == ["2026-10-31"]
    assert days("after:99999d") == ["1753-02-13"]
    assert days("before:2026-2") == ["2026-02-01"]


@pytest.mark.parametrize(
    "query",
    ["seed:x", "rating:>", "size:512", "after:soon", "on:2026-02-30", "is:nice", "task:x", f"seed:{2**63}"],
)
def test_what_is_not_understood_is_told_and_left_out(find: Callable[[str], set[str]], query: str) -> None:
    (term,) = read_query(query).terms
    assert term.problem.endswith(".")
    assert (term.start, term.end, term.text) == (0, len(query), query)
    assert find(f"red {query}") == {"house", "cat"}


def test_any_text_is_a_search(find: Callable[[str], set[str]], test_seed: int) -> None:
    rng = random.Random(test_seed)
    pieces = ['"', *"-:()*^'\\%赤é\0🙂 \n", "AND", "NOT", "NEAR(", "model:", "rating:", "red", "{a b}:"]
    everything = find("")
    for _ in range(400):
        query = "".join(rng.choice(pieces) for _ in range(rng.randrange(12)))
        assert find(query) <= everything, query
        for term in read_query(query).terms:
            assert term.text == query[term.start : term.end], query
