"""The queue among several: turns, order, pause, keys, limits, webhooks, and a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from modules.frontends.api.answers import info_of, state_of
from modules.imaging import save
from modules.imaging.naming import NameFields
from modules.schema import events as ev
from modules.schema.errors import BadRequest, DiskTrouble, NotFound, TooMany
from modules.schema.folders import Folders
from modules.schema.record import JobView
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.service import generation
from modules.service.database import Database
from modules.service.generation import GenerationService
from modules.service.jobs import JobStore
from modules.service.worker import ThreadWorker
from tests.imaging import faults
from tests.service.fake_engine import Engine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    database = Database(tmp_path / "jobs.sqlite3")
    yield JobStore(database)
    database.close()


def add(store: JobStore, owner: str = "", **more) -> str:
    return store.add(GenerationRequest(), Settings(), owner, **more)


def take_all(store: JobStore) -> list[str]:
    taken = []
    while job := store.take():
        taken.append(job.id)
        store.append(job.id, ev.Done())
    return taken


def test_users_take_turns_and_each_ones_order_is_kept(store: JobStore, test_seed: int) -> None:
    rng = random.Random(test_seed)
    owners = [rng.choice("abc") for _ in range(30)]
    jobs = [(owner, add(store, owner)) for owner in owners]
    told = store.order()
    taken = take_all(store)
    assert taken == told
    owner_of = {job: owner for owner, job in jobs}
    for name in "abc":
        assert [job for job in taken if owner_of[job] == name] == [job for owner, job in jobs if owner == name]
    # Of any two who both wait, neither is ever more than one job behind.
    left = {name: owners.count(name) for name in "abc"}
    done = dict.fromkeys("abc", 0)
    for job in taken:
        done[owner_of[job]] += 1
        waiting = [name for name in "abc" if done[name] < left[name]]
        assert all(done[owner_of[job]] - done[name] <= 1 for name in waiting)


def test_somebody_new_does_not_wait_behind_a_hundred_jobs(store: JobStore) -> None:
    many = [add(store, "a") for _ in range(100)]
    store.take()
    late = add(store, "b")
    assert store.view(late).position == 2
    taken = store.take()
    assert taken is not None
    assert taken.id == late
    assert store.view(many[1]).position == 3


def test_waiting_jobs_are_moved_among_the_owners_own(store: JobStore) -> None:
    first, second, third = [add(store, "a") for _ in range(3)]
    other = add(store, "b")
    store.move(third, first)
    assert [job for job in store.order() if job != other] == [third, first, second]
    store.move(third, None)
    assert [job for job in store.order() if job != other] == [first, second, third]
    with pytest.raises(NotFound):
        store.move(first, other)
    running = store.take()
    assert running is not None
    with pytest.raises(BadRequest):
        store.move(running.id, second)


def test_a_paused_job_is_passed_over_and_keeps_its_place(store: JobStore) -> None:
    first, second = add(store), add(store)
    store.hold(first, True)
    assert (store.view(first).state, store.order()) == ("paused", [second])
    store.hold(first, False)
    assert store.order() == [first, second]
    store.hold(first, True)
    assert store.cancel_queued(first)
    with pytest.raises(BadRequest):
        store.hold(first, False)


def test_one_owner_cannot_fill_the_queue(store: JobStore) -> None:
    for _ in range(3):
        add(store, "a", most_waiting=3)
    with pytest.raises(TooMany):
        add(store, "a", most_waiting=3)
    add(store, "b", most_waiting=3)
    again = store.add(GenerationRequest(), Settings(), "b", key="k", most_waiting=3)
    assert store.add(GenerationRequest(), Settings(), "b", key="k", most_waiting=1) == again


def test_a_poison_job_is_given_up_after_three_attempts_and_the_rest_goes_on(tmp_path: Path) -> None:
    database = Database(tmp_path / "jobs.sqlite3")
    poison, good = [add(JobStore(database)) for _ in range(2)]
    for attempt in (1, 2, 3):
        store = JobStore(database)
        taken = store.take()
        assert taken is not None
        assert (taken.id, taken.attempt) == (poison, attempt)
        store.recover()
    assert store.view(poison).state == "failed"
    assert take_all(store) == [good]
    database.close()


def test_a_database_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    database = Database(path)
    job = add(JobStore(database))
    database.close()
    with sqlite3.connect(path) as old:
        old.execute("DROP INDEX jobs_by_owner")
        for column in ("rank", "turn", "webhook"):
            old.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    old.close()
    database = Database(path)
    assert take_all(JobStore(database)) == [job]
    database.close()


def test_a_job_that_was_told_to_stop_says_so_until_it_has(open_service: Callable[..., GenerationService]) -> None:
    service = open_service("thread")
    job = service.submit(GenerationRequest(prompt="deaf step=0.05", steps=10, width=64, height=64))
    while service.job(job).step < 2:
        time.sleep(0.01)
    assert not state_of(service.job(job)).interrupted
    service.cancel(job)
    assert service.job(job).cancelling
    assert state_of(service.job(job)).interrupted
    assert not finish(service, job).cancelling


# ------------------------------------------------------------------------------------------------------------ webhook


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict]]]:
    heard: list[dict] = []

    class Hear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/done?x=1", heard
    server.shutdown()
    server.server_close()


def finish(service: GenerationService, job: str) -> JobView:
    for _ in service.follow(job):
        pass
    return service.job(job)


def test_a_finished_job_is_told_to_an_address_the_owner_named(folders: Folders, listener) -> None:
    address, heard = listener
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)), webhooks=[address])
    small = GenerationRequest(steps=1, width=64, height=64)
    with pytest.raises(BadRequest):
        service.submit(small, webhook="http://127.0.0.1:1/elsewhere")
    view = finish(service, service.submit(small, webhook=address))
    finish(service, service.submit(small))
    until = time.monotonic() + 20
    while not heard and time.monotonic() < until:
        time.sleep(0.01)
    service.close()
    assert heard == [{"job": view.id, "state": "done", "error": None, "pictures": [view.images[0].id]}]


# -------------------------------------------------------------------------------------------------------- full disks


class FailingDisk(save.Disk):
    """Refuses every call to write while `full`."""

    def __init__(self, code: int) -> None:
        self.code, self.full = code, False

    def write(self, handle: int, data: memoryview) -> int:
        if self.full:
            raise OSError(self.code, "no room")
        return super().write(handle, data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_holds_the_queue_and_the_picture_is_saved_when_there_is_room(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, code: int, test_seed: int
) -> None:
    disk = FailingDisk(code)
    for name in ("save_named", "_fill_and_publish"):
        function = getattr(save, name)
        if function.__defaults__:
            defaults = tuple(disk if isinstance(value, save.Disk) else value for value in function.__defaults__)
            monkeypatch.setattr(function, "__defaults__", defaults)
    disk.full = True
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: DiskEngine(folders)))
    seed = test_seed % 200
    first = service.submit(GenerationRequest(steps=1, width=64, height=64, seed=seed))
    second = service.submit(GenerationRequest(steps=1, width=64, height=64, seed=seed + 1))
    view = finish(service, first)
    assert view.state == "done"
    record = view.images[0]
    assert record.path is None
    data, _ = service.picture(record.id)
    assert isinstance(data, bytes)
    until = time.monotonic() + 30
    while "waits" not in service.job(second).text and time.monotonic() < until:
        time.sleep(0.01)
    assert service.job(second).state == "queued"
    disk.full = False
    assert finish(service, second).state == "done"
    path, saved = service.picture(record.id)
    assert isinstance(path, Path)
    assert (saved.problem, service.job(first).images[0].path) == (None, saved.path)
    assert path.read_bytes() == data
    service.close()


class FailingDatabase(Database):
    """Refuses the write numbered `fail_at` (from 1), and as many as `times` in all."""

    def __init__(self, path: Path | None, fail_at: int, times: int) -> None:
        self.writes, self.fail_at, self.times = 0, 0, times
        super().__init__(path)
        self.fail_at = fail_at

    @contextlib.contextmanager
    def write(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        self.writes += 1
        if self.fail_at and self.fail_at <= self.writes < self.fail_at + self.times:
            raise DiskTrouble("The list of jobs cannot be written (database or disk is full).")
        with super().write(durable) as db:
            yield db


class ShakyService(GenerationService):
    def __init__(self, folders: Folders, fail_at: int) -> None:
        self._fail_at = fail_at
        super().__init__(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))

    def _open_database(self) -> Database:
        self.shaky = FailingDatabase(self.folders.database, self._fail_at, 2)
        return self.shaky


@pytest.mark.parametrize("k", range(2, 17))
def test_the_queue_refused_at_any_write_loses_nothing_acknowledged(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(generation, "RETRY_SECONDS", 0.02)
    service = ShakyService(folders, k)
    acknowledged = []
    for seed in range(3):
        with contextlib.suppress(DiskTrouble):
            acknowledged.append(service.submit(GenerationRequest(steps=1, width=64, height=64, seed=seed)))
    views = [finish(service, job) for job in acknowledged]
    assert len(views) >= 1
    assert [view.state for view in views] == ["done"] * len(views)
    for view in views:
        path, record = service.picture(view.images[0].id)
        assert isinstance(path, Path)
        with Image.open(path) as image:
            assert image.getpixel((0, 0)) == (record.seed % 256, 0, 0)
    assert service.shaky.writes > k
    service.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_the_disk_refused_at_any_call_costs_no_picture(folders: Folders, code: int) -> None:
    """Every call in turn that saving makes; the job is done each time, the picture whole on the disk or in memory."""
    saving, fields = Settings().saving, NameFields(seed=1)
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    healthy = faults.FailingDisk()
    save.save_named(image, "text", fields, saving, folders.data / "first", disk=healthy)
    for k in range(1, len(healthy.calls) + 1):
        data = folders.data / str(k)
        try:
            path = save.save_named(image, "text", fields, saving, data, disk=faults.FailingDisk(k, code))
        except DiskTrouble:
            assert list(data.rglob("*.png")) == []
        else:
            with Image.open(path) as found:
                assert found.tobytes() == image.tobytes()
        again = save.save_named(image, "text", fields, saving, data)
        with Image.open(again) as found:
            assert found.tobytes() == image.tobytes()


class DiskEngine(Engine):
    """Saves as the real pipeline does: a picture that finds no room is handed over in memory, with the reason."""

    def _save(self, job, request, settings, image, k, unsaved):
        try:
            return super()._save(job, request, settings, image, k, unsaved)
        except DiskTrouble as error:
            kept = super()._save(job, request, settings, image, k, True)
            record = kept.record.model_copy(update={"problem": error.message})
            return kept.model_copy(update={"record": record})


def test_a_folder_that_may_not_be_written_does_not_hold_the_queue(
    open_service: Callable[..., GenerationService], folders: Folders
) -> None:
    blocked = folders.data / "outputs"
    blocked.write_text("a file where the folder should be")
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: DiskEngine(folders)))
    jobs = [service.submit(GenerationRequest(steps=1, width=64, height=64)) for _ in range(2)]
    views = [finish(service, job) for job in jobs]
    assert [view.state for view in views] == ["done", "done"]
    pictures = [service.picture(view.images[0].id)[0] for view in views]
    assert all(isinstance(data, bytes) for data in pictures)
    assert json.loads(info_of(views[0]))["warnings"] == [views[0].images[0].problem]
    # Another folder is chosen: there they go, though no job comes.
    service.change_settings({"outdir_txt2img_samples": "elsewhere"})
    until = time.monotonic() + 30
    while len(list((folders.data / "elsewhere").rglob("*.png"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    service.change_settings({"outdir_txt2img_samples": "outputs"})
    third = finish(service, service.submit(GenerationRequest(steps=1, width=64, height=64)))
    kept = service.picture(third.images[0].id)[0]
    service.close()
    # What never could be saved lies in our own folder at the end, and in the history.
    service = open_service()
    assert len(service.history.page("", limit=9).pictures) == 3
    path, _ = service.picture(third.images[0].id)
    assert isinstance(path, Path)
    assert path.parent == folders.state / "unsaved"
    assert path.read_bytes() == kept
    for view, data in zip(views, pictures, strict=True):
        path, _ = service.picture(view.images[0].id)
        assert isinstance(path, Path)
        assert path.read_bytes() == data
