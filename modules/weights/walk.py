"""Model files below a folder, as A1111 lists them: recursively, links followed, in natural order. Torch-free."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.schema.errors import BadFile
from modules.weights import assembly
from modules.weights.store import Stamp

MAX_DEPTH = 32


@dataclass(frozen=True)
class Found:
    """`relative` to the folder that was walked, with "/" between; `beside`: all names in the file's own folder.

    `created` in Unix seconds, as far as the system keeps it (on Linux, when it was put there).
    """

    relative: str
    path: str
    stamp: Stamp
    beside: frozenset[str]
    created: float = 0.0


def walk(folder: Path, endings: tuple[str, ...], whole: bool = False) -> list[Found]:
    """Files with one of these endings (lower case). `whole`: a folder in the diffusers layout is one entry; else what
    is in it is passed over."""
    start = len(str(folder).rstrip(os.sep)) + 1
    files = [
        Found(path[start:].replace(os.sep, "/"), path, stamp, names, made)
        for path, stamp, names, made in _below(str(folder), endings, whole, 0, frozenset())
    ]
    return sorted(files, key=lambda file: natural(file.relative))


def created(status: os.stat_result) -> float:
    """When a file was made, as A1111 takes it where the system does not know."""
    return getattr(status, "st_birthtime", status.st_ctime)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key: folders before files at each level, numbers by value, case ignored."""
    *folders, file = os.path.splitext(name.lower())[0].split("/")
    key: list[tuple[int, int | str]] = []
    for rank, part in (*((0, f) for f in folders), (9, file)):
        key.append((rank, 0))
        key += [(1, int(p)) if p.isdecimal() and len(p) < 19 else (2, p) for p in re.split(r"(\d+)", part) if p]
    return key


def _below(
    folder: str, endings: tuple[str, ...], whole: bool, depth: int, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, Stamp, frozenset[str], float]]:
    """Links are followed, but never into a folder that is being walked."""
    try:
        here = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError:
        return  # missing or unreadable folders are empty
    identity = (here.st_dev, here.st_ino)
    if identity in above or depth > MAX_DEPTH:
        return
    names = frozenset(entry.name for entry in entries)
    if assembly.INDEX in names:
        if whole and depth:
            try:
                yield folder, assembly.stamp_of(Path(folder)), names, created(here)
            except (OSError, BadFile):
                yield folder, (0, here.st_mtime_ns), names, created(here)  # its parts are missing; the list says so
        return
    for entry in entries:
        try:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    yield from _below(entry.path, endings, whole, depth + 1, above | {identity})
                continue
            if not entry.name.lower().endswith(endings) or entry.name.startswith("."):
                continue
            entry.name.encode("utf-8")  # a name that is not text could be neither shown nor written to infotext
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                yield entry.path, (status.st_size, status.st_mtime_ns), names, created(status)
        except (OSError, UnicodeEncodeError):
            continue  # a broken link, or gone since
