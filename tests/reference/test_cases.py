"""Every reference case, by kind. Reads each *.json in $REFERENCE_CASES (default: cases/ beside this file).

A case is {"kind", "input", "expected", ...}; the module `run_<room>.py` that knows the kind checks it (RUNNERS).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("REFERENCE_CASES") or HERE / "cases")


def _runners() -> dict[str, Callable[[dict], None]]:
    found: dict[str, Callable[[dict], None]] = {}
    for path in sorted(HERE.glob("run_*.py")):
        found |= importlib.import_module(f"tests.reference.{path.stem}").RUNNERS
    return found


RUNNERS = _runners()


def _cases() -> Iterator[object]:
    for path in sorted(FOLDER.glob("*.json")):
        for index, case in enumerate(json.loads(path.read_text("utf-8"))):
            yield pytest.param(case, id=f"{path.stem}-{index}-{case['kind']}")


@pytest.mark.parametrize("case", list(_cases()))
def test_reference(case: dict) -> None:
    check = RUNNERS.get(case["kind"])
    if check is None:
        pytest.skip(f"no part of the program answers {case['kind']!r} cases yet")
    check(case)
