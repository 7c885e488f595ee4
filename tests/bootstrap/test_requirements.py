"""What is missing, told from metadata alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.requirements import Requirement, installed_version, missing, read_requirements, same_version

ROOT = Path(__file__).parents[2]


def test_reads_pins_and_passes_over_the_rest(tmp_path):
    file = tmp_path / "r.txt"
    file.write_text(
        "# a comment\n\n--prefer-binary\n-r other.txt\n"
        "numpy==2.4.6  # why\nuvicorn[standard]==0.54.0\nPillow>=12,<13\nplain\n"
        'colorama==0.4 ; sys_platform == "win32"\n'
    )
    assert read_requirements(file) == [
        Requirement("numpy", "2.4.6"),
        Requirement("uvicorn", "0.54.0"),
        Requirement("Pillow", None),
        Requirement("plain", None),
        Requirement("colorama", None),
    ]


def test_only_the_missing_and_the_mismatched_count():
    have = {"a": "1.0", "b": "2.0", "c": "3.1+cpu", "e": "9"}
    wanted = [Requirement(name, version) for name, version in zip("abcde", ("1.0", "2.1", "3.1", "4", None))]
    assert [r.name for r in missing(wanted, have.get)] == ["b", "d"]


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ("2.13.0", "2.13.0+cpu", True),
        ("2.13.0", "2.13.0", True),
        ("2.13", "2.13.0", True),
        ("2.13.0+cu126", "2.13.0+cpu", False),
        ("2.13.0", "2.13.1", False),
        ("1.10", "1.1", False),
        ("2.13.0", "2.13.0rc1", False),
    ],
)
def test_versions(wanted, found, same):
    assert same_version(wanted, found) is same


def test_a_missing_file_is_said():
    with pytest.raises(BootstrapProblem, match="nowhere"):
        read_requirements(Path("/nowhere/requirements.txt"))


def test_metadata_of_this_python():
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-package-here") is None


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt"])
def test_our_own_requirements_are_pinned_and_explained(name):
    rows = read_requirements(ROOT / name)
    assert len(rows) >= 5
    assert all(row.version for row in rows)
    assert not {row.name for row in rows} & {"torch", "torchvision"}
    for line in (ROOT / name).read_text().splitlines():
        assert line.startswith("#") or re.search(r"==\S+.*\s# ", line), f"{line!r} has no reason"


def test_a_line_may_be_for_some_pythons_only(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text('numpy==2.4.6; python_version >= "3.11"  # pixels\nnumpy==2.2.6; python_version < "3.11"\n')
    assert read_requirements(file, (3, 10)) == [Requirement("numpy", "2.2.6")]
    assert read_requirements(file, (3, 11)) == read_requirements(file, (3, 14)) == [Requirement("numpy", "2.4.6")]


def test_the_shipped_files_pin_every_package_once_for_each_python():
    for name in ("requirements.txt", "requirements-test.txt"):
        for python in ((3, 10), (3, 11), (3, 13)):
            found = read_requirements(ROOT / name, python)
            names = [requirement.name for requirement in found]
            assert len(names) == len(set(names))
            assert all(requirement.version for requirement in found)
