"""The pictures that were made, as rows: by job, and newest first."""

from __future__ import annotations

import sqlite3

from pydantic import ValidationError

from modules.schema.errors import NotFound
from modules.schema.record import SavedRecord
from modules.service.database import Database


class Gallery:
    """Records of finished pictures. Rows only: whether the file still lies there is for the reader to see."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def add(db: sqlite3.Connection, record: SavedRecord) -> None:
        """Within the transaction that stores the picture's event, so that one never stands without the other."""
        db.execute(
            "INSERT OR REPLACE INTO records (id, job, number, created, body) VALUES (?, ?, ?, ?, ?)",
            (record.id, record.job, record.index, record.created, record.model_dump_json()),
        )

    def get(self, record_id: str) -> SavedRecord:
        """NotFound where there is none of that id."""
        found = self._read("SELECT body FROM records WHERE id = ?", (record_id,))
        if not found:
            raise NotFound("No picture of that id is known; the list shows those that are.")
        return found[0]

    def of_job(self, job: str) -> list[SavedRecord]:
        return self._read("SELECT body FROM records WHERE job = ? ORDER BY number, place", (job,))

    def newest(self, limit: int = 100, before: str | None = None) -> list[SavedRecord]:
        """The latest pictures first; `before` is the id of a record to go on from."""
        below = "WHERE place < (SELECT place FROM records WHERE id = ?)" if before else ""
        values = (before, limit) if before else (limit,)
        return self._read(f"SELECT body FROM records {below} ORDER BY place DESC LIMIT ?", values)

    def count(self) -> int:
        return self._database.read("SELECT count(*) AS n FROM records")[0]["n"]

    def _read(self, sql: str, values: tuple) -> list[SavedRecord]:
        found = []
        for row in self._database.read(sql, values):
            try:
                found.append(SavedRecord.model_validate_json(row["body"]))
            except ValidationError:
                continue  # written by another version; the picture file itself is not touched
        return found
