"""Pictures that other programs made enter the history: a folder and all below it, read in the background.

Nothing is moved, renamed, written or deleted there. What is known already (same path, size and time) is passed over, so
an import may be stopped and repeated at will; a picture that has changed is read again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.imaging.metadata import peek
from modules.imaging.save import kept_as
from modules.schema.errors import BadRequest, EaselError, InUse
from modules.schema.folders import Folders
from modules.schema.history import ImportView
from modules.service.database import Database
from modules.service.history import day_of, insert, told

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif"})
BATCH = 200  # pictures of one transaction
LONGEST_TEXT = 100_000  # characters of a text beside a picture
log = logging.getLogger("easel.history")


class Importer:
    """One import at a time. Thread-safe."""

    def __init__(self, database: Database, folders: Folders) -> None:
        self._database, self._folders = database, folders
        self._lock = threading.Lock()
        self._view = ImportView()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def view(self) -> ImportView:
        """The import that runs, or the last one."""
        with self._lock:
            return self._view

    def start(self, folder: str, owner: str = "") -> ImportView:
        """BadRequest where there is no such folder; InUse while another import runs."""
        wanted = folder.strip().strip('"')
        if not wanted or "\0" in wanted:
            raise BadRequest("Name the folder to import, as in /home/me/webui/outputs.", field="folder")
        path = Path(os.path.expanduser(wanted))
        path = path if path.is_absolute() else self._folders.data / path
        if not path.is_dir():
            raise BadRequest(f"There is no folder {path} on the computer that Easel runs on.", field="folder")
        with self._lock:
            if self._view.state == "running":
                raise InUse("A folder is being imported already; wait for it, or stop it first.")
            self._stop = threading.Event()
            self._view = ImportView(folder=str(path), state="running")
            self._thread = threading.Thread(target=self._run, args=(path, owner), name="import", daemon=True)
            self._thread.start()
            return self._view

    def cancel(self) -> ImportView:
        """What was read until now stays."""
        self._stop.set()
        return self.view()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _tell(self, **changes: Any) -> None:
        with self._lock:
            self._view = self._view.model_copy(update=changes)

    def _run(self, folder: Path, owner: str) -> None:
        try:
            paths = list(self._found(folder))
            self._tell(total=len(paths))
            known = self._known(paths)
            batch: list[dict[str, Any]] = []
            told_at = 0.0
            for number, path in enumerate(paths, 1):
                if self._stop.is_set():
                    break
                row = self._read(path, owner, known)
                if row is not None:
                    batch.append(row)
                if len(batch) >= BATCH:
                    self._store(batch)
                    batch = []
                if time.monotonic() - told_at > 0.2:
                    told_at = time.monotonic()
                    self._tell(looked_at=number, current=path.name)
            self._store(batch)
            stopped = self._stop.is_set()
            self._tell(state="cancelled" if stopped else "done", current="")
            if not stopped:
                self._tell(looked_at=len(paths))
        except EaselError as error:
            self._tell(state="failed", error=error.message, current="")
        except Exception:
            log.exception("import")
            self._tell(state="failed", error="The import failed; the log says more. What was read stays.", current="")

    def _found(self, folder: Path) -> Iterator[Path]:
        """Pictures below the folder, in the order of their names. Links are not followed; our own state is left out."""
        ours = self._folders.state.resolve()
        for place, names, files in os.walk(folder):
            visible = (name for name in names if not name.startswith("."))
            names[:] = sorted(name for name in visible if Path(place, name).resolve() != ours)
            for name in sorted(files):
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                    yield Path(place, name)
            if self._stop.is_set():
                return

    def _known(self, paths: list[Path]) -> dict[str, tuple[str, int | None, float | None, bool]]:
        """(id, bytes, modified, imported) of what the history has, by path as kept."""
        wanted = {self._kept(path) for path in paths}
        rows = self._database.read("SELECT id, path, bytes, modified, imported FROM pictures")
        return {
            row["path"]: (row["id"], row["bytes"], row["modified"], bool(row["imported"]))
            for row in rows
            if row["path"] in wanted
        }

    def _kept(self, path: Path) -> str:
        return kept_as(path, self._folders.data)

    def _read(self, path: Path, owner: str, known: dict[str, Any]) -> dict[str, Any] | None:
        """The row of one picture; None where there is nothing to do for it."""
        place = self._kept(path)
        try:
            stat = path.stat()
        except OSError:
            self._tell(unread=self._view.unread + 1)
            return None
        there = known.get(place)
        if there is not None and (not there[3] or there[1:3] == (stat.st_size, stat.st_mtime)):
            self._tell(known=self._view.known + 1)
            return None
        try:
            width, height, text = peek(path)
        except EaselError:
            self._tell(unread=self._view.unread + 1)
            return None
        text = text or _text_beside(path)
        columns = told(text, str(path))
        return {
            # A changed file is another picture to browsers and thumbnails: it gets an id of its own.
            "id": uuid.uuid4().hex, "owner": owner, "created": stat.st_mtime, "day": day_of(stat.st_mtime),
            "path": place, "file": path.name, "imported": 1, "width": width, "height": height, "infotext": text,
            "bytes": stat.st_size, "modified": stat.st_mtime, **vars(columns), "replaces": there and there[0],
        }  # fmt: skip

    def _store(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        with self._database.write() as db:
            for row in rows:
                old = row.pop("replaces")
                if old is None:
                    insert(db, row)
                else:
                    names = ", ".join(f"{name} = :{name}" for name in (*row, "sha256", "missing"))
                    values = {**row, "sha256": None, "missing": 0, "old": old}
                    db.execute(f"UPDATE pictures SET {names} WHERE id = :old", values)
        self._tell(added=self._view.added + len(rows))


def _text_beside(path: Path) -> str:
    """A1111 can write the infotext into a file beside the picture."""
    with contextlib.suppress(OSError, ValueError):
        beside = path.with_suffix(".txt")
        if beside.is_file() and beside.stat().st_size <= LONGEST_TEXT:
            return beside.read_text("utf-8-sig")
    return ""
