"""The durable queue: every job and what it said, in SQLite, from before its submission is answered until long after.

States go queued ⇄ paused, queued → running → done | failed | cancelled. Owners take turns; each one's jobs are taken
in the order they came or were put in. Positions of a job's events grow from 1; there may be gaps. A job found running
when the program starts was interrupted: it is queued again, in its old place, at most twice.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import sqlite3
import time
import uuid
from dataclasses import dataclass, replace

from pydantic import ValidationError

from modules.schema import events as ev
from modules.schema.errors import BadRequest, NotFound, TooMany
from modules.schema.record import FINAL_STATES, JobState, JobView, SavedRecord
from modules.schema.request import SEEDS, GenerationRequest, seeded
from modules.schema.settings import Settings
from modules.service.database import Database
from modules.service.gallery import Gallery
from modules.service.history import enter

MAX_ATTEMPTS = 3
POSITION_JUMP = 1_000_000
"""Events of progress after the last durable write may be lost with the machine, though followers saw them; a job that
starts again numbers its events from well above, so that nobody who resumes misses one."""
SEED_RANGE = 2**32 - 2
FINAL_EVENTS = (ev.Done, ev.Failed, ev.Cancelled)
_INPUT_NAME = re.compile("[0-9a-f]{64}")
# A job stands where it came, or where its owner put it.
PLACE = "coalesce(rank, place)"


@dataclass(frozen=True)
class Job:
    """A job as the worker gets it: seeds drawn, so that a second attempt draws the same pictures.

    `finished` are the indices of pictures that an earlier attempt completed.
    """

    id: str
    request: GenerationRequest
    settings: Settings
    attempt: int
    finished: frozenset[int] = frozenset()


class JobStore:
    """Jobs and their events. Every method is one transaction, safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        request: GenerationRequest,
        settings: Settings,
        owner: str = "",
        key: str | None = None,
        webhook: str | None = None,
        most_waiting: int | None = None,
    ) -> str:
        """Queues a job and returns its id once the row is durable; the same owner and key give the same job again.

        TooMany where the owner has `most_waiting` jobs waiting already.
        """
        job = uuid.uuid4().hex
        with self._database.write() as db:
            if key is not None:
                row = db.execute("SELECT id FROM jobs WHERE owner = ? AND key = ?", (owner, key)).fetchone()
                if row:
                    return row["id"]
            if most_waiting is not None:
                waiting = "SELECT count(*) AS n FROM jobs WHERE owner = ? AND state IN ('queued', 'paused')"
                if db.execute(waiting, (owner,)).fetchone()["n"] >= most_waiting:
                    raise TooMany(f"{most_waiting} jobs wait already, the most at once; send more when some are done.")
            db.execute(
                "INSERT INTO jobs (id, owner, key, request, settings, seed, subseed, state, created, webhook)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)",
                (
                    job, owner, key, request.model_dump_json(), settings.model_dump_json(),
                    random.randrange(SEED_RANGE), random.randrange(SEED_RANGE), time.time(), webhook,
                ),
            )  # fmt: skip
            _append(db, job, ev.Queued())
        return job

    def take(self) -> Job | None:
        """The next queued job, now running; None where none waits. Rows that cannot be read fail on the way.

        The owner whose turn is longest ago comes first, so that nobody waits behind somebody else's hundred jobs.
        """
        last_turn = "SELECT coalesce(max(turn), 0) FROM jobs AS others WHERE others.owner = jobs.owner"
        held = "SELECT 1 FROM switches WHERE name IN ('held', 'held:' || jobs.owner)"
        next_row = (
            f"SELECT * FROM jobs WHERE state = 'queued' AND NOT EXISTS ({held}) ORDER BY ({last_turn}), {PLACE} LIMIT 1"
        )
        while True:
            with self._database.write() as db:
                row = db.execute(next_row).fetchone()
                if row is None:
                    return None
                try:
                    job = _job(row)
                except (ValidationError, ValueError):
                    message = (
                        "This job was written by another version of the program and cannot be read; submit it again."
                    )
                    _finish(db, row["id"], ev.Failed(code="bad_request", message=message))
                    continue
                db.execute(
                    "UPDATE jobs SET state = 'running', attempts = ?, started = ?,"
                    " turn = (SELECT max(turn) + 1 FROM jobs) WHERE id = ?",
                    (job.attempt, time.time(), job.id),
                )
                _append(db, job.id, ev.Started(attempt=job.attempt))
                records = db.execute("SELECT number FROM records WHERE job = ?", (job.id,)).fetchall()
                return replace(job, finished=frozenset(r["number"] for r in records))

    def append(self, job: str, event: ev.Event) -> int:
        """Stores an event of a running job and returns its position; a final one ends the job, a picture enters the
        gallery. After its end a job takes no more events (position 0)."""
        with self._database.write(durable=not isinstance(event, ev.Progress)) as db:
            row = db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            if row is None or row["state"] in FINAL_STATES:
                return 0
            if isinstance(event, FINAL_EVENTS):
                return _finish(db, job, event)
            if isinstance(event, ev.ImageReady):
                Gallery.add(db, event.record)
                enter(db, event.record)
            return _append(db, job, event)

    def cancel_queued(self, job: str) -> bool:
        """Ends a job that nobody has taken yet; False where it is not waiting. NotFound for an unknown id."""
        with self._database.write() as db:
            row = db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            if row is None:
                raise _unknown(job)
            if row["state"] not in ("queued", "paused"):
                return False
            _finish(db, job, ev.Cancelled())
            return True

    def hold(self, job: str, paused: bool) -> None:
        """A waiting job is left out until it is resumed, in its old place. BadRequest where it does not wait."""
        with self._database.write() as db:
            if _waiting(db, job) != ("paused" if paused else "queued"):
                db.execute("UPDATE jobs SET state = ? WHERE id = ?", ("paused" if paused else "queued", job))

    def hold_all(self, owner: str | None, held: bool) -> None:
        """No further job of this owner (None: of anybody) is taken until they are let go. Holds over a restart."""
        with self._database.write() as db:
            if held:
                db.execute("INSERT OR IGNORE INTO switches VALUES (?)", (_switch(owner),))
            else:
                db.execute("DELETE FROM switches WHERE name = ?", (_switch(owner),))

    def held(self, owner: str | None) -> bool:
        """Whether the jobs of this owner are held, by the owner or all together."""
        names = {row["name"] for row in self._database.read("SELECT name FROM switches")}
        return "held" in names or _switch(owner) in names

    def move(self, job: str, before: str | None) -> None:
        """Puts a waiting job before another one of the same owner, or behind all of them (None).

        BadRequest where either does not wait; NotFound for an unknown id.
        """
        with self._database.write() as db:
            _waiting(db, job)
            rows = db.execute(
                f"SELECT id, {PLACE} AS rank FROM jobs WHERE state IN ('queued', 'paused')"
                f" AND owner = (SELECT owner FROM jobs WHERE id = ?) ORDER BY {PLACE}",
                (job,),
            ).fetchall()
            ids = [row["id"] for row in rows if row["id"] != job]
            if before is not None and before not in ids:
                raise NotFound(f"No waiting job of yours has the id {before[:40]!r}.", field="before")
            ids.insert(len(ids) if before is None else ids.index(before), job)
            # The same places, dealt out anew: other owners' jobs stand where they stood.
            places = [row["rank"] for row in rows]
            db.executemany("UPDATE jobs SET rank = ? WHERE id = ?", list(zip(places, ids)))

    def order(self) -> list[str]:
        """Ids of the jobs that wait, in the order they will be taken in."""
        rows = self._database.read(f"SELECT id, owner FROM jobs WHERE state = 'queued' ORDER BY {PLACE}")
        turns = self._database.read(
            "SELECT owner, max(turn) AS turn FROM jobs WHERE owner IN (SELECT owner FROM jobs WHERE state = 'queued')"
            " GROUP BY owner"
        )
        turn = {row["owner"]: row["turn"] for row in turns}
        mine: dict[str, list[str]] = {}
        for row in rows:
            mine.setdefault(row["owner"], []).append(row["id"])
        rounds = itertools.zip_longest(*(mine[owner] for owner in sorted(mine, key=lambda owner: turn.get(owner, 0))))
        return [job for one_round in rounds for job in one_round if job is not None]

    def counts(self) -> dict[str, int]:
        """How many jobs there are, by state."""
        rows = self._database.read("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def due_webhooks(self) -> list[tuple[str, str]]:
        """(job, address) of the finished jobs whose address has not been called."""
        rows = self._database.read("SELECT id, state, webhook FROM jobs WHERE webhook IS NOT NULL")
        return [(row["id"], row["webhook"]) for row in rows if row["state"] in FINAL_STATES]

    def webhook_done(self, job: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE jobs SET webhook = NULL WHERE id = ?", (job,))

    def saved_later(self, record: SavedRecord) -> None:
        """A picture that had been kept in memory lies on the disk now."""
        with self._database.write() as db:
            Gallery.add(db, record)
            enter(db, record)
            events = db.execute("SELECT position, body FROM events WHERE job = ? AND kind = 'image'", (record.job,))
            for row in events.fetchall():
                event = ev.EVENT.validate_json(row["body"])
                if isinstance(event, ev.ImageReady) and event.record.id == record.id:
                    body = event.model_copy(update={"record": record}).model_dump_json()
                    db.execute(
                        "UPDATE events SET body = ? WHERE job = ? AND position = ?", (body, record.job, row["position"])
                    )

    def recover(self) -> list[str]:
        """After a start: jobs that were running when the program ended wait again; returns their ids."""
        again = []
        with self._database.write() as db:
            for row in db.execute("SELECT id, attempts FROM jobs WHERE state = 'running'").fetchall():
                if row["attempts"] >= MAX_ATTEMPTS:
                    message = f"The program ended {row['attempts']} times while it drew this job, so it was given up."
                    _finish(db, row["id"], ev.Failed(code="worker_lost", message=message), jump=POSITION_JUMP)
                    continue
                db.execute("UPDATE jobs SET state = 'queued', started = NULL, turn = 0 WHERE id = ?", (row["id"],))
                # Pictures that were kept in memory are gone with it, so they are drawn again.
                db.execute("DELETE FROM records WHERE job = ? AND json_extract(body, '$.path') IS NULL", (row["id"],))
                message = "The program ended while it drew this job; it is drawn again."
                _append(db, row["id"], ev.Warned(message=message), jump=POSITION_JUMP)
                again.append(row["id"])
        return again

    def put_back(self, job: str) -> None:
        """A running job whose worker is closed in good order waits again, in its old place, as if never taken."""
        with self._database.write() as db:
            row = db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            if row["state"] == "running":
                db.execute(
                    "UPDATE jobs SET state = 'queued', started = NULL, attempts = attempts - 1, turn = 0 WHERE id = ?",
                    (job,),
                )
                db.execute("DELETE FROM records WHERE job = ? AND json_extract(body, '$.path') IS NULL", (job,))
                _append(db, job, ev.Warned(message="Easel was closed while it drew this job; it is drawn again."))

    def events(self, job: str, after: int = 0) -> list[tuple[int, ev.Event]]:
        """The stored events of a job above a position, in order."""
        rows = self._database.read(
            "SELECT position, body FROM events WHERE job = ? AND position > ? ORDER BY position", (job, after)
        )
        found = []
        for row in rows:
            with contextlib.suppress(ValidationError):  # one that another version wrote
                found.append((row["position"], ev.EVENT.validate_json(row["body"])))
        return found

    def state(self, job: str) -> str:
        """NotFound for an unknown id."""
        rows = self._database.read("SELECT state FROM jobs WHERE id = ?", (job,))
        if not rows:
            raise _unknown(job)
        return rows[0]["state"]

    def inputs_wanted(self) -> set[str]:
        """Names of the kept pictures (`imaging.inputs`) that jobs which are not ended start from."""
        rows = self._database.read("SELECT request FROM jobs WHERE state IN ('queued', 'paused', 'running')")
        return {name for row in rows for name in _INPUT_NAME.findall(row["request"])}

    def view(self, job: str) -> JobView:
        """NotFound for an unknown id."""
        rows = self._database.read("SELECT * FROM jobs WHERE id = ?", (job,))
        if not rows:
            raise _unknown(job)
        return self._view(rows[0], self._places() if rows[0]["state"] == "queued" else {})

    def views(self, limit: int = 100, owner: str | None = None) -> list[JobView]:
        """Newest first."""
        where, values = ("WHERE owner = ?", (owner, limit)) if owner is not None else ("", (limit,))
        rows = self._database.read(f"SELECT * FROM jobs {where} ORDER BY place DESC LIMIT ?", values)
        places = self._places()
        return [self._view(row, places) for row in rows]

    def unfinished(self, owner: str | None = None) -> list[JobView]:
        """What is drawn, then what waits (the paused included) in its order; of one owner if asked."""
        where, values = ("AND owner = ?", (owner,)) if owner is not None else ("", ())
        rows = self._database.read(
            f"SELECT * FROM jobs WHERE state IN ('running', 'queued', 'paused') {where}"
            f" ORDER BY state != 'running', {PLACE}",
            values,
        )
        places = self._places()
        return [self._view(row, places) for row in rows]

    def ended(self, limit: int, owner: str | None = None) -> list[JobView]:
        """Jobs that came to their end, the last one first; of one owner if asked."""
        where, values = ("AND owner = ?", (owner,)) if owner is not None else ("", ())
        rows = self._database.read(
            f"SELECT * FROM jobs WHERE finished NOTNULL {where} ORDER BY finished DESC LIMIT ?", (*values, limit)
        )
        return [self._view(row, {}) for row in rows]

    def others_before(self, owner: str | None) -> int:
        """How many jobs of others are drawn before the first waiting one of this owner."""
        if owner is None:
            return 0
        running = self._database.read("SELECT owner FROM jobs WHERE state = 'running'")
        waiting = self._database.read("SELECT id, owner FROM jobs WHERE state = 'queued'")
        owners = {row["id"]: row["owner"] for row in waiting}
        queue = [owners.get(job) for job in self.order()]
        if owner not in queue:
            return 0
        return sum(row["owner"] != owner for row in running) + queue.index(owner)

    def current(self, owner: str | None = None) -> JobView | None:
        """The job that is being drawn, else the first that waits; of one owner if asked."""
        mine, values = ("AND owner = ?", (owner,)) if owner is not None else ("", ())
        rows = self._database.read(f"SELECT * FROM jobs WHERE state = 'running' {mine} LIMIT 1", values)
        if rows:
            return self._view(rows[0], {})
        for job in self.order():
            rows = self._database.read(f"SELECT * FROM jobs WHERE id = ? AND state = 'queued' {mine}", (job, *values))
            if rows:
                return self._view(rows[0], self._places())
        return None

    def _places(self) -> dict[str, int]:
        running = self._database.read("SELECT count(*) AS n FROM jobs WHERE state = 'running'")[0]["n"]
        return {job: place for place, job in enumerate(self.order(), start=running + 1)}

    def _view(self, row: sqlite3.Row, places: dict[str, int]) -> JobView:
        try:
            request = GenerationRequest.model_validate_json(row["request"])
        except ValidationError:
            request = GenerationRequest()
        drawn = {name: row[name] if getattr(request, name) == -1 else getattr(request, name) for name in SEEDS}
        view = JobView(
            id=row["id"], request=request, state=row["state"], position=places.get(row["id"], 0),
            created=row["created"], started=row["started"], finished=row["finished"], attempts=row["attempts"],
            error=row["error"], error_code=row["error_code"], owner=row["owner"], **drawn,
        )  # fmt: skip
        return fold(view, [event for _, event in self.events(row["id"])])


def fold(view: JobView, events: list[ev.Event]) -> JobView:
    """The view with what its events tell: progress, warnings, pictures."""
    newest: dict[str, object] = {}
    warnings: list[str] = []
    images: dict[int, SavedRecord] = {}
    for event in events:
        if isinstance(event, ev.Started):
            newest = {}
        elif isinstance(event, ev.Progress):
            newest = {
                "progress": event.fraction, "step": event.step, "steps": event.steps, "eta": event.eta,
                "text": event.text,
            }  # fmt: skip
        elif isinstance(event, ev.Warned):
            warnings.append(event.message)
        elif isinstance(event, ev.ImageReady):
            images[event.record.index] = event.record
    if view.state != "running":
        newest |= {"eta": None, "text": ""}
        newest |= {"progress": 1.0} if view.state == "done" else {}
    pictures = tuple(images[k] for k in sorted(images))
    return view.model_copy(update={**newest, "warnings": tuple(warnings), "images": pictures})


def _waiting(db: sqlite3.Connection, job: str) -> JobState:
    """The state of a job that waits; NotFound for an unknown id, BadRequest where it does not wait."""
    row = db.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
    if row is None:
        raise _unknown(job)
    if row["state"] not in ("queued", "paused"):
        raise BadRequest(f"This job is {row['state']}; only jobs that wait can be moved, paused and resumed.")
    return row["state"]


def _job(row: sqlite3.Row) -> Job:
    request = GenerationRequest.model_validate_json(row["request"])
    settings = Settings.model_validate_json(row["settings"])
    return Job(row["id"], seeded(request, {name: row[name] for name in SEEDS}), settings, row["attempts"] + 1)


def _append(db: sqlite3.Connection, job: str, event: ev.Event, jump: int = 0) -> int:
    last = db.execute("SELECT max(position) AS p FROM events WHERE job = ?", (job,)).fetchone()["p"] or 0
    position = last + jump + 1
    if isinstance(event, ev.ImageReady):
        event = event.model_copy(update={"data": None})  # bytes of a picture do not belong into the queue
    body = event.model_dump_json()
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (job, position, event.kind, body))
    return position


def _finish(db: sqlite3.Connection, job: str, event: ev.Event, jump: int = 0) -> int:
    """The final event, the state, and the steps on the way forgotten except the last."""
    position = _append(db, job, event, jump)
    failed = event if isinstance(event, ev.Failed) else None
    state = "failed" if failed else event.kind
    db.execute(
        "UPDATE jobs SET state = ?, finished = ?, error = ?, error_code = ? WHERE id = ?",
        (state, time.time(), failed and failed.message, failed and failed.code, job),
    )
    db.execute(
        "DELETE FROM events WHERE job = :job AND kind = 'progress' AND position <"
        " (SELECT max(position) FROM events WHERE job = :job AND kind = 'progress')",
        {"job": job},
    )
    return position


def _switch(owner: str | None) -> str:
    return "held" if owner is None else f"held:{owner}"


def _unknown(job: str) -> NotFound:
    return NotFound(f"No job has the id {job[:40]!r}; the list of jobs shows those that are known.")
