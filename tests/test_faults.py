"""The page of faults (docs/faults.md) is true: its codes are those of the program, and a test shows each fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modules.frontends.api.errors import Refused, status_of
from modules.schema.errors import EaselError

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]
FAULTS = [row for row in ROWS if len(row) == 4 and row[0] != "fault"]
CODES = {row[0].strip("`"): row[1] for row in ROWS if len(row) == 3 and row[0] != "code"}


def tree(kind: type[EaselError] = EaselError) -> set[type[EaselError]]:
    found = {kind}
    for each in kind.__subclasses__():
        if each.__module__ == EaselError.__module__:
            found |= tree(each)
    return found


def test_every_code_is_explained_with_its_status() -> None:
    assert {kind.code for kind in tree()} | {Refused.code} == set(CODES)
    for kind in tree():
        assert CODES[kind.code] == str(status_of(kind("x"))), kind


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_every_fault_has_a_code_of_the_program_and_a_test(row: list[str]) -> None:
    _, code, says, shown = row
    assert code == "–" or code.strip("`") in CODES
    assert says.endswith(".")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
    assert named
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / path).read_text("utf-8"), re.MULTILINE), (path, name)


def test_the_catalogue_is_complete() -> None:
    assert len(FAULTS) >= 41
