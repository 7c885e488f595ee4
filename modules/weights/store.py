"""What was once found out about a file, kept in SQLite for as long as the file is unchanged.

A fact is text under (kind, path); it holds while the file's size and modification time are what they were. A database
that cannot be opened or written (read-only folder, full disk) only means that things are found out again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

_TABLE = """
CREATE TABLE IF NOT EXISTS file_facts (
    kind TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (kind, path)
) WITHOUT ROWID
"""

Stamp = tuple[int, int]
"""(size in bytes, modification time in ns)"""


class FileStore:
    """Facts about files. Safe to use from several threads and processes."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._lock = threading.Lock()
        self._memory: dict[tuple[str, str], tuple[Stamp, str]] = {}  # for when the database is out of reach

    def get(self, kind: str, path: Path, status: os.stat_result) -> str | None:
        """The fact, if it was kept for exactly this state of the file."""
        stamp = (status.st_size, status.st_mtime_ns)
        kept = self._memory.get((kind, str(path)))
        if kept and kept[0] == stamp:
            return kept[1]
        with self._connected() as db, contextlib.suppress(sqlite3.Error):
            row = db.execute(
                "SELECT value FROM file_facts WHERE kind = ? AND path = ? AND size = ? AND mtime_ns = ?",
                (kind, str(path), *stamp),
            ).fetchone()
            return row[0] if row else None
        return None

    def all(self, kind: str) -> dict[str, tuple[Stamp, str]]:
        """Every fact of a kind: path → (stamp, value)."""
        found: dict[str, tuple[Stamp, str]] = {}
        with self._connected() as db, contextlib.suppress(sqlite3.Error):
            for path, size, mtime, value in db.execute(
                "SELECT path, size, mtime_ns, value FROM file_facts WHERE kind = ?", (kind,)
            ):
                found[path] = ((size, mtime), value)
        found |= {path: kept for (of, path), kept in self._memory.items() if of == kind}
        return found

    def put(self, kind: str, path: Path, status: os.stat_result, value: str) -> None:
        self.put_many(kind, [(str(path), (status.st_size, status.st_mtime_ns), value)])

    def put_many(self, kind: str, facts: Iterable[tuple[str, Stamp, str]]) -> None:
        """Keep facts: (path, stamp, value) each."""
        rows = [(kind, path, size, mtime, value) for path, (size, mtime), value in facts]
        if not rows:
            return
        with self._connected() as db, contextlib.suppress(sqlite3.Error):
            with db:
                db.executemany("INSERT OR REPLACE INTO file_facts VALUES (?, ?, ?, ?, ?)", rows)
            return
        self._memory |= {(kind, path): ((size, mtime), value) for _, path, size, mtime, value in rows}

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for one use (they may not cross threads or forks); an empty one where there is no database."""
        with self._lock, contextlib.ExitStack() as stack:
            try:
                self.database.parent.mkdir(parents=True, exist_ok=True)
                db = stack.enter_context(contextlib.closing(sqlite3.connect(self.database, timeout=10)))
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(_TABLE)
            except (sqlite3.Error, OSError):
                db = stack.enter_context(contextlib.closing(sqlite3.connect(":memory:")))
            yield db
