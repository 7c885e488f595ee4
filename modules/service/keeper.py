"""Keeps the history true in the background: hashes of new files, thumbnails of outside sources, what is gone, what an
earlier run left unlisted."""

from __future__ import annotations

import contextlib
import io
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from modules.imaging.metadata import peek
from modules.imaging.save import TEMP_PREFIX, kept_as
from modules.prompt import infotext
from modules.schema.errors import EaselError
from modules.schema.events import ImageReady
from modules.schema.folders import Folders
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import Saving, Settings
from modules.service.background import Background
from modules.service.database import Database
from modules.service.gallery import Gallery
from modules.service.history import TWINS_HASHED, enter, note_hash, unlisted
from modules.service.importing import SUFFIXES
from modules.service.jobs import JobStore
from modules.service.thumbnails import small

CHUNK = 200
CLOCK_SLACK = 2.0  # seconds by which the time of a file may be older than that of its job


class Keeper:
    """One thread; `wake` after a picture was stored, `close` at the end."""

    def __init__(self, database: Database, folders: Folders) -> None:
        self._database, self._folders = database, folders
        self._seen = -1  # rows up to here have their sources settled
        self._looked = False  # through all there was at the start
        self._background = Background("history", self._keep)
        self._background.start()

    def wake(self) -> None:
        self._background.wake()

    def close(self) -> None:
        self._background.close(patience=5)

    def _keep(self) -> None:
        if not self._looked:
            self._take_in_old()
        self._hash()
        self._settle_sources()
        if not self._looked:
            self._look_for_missing()
        self._looked = True

    def _take_in_old(self) -> None:
        """Pictures of versions that had no history."""
        records = list(unlisted(self._database))
        for start in range(0, len(records), CHUNK):
            if self._background.closed.is_set():
                return
            with self._database.write() as db:
                for record in records[start : start + CHUNK]:
                    enter(db, record)

    def _hash(self) -> None:
        """Of pictures made here; imported ones are hashed only where one may be a source."""
        while not self._background.closed.is_set():
            rows = self._database.read(
                "SELECT id, path FROM pictures WHERE sha256 IS NULL AND imported = 0 AND bytes IS NULL AND missing = 0"
                " AND state = 'here' ORDER BY place DESC LIMIT ?",
                (CHUNK,),
            )
            if not rows:
                return
            for row in rows:
                if self._background.closed.is_set():
                    return
                path = self._folders.data / row["path"]
                if path.is_file():
                    note_hash(self._database, row["id"], path)
            tried = [(row["id"],) for row in rows]
            with self._database.write(durable=False) as db:  # those that could not be read are not tried again
                db.executemany("UPDATE pictures SET missing = 1 WHERE id = ? AND sha256 IS NULL AND missing = 0", tried)

    def _settle_sources(self) -> None:
        """Of each source of a new picture: whether it is a picture of the history, and else a thumbnail to remember."""
        rows = self._database.read(
            "SELECT child, sha256 FROM picture_parents WHERE child > ? AND sha256 NOT IN"
            " (SELECT sha256 FROM sources WHERE width NOTNULL) AND sha256 NOT IN"
            " (SELECT sha256 FROM pictures WHERE sha256 NOTNULL) ORDER BY child",
            (self._seen,),
        )
        for row in rows:
            if self._background.closed.is_set():
                return
            name = row["sha256"]
            kept = self._folders.inputs / name
            thumbnail, width, height = None, 0, 0
            with contextlib.suppress(OSError, EaselError):
                self._hash_twins(kept.stat().st_size)
                data = small(kept, side=256)
                with Image.open(io.BytesIO(data)) as image:
                    width, height = image.size
                thumbnail = data
            with self._database.write(durable=False) as db:
                db.execute(
                    "INSERT INTO sources (sha256, width, height, thumbnail) VALUES (?, ?, ?, ?) ON CONFLICT (sha256) DO"
                    " UPDATE SET width = excluded.width, height = excluded.height, thumbnail = excluded.thumbnail",
                    (name, width, height, thumbnail),
                )
        last = self._database.read("SELECT max(child) AS last FROM picture_parents")[0]["last"]
        self._seen = max(self._seen, last or 0)

    def _hash_twins(self, size: int) -> None:
        """Imported pictures of exactly the size of a source: one of them may be it."""
        rows = self._database.read(
            "SELECT id, path FROM pictures WHERE imported = 1 AND bytes = ? AND sha256 IS NULL LIMIT ?",
            (size, TWINS_HASHED),
        )
        for row in rows:
            note_hash(self._database, row["id"], self._folders.data / row["path"])

    def _look_for_missing(self) -> None:
        """Marks pictures whose file somebody else removed, and unmarks those that are back."""
        last = -1
        while not self._background.closed.is_set():
            rows = self._database.read(
                "SELECT place, path, missing FROM pictures WHERE place > ? AND state != 'trashed'"
                " ORDER BY place LIMIT ?",
                (last, CHUNK),
            )
            if not rows:
                return
            last = rows[-1]["place"]
            wrong = [
                (int(not there), row["place"])
                for row in rows
                if (there := (self._folders.data / row["path"]).is_file()) == bool(row["missing"])
            ]
            if wrong:
                with self._database.write(durable=False) as db:
                    db.executemany("UPDATE pictures SET missing = ? WHERE place = ?", wrong)
            time.sleep(0.002)  # others want the database too


# ------------------------------------------------------------------------------------------- between a file and its row


def adopt(database: Database, jobs: JobStore, folders: Folders) -> int:
    """Before the queue goes on: pictures that a killed run had saved but not yet entered are entered; how many.

    Looked for are files of the output folders of the jobs that were running, written since these began. One whose seed
    tells which picture of its job it is counts as drawn; any other is only listed.
    """
    count = 0
    running = database.read("SELECT * FROM jobs WHERE state = 'running' AND started NOTNULL")
    for row in running:
        try:
            request = GenerationRequest.model_validate_json(row["request"])
            settings = Settings.model_validate_json(row["settings"])
        except ValidationError:
            continue
        recent = database.read("SELECT path FROM pictures WHERE created >= ?", (row["started"] - 60,))
        listed = {one["path"] for one in recent}
        drawn = {one["number"] for one in database.read("SELECT number FROM records WHERE job = ?", (row["id"],))}
        places, since = _outputs(settings.saving, folders.data), row["started"] - CLOCK_SLACK
        for path in _written_since(places, since, listed, folders):
            try:
                width, height, text = peek(path)
            except EaselError:
                continue
            number = _number_of(text or "", request, row["seed"], row["subseed"])
            if number in drawn:
                number = None
            record = SavedRecord(
                id=uuid.uuid4().hex, job=row["id"], index=number or 0, path=kept_as(path, folders.data), width=width,
                height=height, seed=_whole(infotext.read(text or "").fields.get("Seed")) or 0, infotext=text or "",
                created=path.stat().st_mtime, parents=_parents(request, number or 0),
            )  # fmt: skip
            if number is not None:
                drawn.add(number)
                jobs.append(row["id"], ImageReady(record=record))
            else:
                with database.write() as db:
                    Gallery.add(db, record.model_copy(update={"job": ""}))
                    enter(db, record)
            count += 1
    return count


def _outputs(saving: Saving, data: Path) -> set[Path]:
    """Folders that jobs write to; what the Save button puts aside and what was drawn from are no pictures of theirs."""
    others = {"outdir_save", "outdir_init_images"}
    names = [name for name in type(saving).model_fields if name.startswith("outdir_") and name not in others]
    return {data / value for name in names if (value := getattr(saving, name))}


def _written_since(places: set[Path], since: float, listed: set[str], folders: Folders) -> Iterator[Path]:
    """Pictures that nobody lists, without what only belongs to another one (`00001-7-steps.png`)."""
    for place in sorted(places):
        for folder, _, names in os.walk(place):
            with contextlib.suppress(OSError):
                if Path(folder).stat().st_mtime < since:
                    continue
                pictures = sorted(
                    name for name in names
                    if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(TEMP_PREFIX)
                )  # fmt: skip
                stems = {os.path.splitext(name)[0] for name in pictures}
                for name in pictures:
                    path, stem = Path(folder, name), os.path.splitext(name)[0]
                    if kept_as(path, folders.data) in listed or _owner(stem) & stems:
                        continue
                    if path.stat().st_mtime >= since:
                        yield path


def _owner(stem: str) -> set[str]:
    """Names of pictures that a file called so would belong to: "a-b-c" to "a-b" or "a"."""
    parts = stem.split("-")
    return {"-".join(parts[:count]) for count in range(1, len(parts))}


def _number_of(text: str, request: GenerationRequest, seed: int, subseed: int) -> int | None:
    """Which picture of its job an infotext is of; None where it does not tell."""
    fields = infotext.read(text).fields
    name, first = ("Variation seed", subseed) if request.subseed_strength else ("Seed", seed)
    asked = request.subseed if request.subseed_strength else request.seed
    found = _whole(fields.get(name))
    if found is None:
        return None
    number = found - (first if asked == -1 else asked)
    source = request.source
    each = max(len(source.images), source.loopback.loops if source.loopback else 1) if source else 1
    return number if 0 <= number < request.n_iter * request.batch_size * max(1, each) else None


def _whole(value: object) -> int | None:
    text = str(value or "")
    return int(text) if text.isdecimal() else None


def _parents(request: GenerationRequest, number: int) -> tuple[str, ...]:
    source = request.source
    along = tuple(name for unit in request.controlnet for name in (unit.image, unit.mask) if name)
    if source is None or not source.images:
        return along
    first = source.images[0 if source.loopback else number % len(source.images)]
    return (first, source.mask.image, *along) if source.mask else (first, *along)
