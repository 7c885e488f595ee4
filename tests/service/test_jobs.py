"""The queue in the database: order, rows that cannot be read, attempts, a full disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.schema import events as ev
from modules.schema.errors import DiskTrouble
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.service.database import Database
from modules.service.generation import GenerationService
from modules.service.jobs import MAX_ATTEMPTS, POSITION_JUMP, JobStore
from tests.service.test_generation import ask, finish, wait_for

Open = Callable[..., GenerationService]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "jobs.sqlite3")


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def submit_many(service: GenerationService) -> None:
    for _ in range(1000):
        service.submit(ask("x" * 2000))


def take_all(store: JobStore) -> list[str]:
    taken = []
    while (job := store.take()) is not None:
        taken.append(job.id)
        store.append(job.id, ev.Done())
    return taken


def test_jobs_are_taken_in_order_with_seeds_drawn_once(store: JobStore) -> None:
    ids = [store.add(GenerationRequest(), Settings()) for _ in range(5)]
    first = store.take()
    assert first is not None
    assert first.id == ids[0]
    assert first.request.seed >= 0
    assert first.request.subseed >= 0
    assert store.view(ids[0]).request.seed == -1  # as the user wrote it
    store.recover()
    again = store.take()
    assert again is not None
    assert (again.id, again.request, again.attempt) == (ids[0], first.request, 2)
    store.append(ids[0], ev.Done())
    assert take_all(store) == ids[1:]


def test_a_row_of_another_version_fails_alone(store: JobStore, database: Database) -> None:
    ids = [store.add(GenerationRequest(), Settings()) for _ in range(5)]
    with database.write() as db:
        db.execute('UPDATE jobs SET request = \'{"prompt": "x", "cfg": 7}\' WHERE id = ?', (ids[0],))
        db.execute("UPDATE jobs SET request = 'no JSON' WHERE id = ?", (ids[1],))
        db.execute("UPDATE jobs SET settings = '{\"saving\": 3}' WHERE id = ?", (ids[3],))
    assert take_all(store) == [ids[2], ids[4]]
    for job in (ids[0], ids[1], ids[3]):
        view = store.view(job)
        assert (view.state, view.error_code) == ("failed", "bad_request")
        assert "submit it again" in str(view.error)


def test_a_job_that_ends_the_program_again_and_again_is_given_up(store: JobStore) -> None:
    poison, sound = [store.add(GenerationRequest(), Settings()) for _ in range(2)]
    last = 0
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = store.take()
        assert job is not None
        assert (job.id, job.attempt) == (poison, attempt)
        positions = [position for position, _ in store.events(poison)]
        assert positions[-1] > last
        last = positions[-1] + POSITION_JUMP // 2  # what followers may have seen and the disk may have lost
        store.recover()
    assert take_all(store) == [sound]
    view = store.view(poison)
    assert (view.state, view.error_code, len(view.warnings)) == ("failed", "worker_lost", MAX_ATTEMPTS - 1)
    assert "3 times" in str(view.error)


def test_a_finished_job_takes_no_more_events(store: JobStore) -> None:
    job = store.add(GenerationRequest(), Settings())
    store.take()
    assert store.append(job, ev.Cancelled()) > 0
    assert store.append(job, ev.Progress(step=1, steps=2)) == 0
    assert store.append(job, ev.Done()) == 0
    assert store.view(job).state == "cancelled"


def test_a_damaged_database_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(b"this is no database at all, whatever its name says" * 100)
    database = Database(path)
    assert len(database.warnings) == 1
    assert "damaged" in database.warnings[0]
    kept = [p for p in tmp_path.iterdir() if ".bad-" in p.name]
    assert len(kept) == 1
    assert kept[0].read_bytes().startswith(b"this is no database")
    assert JobStore(database).add(GenerationRequest(), Settings())


def test_without_a_writable_folder_jobs_run_all_the_same(open_service: Open, folders: Folders) -> None:
    folders.state.write_bytes(b"a file where the folder should be")
    service = open_service()
    assert len(service.warnings) == 1
    assert "cannot be kept" in service.warnings[0]
    assert finish(service, service.submit(ask())).state == "done"


def test_a_full_disk_pauses_the_queue_and_loses_nothing(open_service: Open) -> None:
    service = open_service()
    job = service.submit(ask("step=0.01", steps=30, n_iter=2))
    wait_for(lambda: service.job(job).step > 3)
    db = service._database._db
    with service._database._lock:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskTrouble, match="free some space"):
        submit_many(service)
    wait_for(lambda: "free some space" in service.job(job).text)
    time.sleep(0.1)
    assert service.job(job).state == "running"
    with service._database._lock:
        db.execute("PRAGMA max_page_count = 1000000")
    view = finish(service, job)
    assert view.state == "done"
    assert [image.index for image in view.images] == [0, 1]


def test_other_programs_may_read_the_database_meanwhile(open_service: Open, folders: Folders) -> None:
    service = open_service()
    job = service.submit(ask("step=0.01", steps=20))
    with sqlite3.connect(folders.database) as other:
        assert other.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    assert finish(service, job).state == "done"
