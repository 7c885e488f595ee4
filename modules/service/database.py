"""One SQLite file for jobs, events and records: opened once, written by one process, read by all its threads.

WAL; a durable write is on the disk (fsync) before it returns, the others survive the death of the process but not that
of the machine. A file that is no database is put aside and a new one begun.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.schema.errors import DiskTrouble

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    key TEXT,
    request TEXT NOT NULL,
    settings TEXT NOT NULL,
    seed INTEGER NOT NULL,
    subseed INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    error TEXT,
    error_code TEXT,
    rank REAL,
    turn INTEGER NOT NULL DEFAULT 0,
    webhook TEXT,
    UNIQUE (owner, key)
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, place);
CREATE TABLE IF NOT EXISTS events (
    job TEXT NOT NULL,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (job, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    number INTEGER NOT NULL,
    created REAL NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS records_by_job ON records (job, number);
"""
# The history (service.history): every picture made here or imported, what it says about itself as columns, its words
# as an index, and what it was drawn from. `state`: here, trashed (in our folder) or hidden (imported; never touched).
PICTURES = """
CREATE TABLE IF NOT EXISTS pictures (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    job TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    day TEXT NOT NULL,
    path TEXT NOT NULL,
    file TEXT NOT NULL,
    imported INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'here',
    missing INTEGER NOT NULL DEFAULT 0,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    seed INTEGER,
    steps INTEGER,
    cfg_scale REAL,
    task TEXT NOT NULL,
    model TEXT NOT NULL DEFAULT '',
    sampler TEXT NOT NULL DEFAULT '',
    networks TEXT NOT NULL DEFAULT '',
    prompt TEXT NOT NULL,
    negative TEXT NOT NULL,
    infotext TEXT NOT NULL,
    bytes INTEGER,
    modified REAL,
    sha256 TEXT,
    rating INTEGER NOT NULL DEFAULT 0,
    favourite INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS pictures_in_time ON pictures (state, day, created, place, owner, rating, favourite, task);
CREATE INDEX IF NOT EXISTS pictures_rated ON pictures (state, rating, created, place, owner, favourite, task);
CREATE INDEX IF NOT EXISTS pictures_by_path ON pictures (path);
CREATE INDEX IF NOT EXISTS pictures_by_sha ON pictures (sha256);
CREATE INDEX IF NOT EXISTS pictures_by_job ON pictures (job);
CREATE INDEX IF NOT EXISTS pictures_unhashed ON pictures (imported, bytes) WHERE sha256 IS NULL;
CREATE VIRTUAL TABLE IF NOT EXISTS pictures_words USING fts5 (
    prompt, negative, model, networks, sampler, file, content='pictures', content_rowid='place',
    tokenize="unicode61 remove_diacritics 2", prefix='1 2 3'
);
CREATE TRIGGER IF NOT EXISTS pictures_added AFTER INSERT ON pictures BEGIN
    INSERT INTO pictures_words (rowid, prompt, negative, model, networks, sampler, file)
    VALUES (new.place, new.prompt, new.negative, new.model, new.networks, new.sampler, new.file);
END;
CREATE TRIGGER IF NOT EXISTS pictures_removed AFTER DELETE ON pictures BEGIN
    INSERT INTO pictures_words (pictures_words, rowid, prompt, negative, model, networks, sampler, file)
    VALUES ('delete', old.place, old.prompt, old.negative, old.model, old.networks, old.sampler, old.file);
    DELETE FROM picture_parents WHERE child = old.place;
END;
CREATE TRIGGER IF NOT EXISTS pictures_told AFTER UPDATE OF prompt, negative, model, networks, sampler, file ON pictures
BEGIN
    INSERT INTO pictures_words (pictures_words, rowid, prompt, negative, model, networks, sampler, file)
    VALUES ('delete', old.place, old.prompt, old.negative, old.model, old.networks, old.sampler, old.file);
    INSERT INTO pictures_words (rowid, prompt, negative, model, networks, sampler, file)
    VALUES (new.place, new.prompt, new.negative, new.model, new.networks, new.sampler, new.file);
END;
CREATE TABLE IF NOT EXISTS picture_parents (
    child INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (child, sha256, kind)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS picture_children ON picture_parents (sha256);
CREATE TABLE IF NOT EXISTS sources (
    sha256 TEXT PRIMARY KEY,
    origin TEXT,
    width INTEGER,
    height INTEGER,
    thumbnail BLOB
);
CREATE TABLE IF NOT EXISTS switches (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# Columns that came later; a file of an earlier version gets them. Indices that need them are made after.
ADDED = {"rank": "REAL", "turn": "INTEGER NOT NULL DEFAULT 0", "webhook": "TEXT"}
INDICES = "CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, turn);"


class Database:
    """`with database.write() as db:` is one transaction; `database.read(sql, …)` gives all rows. Thread-safe."""

    def __init__(self, path: Path | None) -> None:
        """Raises DiskTrouble where the file can be neither opened nor made; None is a database in memory."""
        self.path = path
        self.warnings: list[str] = []
        self._lock = threading.RLock()
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        if self.path is None:
            return _connect(":memory:")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _connect(str(self.path))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                aside = self.path.with_name(f"{self.path.name}.bad-{time.strftime('%Y%m%d-%H%M%S')}")
                os.replace(self.path, aside)
                for extra in ("-wal", "-shm"):
                    with contextlib.suppress(OSError):
                        os.replace(f"{self.path}{extra}", f"{aside}{extra}")
                self.warnings.append(
                    f"The list of jobs and pictures was damaged; it was kept as {aside.name} and a new one was begun."
                )
                return _connect(str(self.path))
        except (OSError, sqlite3.Error) as error:
            raise DiskTrouble(
                f"The list of jobs cannot be kept in {self.path.parent} ({error}); allow writing there."
            ) from error

    @contextlib.contextmanager
    def write(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or, on an exception, nothing. DiskTrouble where the disk refuses."""
        with self._lock:
            try:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                message = f"The list of jobs cannot be written ({error}); free some space and allow writing there."
                raise DiskTrouble(message) from error

    def read(self, sql: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise DiskTrouble(f"The list of jobs cannot be read ({error}); check that disk.") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _connect(path: str) -> sqlite3.Connection:
    # Transactions are written out by hand (isolation_level None); the lock above serialises the threads.
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(SCHEMA)
        db.executescript(PICTURES)
        present = {row["name"] for row in db.execute("PRAGMA table_info(jobs)")}
        for name, kind in ADDED.items():
            if name not in present:
                db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
        db.executescript(INDICES)
        db.execute("SELECT count(*) FROM jobs").fetchone()
    except BaseException:
        db.close()
        raise
    return db
