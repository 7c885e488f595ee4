"""Every picture ever made here, and those of folders that were imported: found, rated, traced, thrown away and back.

    history.groups("red model:dream", "newest")    # days and counts: enough to lay out 100,000 pictures
    history.page("red model:dream", offset=50_000)
    history.rate([id], rating=4) · history.delete([id]) · history.restore([id]) · history.empty_trash()
    history.lineage(id)                             # came from … led to …

Rows of made pictures are written in the transaction that stores their event (`enter`). Pictures and what they were
drawn from are connected by the SHA-256 of their files. A picture made here is moved to a folder of ours only when its
owner deletes it; an imported one is never touched.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modules.imaging.apart import apart
from modules.imaging.metadata import open_bounded
from modules.imaging.save import kept_as, move_file
from modules.prompt import infotext
from modules.prompt.difference import difference, in_words, surroundings
from modules.prompt.parse import extract_tags
from modules.schema.errors import BadRequest, EaselError, NotFound
from modules.schema.folders import Folders
from modules.schema.history import (
    ChangeView,
    Comparison,
    Group,
    Groups,
    Lineage,
    Page,
    ParentKind,
    PictureDetail,
    PictureView,
    Relative,
    Shelf,
    Sort,
    TermView,
)
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest
from modules.service.database import Database
from modules.service.search import read_query
from modules.service.thumbnails import Thumbnails, small
from modules.weights.hashing import sha256_of

MOST_AT_ONCE = 500
MOST_CHANGED = 5000
FARTHEST = 12
MOST_RELATIVES = 60
PROMPT_SHOWN = 300  # characters of a prompt in a list
TWINS_HASHED = 20
KEPT_SOURCES = 2 * 2**30
"""Source pictures that pictures of the history were drawn from stay up to this size, the newest."""
# (group, order, comparison of what comes next)
_ORDERS: dict[str, tuple[str, str, str]] = {
    "newest": ("day", "DESC", "<"),
    "oldest": ("day", "ASC", ">"),
    "rated": ("rating", "DESC", "<"),
}
_LIST = (
    "id, created, day, width, height, seed, task, model, substr(prompt, 1, ?) AS prompt, rating, favourite, missing,"
    " imported"
)
_SHELVES = {"here": "state = 'here'", "trash": "state IN ('trashed', 'hidden')"}


# ------------------------------------------------------------------------------------------------ what a picture tells


@dataclass(frozen=True)
class Told:
    """The columns that come out of an infotext."""

    prompt: str
    negative: str
    model: str
    sampler: str
    networks: str
    seed: int | None
    steps: int | None
    cfg_scale: float | None
    task: str


def told(text: str, path: str = "") -> Told:
    """What an infotext tells; `path` helps to see which task it was."""
    found = infotext.read(text)
    fields: Mapping[str, Any] = found.fields
    prompt = "" if not fields and found.prompt.startswith("Postprocess ") else found.prompt
    names = [tag.items[0] for tag in extract_tags(prompt)[1] if tag.items]
    names += re.findall(r"([^:,]+): [0-9a-f]{6,}", str(fields.get("TI hashes", "")))
    return Told(
        prompt=prompt, negative=found.negative_prompt, model=str(fields.get("Model", "")),
        sampler=str(fields.get("Sampler", "")), networks=", ".join(dict.fromkeys(name.strip() for name in names)),
        seed=_whole(fields.get("Seed")), steps=_whole(fields.get("Steps")), cfg_scale=_real(fields.get("CFG scale")),
        task=_task(fields, text, path),
    )  # fmt: skip


def _task(fields: Mapping[str, Any], text: str, path: str) -> str:
    folders = path.replace("\\", "/").lower().split("/")[:-1]
    if any("grid" in folder for folder in folders[-3:]):
        return "grid"
    if "Postprocess upscale by" in text or any("extras" in folder for folder in folders[-3:]):
        return "extras"
    if {"Mask blur", "Inpaint area", "Mask mode", "Masked content"} & set(fields):
        return "inpaint"
    hires = any(name.startswith("Hires ") for name in fields)
    if any("img2img" in folder for folder in folders[-3:]) or ("Denoising strength" in fields and not hires):
        return "img2img"
    return "txt2img"


def _whole(value: object) -> int | None:
    text = str(value or "")
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _real(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def task_of(request: GenerationRequest) -> str:
    source = request.source
    if source is None:
        return "txt2img"
    return "extras" if source.extras else "inpaint" if source.mask else "img2img"


def day_of(created: float) -> str:
    """The local day, as text that sorts."""
    try:
        return dt.datetime.fromtimestamp(created).strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):
        return "1970-01-01"


def insert(db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """A row by its columns; of a picture that is known by its id only where it lies is changed."""
    names = list(values)
    db.execute(
        f"INSERT INTO pictures ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"
        " ON CONFLICT (id) DO UPDATE SET path = excluded.path, file = excluded.file, missing = 0",
        dict(values),
    )


def enter(db: sqlite3.Connection, record: SavedRecord) -> None:
    """A picture that was made and saved, within the transaction that stores its event."""
    if record.path is None:
        return
    row = db.execute("SELECT owner, request FROM jobs WHERE id = ?", (record.job,)).fetchone()
    request = None
    if row is not None:
        with contextlib.suppress(ValidationError):
            request = GenerationRequest.model_validate_json(row["request"])
    columns = told(record.infotext, record.path)
    if request is not None:
        columns = replace(columns, task=task_of(request))
    insert(
        db,
        {
            "id": record.id, "owner": row["owner"] if row else "", "job": record.job, "created": record.created,
            "day": day_of(record.created), "path": record.path, "file": Path(record.path).name, "width": record.width,
            "height": record.height, "infotext": record.infotext, **vars(columns),
            "seed": record.seed if columns.seed is None and columns.task != "extras" else columns.seed,
        },
    )  # fmt: skip
    mask = request.source.mask.image if request and request.source and request.source.mask else None
    for name in record.parents:
        db.execute(
            "INSERT OR IGNORE INTO picture_parents SELECT place, ?, ? FROM pictures WHERE id = ?",
            (name, "mask" if name == mask else "source", record.id),
        )


# --------------------------------------------------------------------------------------------------------- the history


class History:
    """The pictures of one owner, or of everybody (`owner` None). Ids that are not theirs do not exist. Thread-safe."""

    def __init__(
        self, database: Database, folders: Folders, thumbnails: Thumbnails | None = None, owner: str | None = None
    ) -> None:
        self._database, self._folders, self.owner = database, folders, owner
        self._thumbnails = thumbnails or Thumbnails(folders.state / "thumbnails")

    def of(self, owner: str | None) -> History:
        """The same, as one owner may see it."""
        return History(self._database, self._folders, self._thumbnails, owner)

    # ---- finding ----

    def groups(self, query: str = "", sort: Sort = "newest", shelf: Shelf = "here") -> Groups:
        """What a search finds, as days (or ratings) and counts, in the order shown."""
        found = read_query(query)
        key, order, _ = _ORDERS[sort]
        where, values = self._where(found.where, shelf)
        rows = self._database.read(
            f"SELECT {key} AS key, count(*) AS n FROM pictures WHERE {where} GROUP BY {key} ORDER BY {key} {order}",
            tuple(values),
        )
        groups = tuple(Group(key=str(row["key"]), count=row["n"]) for row in rows)
        mine, owner = self._mine()
        counts = self._database.read(f"SELECT state, count(*) AS n FROM pictures WHERE {mine} GROUP BY state", owner)
        by_state = {row["state"]: row["n"] for row in counts}
        return Groups(
            total=sum(group.count for group in groups),
            groups=groups,
            terms=tuple(TermView(text=t.text, start=t.start, end=t.end, problem=t.problem) for t in found.terms),
            trashed=by_state.get("trashed", 0) + by_state.get("hidden", 0),
            known=by_state.get("here", 0),
        )

    def page(
        self,
        query: str = "",
        sort: Sort = "newest",
        shelf: Shelf = "here",
        after: str | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> Page:
        """Pictures in order: behind a cursor that an earlier page gave (`after`), or from the nth on (`offset`)."""
        key, order, beyond = _ORDERS[sort]
        where, values = self._where(read_query(query).where, shelf)
        if after is not None:
            where += f" AND ({key}, created, place) {beyond} (?, ?, ?)"
            values += _cursor(after, key)
        limit = min(limit, MOST_AT_ONCE)
        rows = self._database.read(
            f"SELECT place, {_LIST} FROM pictures WHERE {where}"
            f" ORDER BY {key} {order}, created {order}, place {order} LIMIT ? OFFSET ?",
            (PROMPT_SHOWN, *values, limit, offset),
        )
        last = rows[-1] if len(rows) == limit else None
        following = f"{last[key]}|{last['created']!r}|{last['place']}" if last is not None else None
        return Page(pictures=tuple(_view(row) for row in rows), next=following)

    def _mine(self) -> tuple[str, tuple[Any, ...]]:
        return ("1", ()) if self.owner is None else ("owner = ?", (self.owner,))

    def _where(self, condition: tuple[str, list[Any]], shelf: Shelf) -> tuple[str, list[Any]]:
        mine, owner = self._mine()
        return f"{_SHELVES[shelf]} AND {mine} AND {condition[0]}", [*owner, *condition[1]]

    def _row(self, id: str) -> sqlite3.Row:
        mine, owner = self._mine()
        rows = self._database.read(f"SELECT * FROM pictures WHERE id = ? AND {mine}", (id, *owner))
        if not rows:
            raise NotFound("No picture of that id is known; the list shows those that are.")
        return rows[0]

    def get(self, id: str) -> PictureDetail:
        """NotFound for an unknown id."""
        row, record = self._row(id), self._recorded(id)
        parents = self._database.read("SELECT sha256, kind FROM picture_parents WHERE child = ?", (row["place"],))
        return PictureDetail(
            **_view(row).model_dump(exclude={"prompt"}), prompt=row["prompt"], infotext=row["infotext"],
            negative=row["negative"], sampler=row["sampler"], networks=row["networks"], path=row["path"],
            bytes=row["bytes"], trashed=row["state"] != "here",
            parents={parent["sha256"]: parent["kind"] for parent in parents}, job=row["job"],
            number=record.index if record else 0,
            drawn_with=record.drawn_with if record else (),
        )  # fmt: skip

    def _recorded(self, id: str) -> SavedRecord | None:
        """What the job said of a picture; None of an imported one."""
        for row in self._database.read("SELECT body FROM records WHERE id = ?", (id,)):
            with contextlib.suppress(ValidationError):
                return SavedRecord.model_validate_json(row["body"])
        return None

    def record(self, id: str) -> SavedRecord:
        """A picture of the history in the words of the jobs; an imported one has no job. NotFound."""
        row = self._row(id)
        return SavedRecord(
            id=id, job=row["job"], index=0, path=row["path"], width=row["width"], height=row["height"],
            seed=row["seed"] or 0, infotext=row["infotext"], created=row["created"],
        )  # fmt: skip

    def owner_of(self, id: str) -> str:
        return self._row(id)["owner"]

    def file(self, id: str) -> Path | None:
        """Where the file of a picture lies now, the trash included; None where it is gone (which is noted)."""
        row = self._row(id)
        path = self._file(row)
        if (path is None) != bool(row["missing"]):
            with contextlib.suppress(EaselError), self._database.write(durable=False) as db:
                db.execute("UPDATE pictures SET missing = ? WHERE id = ?", (int(path is None), id))
        return path

    def _file(self, row: sqlite3.Row) -> Path | None:
        place = self._folders.data / row["path"]
        if row["state"] == "trashed" and (trash := self._bin(row["id"])).is_dir():
            place = trash / row["file"]  # another file may have taken its old place
        return place if place.is_file() else None

    def thumbnail(self, id: str) -> bytes:
        """A small WebP. NotFound where the picture is unknown or its file is gone."""
        self._row(id)

        def make() -> bytes:
            path = self.file(id)
            if path is None:
                raise NotFound("The file of this picture is not there any more.")
            return small(path)

        return self._thumbnails.get(id, make)

    # ---- marks ----

    def rate(self, ids: Sequence[str], rating: int | None = None, favourite: bool | None = None) -> None:
        """BadRequest for a rating that is none."""
        if rating is not None and not 0 <= rating <= 5:
            raise BadRequest("A rating goes from 0 (none) to 5.", field="rating")
        places = self._places(ids)
        with self._database.write() as db:
            for name, value in (("rating", rating), ("favourite", favourite)):
                if value is not None:
                    rows = [(int(value), place) for place in places]
                    db.executemany(f"UPDATE pictures SET {name} = ? WHERE place = ?", rows)

    def _places(self, ids: Sequence[str]) -> list[int]:
        return [row["place"] for row in self._rows(ids)]

    def _rows(self, ids: Sequence[str]) -> list[sqlite3.Row]:
        """Of those that are known; NotFound where none is."""
        if len(ids) > MOST_CHANGED:
            raise BadRequest(f"At most {MOST_CHANGED} pictures are changed at once.", field="ids")
        rows = []
        for id in dict.fromkeys(ids):
            with contextlib.suppress(NotFound):
                rows.append(self._row(id))
        if ids and not rows:
            raise NotFound("No picture of that id is known; the list shows those that are.")
        return rows

    # ---- trash ----

    def _bin(self, id: str) -> Path:
        return self._folders.state / "trash" / id

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Pictures made here go to the trash folder, imported ones only out of sight; the ids that went.

        DiskTrouble where a file cannot be moved: it stays in the history, as do those after it.
        """
        gone = []
        for row in self._rows(ids):
            if row["state"] != "here":
                continue
            state = "hidden" if row["imported"] else "trashed"
            # The row first: should the program end between the two, the file is simply still in its old place.
            self._set_state(row["id"], state)
            if state == "trashed":
                try:
                    for path in self._belongings(row):
                        move_file(path, self._bin(row["id"]) / path.name)
                except EaselError:
                    self._bring_back(row["id"], (self._folders.data / row["path"]).parent)
                    self._set_state(row["id"], "here")
                    raise
            gone.append(row["id"])
        return gone

    def restore(self, ids: Sequence[str]) -> list[str]:
        """Deleted pictures come back, each file to its old place under its old name; the ids that came.

        Where another file has taken the name meanwhile, the picture comes back beside it under a name of its own.
        """
        back = []
        for row in self._rows(ids):
            if row["state"] == "here":
                continue
            path = self._folders.data / row["path"]
            if row["state"] == "trashed":
                moved = self._bring_back(row["id"], path.parent)
                place = kept_as(moved.get(row["file"]) or path, self._folders.data)
                if place != row["path"]:
                    self._moved(row["id"], place)
            self._set_state(row["id"], "here")
            back.append(row["id"])
        return back

    def empty_trash(self) -> int:
        """Everything in the trash is gone for good; of imported pictures only what was known of them. How many."""
        mine, owner = self._mine()
        rows = self._database.read(f"SELECT * FROM pictures WHERE {mine} AND {_SHELVES['trash']}", owner)
        for row in rows:
            shutil.rmtree(self._bin(row["id"]), ignore_errors=True)
            self._thumbnails.drop(row["id"])
        with self._database.write() as db:
            db.executemany("DELETE FROM pictures WHERE place = ?", [(row["place"],) for row in rows])
            db.executemany("DELETE FROM records WHERE id = ?", [(row["id"],) for row in rows])
        return len(rows)

    def _set_state(self, id: str, state: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE pictures SET state = ? WHERE id = ?", (state, id))

    def _belongings(self, row: sqlite3.Row) -> list[Path]:
        """The picture's file, and what of ours lies beside it: its filmstrip."""
        path = self._folders.data / row["path"]
        beside: list[Path] = []
        for record in self._database.read("SELECT body FROM records WHERE id = ?", (row["id"],)):
            with contextlib.suppress(ValidationError):
                strip = SavedRecord.model_validate_json(record["body"]).filmstrip
                beside += [self._folders.data / strip] if strip else []
        return [one for one in (path, *beside) if one.is_file()]

    def _bring_back(self, id: str, folder: Path) -> dict[str, Path]:
        """The files of a picture out of the trash; where each of them lies now, by name."""
        moved: dict[str, Path] = {}
        trash = self._bin(id)
        for path in sorted(trash.iterdir()) if trash.is_dir() else ():
            moved[path.name] = move_file(path, folder / path.name, aside=True)
        with contextlib.suppress(OSError):
            trash.rmdir()
        return moved

    def _moved(self, id: str, place: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE pictures SET path = ?, file = ? WHERE id = ?", (place, Path(place).name, id))
            row = db.execute("SELECT body FROM records WHERE id = ?", (id,)).fetchone()
            if row is not None:
                with contextlib.suppress(ValidationError):
                    record = SavedRecord.model_validate_json(row["body"]).model_copy(update={"path": place})
                    db.execute("UPDATE records SET body = ? WHERE id = ?", (record.model_dump_json(), id))

    # ---- what differs, what came from what ----

    def compare(self, one: str, other: str) -> Comparison:
        changes = difference(self._row(one)["infotext"], self._row(other)["infotext"])
        before, after = self._recorded(one), self._recorded(other)
        if before and after:
            changes = (*changes, *surroundings(dict(before.drawn_with), dict(after.drawn_with)))
        pixels, largest = self._apart(one, other)
        views = tuple(ChangeView(**vars(change)) for change in changes)
        return Comparison(words=in_words(changes), changes=views, pixels=pixels, largest=largest)

    def _apart(self, *ids: str) -> tuple[float | None, int | None]:
        paths = [self.file(id) for id in ids]
        try:
            one, other = (open_bounded(path).convert("RGBA") for path in paths if path is not None)
        except (ValueError, EaselError):  # one is not there, or cannot be read
            return None, None
        return (None, None) if one.size != other.size else apart(one, other)

    def lineage(self, id: str) -> Lineage:
        """What a picture came from and led to, a dozen pictures far; and the others of its job."""
        row = self._hashed(self._row(id))
        came, led = self._ancestors(row), self._descendants(row)
        mine, owner = self._mine()
        beside = self._database.read(
            f"SELECT {_LIST} FROM pictures WHERE job = ? AND job != '' AND id != ? AND state = 'here' AND {mine}"
            " ORDER BY place LIMIT ?",
            (PROMPT_SHOWN, row["job"], id, *owner, MOST_RELATIVES),
        )
        return Lineage(came_from=tuple(came), led_to=tuple(led), beside=tuple(_view(one) for one in beside))

    def _ancestors(self, row: sqlite3.Row) -> list[Relative]:
        found: list[Relative] = []
        seen = {row["id"]}
        level = [row]
        for steps in range(1, FARTHEST + 1):
            above: list[sqlite3.Row] = []
            for child in level:
                for parent in self._database.read(
                    "SELECT sha256, kind FROM picture_parents WHERE child = ? ORDER BY kind DESC", (child["place"],)
                ):
                    picture = self._by_sha(parent["sha256"], before=child)
                    key = picture["id"] if picture is not None else parent["sha256"]
                    if key in seen or len(found) >= MOST_RELATIVES:
                        continue
                    seen.add(key)
                    found.append(_relative(-steps, parent["kind"], picture, parent["sha256"], child["id"]))
                    if picture is not None:
                        above.append(self._hashed(picture))
            level = above
        return found[::-1]

    def _descendants(self, row: sqlite3.Row) -> list[Relative]:
        found: list[Relative] = []
        seen = {row["id"]}
        level = [row]
        mine, owner = self._mine()
        for steps in range(1, FARTHEST + 1):
            below: list[sqlite3.Row] = []
            for parent in level:
                children = self._database.read(
                    "SELECT pictures.*, picture_parents.kind AS kind FROM picture_parents"
                    " JOIN pictures ON place = child WHERE (picture_parents.sha256 = ? OR picture_parents.sha256 IN"
                    f" (SELECT sha256 FROM sources WHERE origin = ?)) AND {mine} ORDER BY place LIMIT ?",
                    (parent["sha256"], parent["id"], *owner, MOST_RELATIVES),
                )
                for child in children:
                    if child["id"] in seen or len(found) >= MOST_RELATIVES:
                        continue
                    seen.add(child["id"])
                    found.append(_relative(steps, child["kind"], child, None, parent["id"]))
                    below.append(self._hashed(child))
            level = below
        return found

    def _by_sha(self, name: str, before: sqlite3.Row | None = None) -> sqlite3.Row | None:
        """The picture whose file that is (of several the first), or that it was painted over; None from outside."""
        mine, owner = self._mine()
        rows = self._database.read(
            "SELECT * FROM pictures WHERE (sha256 = ? OR id = (SELECT origin FROM sources WHERE sha256 = ?))"
            f" AND {mine} ORDER BY place LIMIT 2",
            (name, name, *owner),
        )
        return next((row for row in rows if before is None or row["id"] != before["id"]), None)

    def _hashed(self, row: sqlite3.Row) -> sqlite3.Row:
        """The row with the SHA-256 of its file, where there is one."""
        if row["sha256"] is None and (path := self._file(row)) is not None:
            note_hash(self._database, row["id"], path)
            return self._row(row["id"])
        return row

    def source(self, name: str) -> Path:
        """The file of a picture that one of this owner's was drawn from. NotFound where it is not kept any more."""
        self._drawn_from(name)
        kept = self._folders.inputs / name
        if kept.is_file():
            return kept
        picture = self._by_sha(name)
        path = self._file(picture) if picture is not None and picture["sha256"] == name else None
        if path is None:
            raise NotFound("That source picture is not kept any more; choose it again from your own files.")
        return path

    def source_thumbnail(self, name: str) -> bytes:
        self._drawn_from(name)
        rows = self._database.read("SELECT thumbnail FROM sources WHERE sha256 = ? AND thumbnail NOTNULL", (name,))
        return rows[0]["thumbnail"] if rows else self._thumbnails.get(name, lambda: small(self.source(name)))

    def _drawn_from(self, name: str) -> None:
        mine, owner = self._mine()
        rows = self._database.read(
            f"SELECT 1 FROM picture_parents JOIN pictures ON place = child WHERE picture_parents.sha256 = ? AND {mine}"
            " LIMIT 1",
            (name, *owner),
        )
        if not rows:
            raise NotFound("No picture of yours was drawn from that.")

    def note_origin(self, name: str, origin: str) -> None:
        """A source picture that is about to be used was painted over this picture of the history."""
        self._row(origin)
        with self._database.write(durable=False) as db:
            db.execute(
                "INSERT INTO sources (sha256, origin) VALUES (?, ?) ON CONFLICT (sha256) DO UPDATE SET"
                " origin = coalesce(origin, excluded.origin)",
                (name, origin),
            )

    def sources_wanted(self) -> set[str]:
        """Names of kept source pictures without which pictures of the history could not be drawn again."""
        rows = self._database.read(
            "SELECT parents.sha256 AS name, max(child) AS newest FROM picture_parents AS parents"
            " JOIN pictures ON place = child WHERE state = 'here' AND NOT EXISTS"
            " (SELECT 1 FROM pictures AS same WHERE same.sha256 = parents.sha256 AND same.state = 'here'"
            " AND same.missing = 0) GROUP BY parents.sha256 ORDER BY newest DESC"
        )
        wanted: set[str] = set()
        room = KEPT_SOURCES
        for row in rows:
            with contextlib.suppress(OSError):
                room -= os.stat(self._folders.inputs / row["name"]).st_size
                if room < 0:
                    break
                wanted.add(row["name"])
        return wanted


def note_hash(database: Database, id: str, path: Path) -> None:
    """Stores the SHA-256 and the size of a picture's file; nothing where it cannot be read."""
    try:
        name, size, modified = sha256_of(path), path.stat().st_size, path.stat().st_mtime
    except (OSError, EaselError):
        return
    with database.write(durable=False) as db:
        db.execute("UPDATE pictures SET sha256 = ?, bytes = ?, modified = ? WHERE id = ?", (name, size, modified, id))


def _relative(steps: int, kind: ParentKind, picture: sqlite3.Row | None, source: str | None, of: str) -> Relative:
    return Relative(
        steps=steps, kind=kind, picture=_view(picture) if picture is not None else None,
        source=source if picture is None else None, of=of,
        trashed=picture is not None and picture["state"] != "here",
    )  # fmt: skip


def _view(row: sqlite3.Row) -> PictureView:
    values = {name: row[name] for name in PictureView.model_fields}
    values["prompt"] = values["prompt"][:PROMPT_SHOWN]
    return PictureView(**values)


def _cursor(after: str, key: str) -> list[Any]:
    try:
        group, created, place = after.split("|")
        return [int(group) if key == "rating" else group, float(created), int(place)]
    except ValueError:
        message = "That cursor was not given by an earlier page; leave it out for the first."
        raise BadRequest(message, field="after") from None


def unlisted(database: Database) -> Iterable[SavedRecord]:
    """Records of saved pictures that the history does not have: those of versions before there was one."""
    rows = database.read(
        "SELECT body FROM records WHERE id NOT IN (SELECT id FROM pictures)"
        " AND json_extract(body, '$.path') IS NOT NULL ORDER BY place"
    )
    for row in rows:
        with contextlib.suppress(ValidationError):
            yield SavedRecord.model_validate_json(row["body"])
