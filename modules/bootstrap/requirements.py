"""Pinned requirements and what of them is missing, without importing a single package."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.bootstrap.problem import BootstrapProblem

# name, [extras], then either ==version and nothing more, or anything else pip understands
_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(==\s*(?P<version>[^\s,;]+)\s*$)?")
# The one marker understood: which Pythons a line is for.
_MARKER = re.compile(r"""python_version\s*(?P<sign><|>=)\s*["'](?P<major>\d+)\.(?P<minor>\d+)["']""")


@dataclass(frozen=True)
class Requirement:
    """One line. `version` None: the line pins none (a range, an address, other markers)."""

    name: str
    version: str | None


def read_requirements(path: Path, python: tuple[int, int] = sys.version_info[:2]) -> list[Requirement]:
    """The packages a requirements file names for this Python; comments and pip's own options are passed over."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BootstrapProblem(f"The requirements file {path} cannot be read: {error.strerror}.") from None
    found = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        package, _, marker = line.partition(";")
        for_python = _MARKER.fullmatch(marker.strip())
        if for_python:
            older = python < (int(for_python["major"]), int(for_python["minor"]))
            if older != (for_python["sign"] == "<"):
                continue
            line = package.strip()
        match = _LINE.match(line)
        if match:
            found.append(Requirement(match["name"], match["version"]))
    return found


def installed_version(name: str) -> str | None:
    """What of this package the running Python has, read from its metadata."""
    from importlib.metadata import PackageNotFoundError, version  # 15 ms that a warm start does not need

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def same_version(wanted: str, found: str) -> bool:
    """Whether `found` satisfies `==wanted`: 2.13.0+cpu is a 2.13.0, and 2.13 is 2.13.0."""
    if "+" not in wanted:
        found = found.partition("+")[0]
    return _plain(wanted) == _plain(found)


def _plain(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version.strip().lower())


def missing(wanted: list[Requirement], installed: Callable[[str], str | None] = installed_version) -> list[Requirement]:
    """Those that are not installed, or installed in another version than the pinned one."""

    def fits(requirement: Requirement) -> bool:
        found = installed(requirement.name)
        return found is not None and (requirement.version is None or same_version(requirement.version, found))

    return [requirement for requirement in wanted if not fits(requirement)]
