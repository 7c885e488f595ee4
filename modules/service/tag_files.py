"""Tag lists for the prompt editor, as they are passed around (danbooru.csv): `name,category,count,"aliases"`.

They lie in the user's folder `tags/`, or an extension brought them (`extensions/*/tags`). Nothing ships with Easel.
"""

from __future__ import annotations

import csv
import heapq
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.schema.prompts import TagView

MOST = 1_000_000  # lines of one file that are read
BIGGEST = 256 * 2**20  # bytes


@dataclass(frozen=True)
class _Tag:
    name: str
    words: str
    """Name and aliases in small letters, each behind a line break."""
    category: str
    count: int


class TagFiles:
    """Thread-safe; each file is read once for each state of it."""

    def __init__(
        self, data: Path, extensions: Path | None = None, disables: Callable[[str], bool] = lambda key: False
    ) -> None:
        """`disables` tells of the name of an extension's folder whether its tags are left out."""
        self._data, self._extensions, self._disables = data, extensions, disables
        self._lock = threading.Lock()
        self._read: dict[tuple[Path, int, int], list[_Tag]] = {}

    def find(self, start: str, most: int = 20) -> list[TagView]:
        """Tags whose name or alias begins so, the most used first; `_` and a space are the same."""
        wanted = "\n" + start.strip().lower().replace(" ", "_")
        if len(wanted) < 2:
            return []
        found = (tag for path in self._paths() for tag in self._tags(path) if wanted in tag.words)
        views: dict[str, TagView] = {}
        for tag in heapq.nsmallest(most * 2, found, key=lambda tag: (-tag.count, tag.name)):
            alias = next((word for word in tag.words.split("\n") if word.startswith(wanted[1:])), "")
            views.setdefault(
                tag.name,
                TagView(
                    name=tag.name,
                    category=tag.category,
                    count=tag.count,
                    alias="" if alias == tag.name.lower() else alias,
                ),
            )
        return list(views.values())[:most]

    def _paths(self) -> list[Path]:
        brought = sorted(self._extensions.glob("*/tags")) if self._extensions else []
        folders = [self._data / "tags", *(path for path in brought if not self._disables(path.parent.name))]
        return [path for folder in folders for path in sorted(folder.glob("*.csv")) if path.is_file()]

    def _tags(self, path: Path) -> list[_Tag]:
        try:
            status = path.stat()
            stamp = (path, status.st_mtime_ns, status.st_size)
            with self._lock:
                if stamp not in self._read:
                    if status.st_size > BIGGEST:
                        return []
                    self._read = {key: tags for key, tags in self._read.items() if key[0] != path}
                    self._read[stamp] = list(_tags_of(path))
                return self._read[stamp]
        except OSError:
            return []


def _tags_of(path: Path) -> Iterator[_Tag]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(line.replace("\0", "") for line in file)
        for _ in range(MOST):
            try:
                row = next(rows, None)
            except csv.Error:
                continue
            if row is None:
                return
            name = row[0].strip() if row else ""
            if not name or len(name) > 200:
                continue
            kind, count, aliases = (*(cell.strip() for cell in row[1:4]), "", "", "")[:3]
            words = [name, *(alias.strip() for alias in aliases.split(","))]
            joined = "".join(f"\n{word.lower().replace(' ', '_')}" for word in words if word)
            yield _Tag(name, joined, kind, int(count) if count.isdecimal() and len(count) < 19 else 0)
