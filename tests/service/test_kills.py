"""kill -9 at any moment: what was acknowledged is drawn, in order, and every listed picture is whole."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from modules.imaging.save import sweep_leftovers
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from tests.service import victim, writer
from tests.service.test_generation import finish
from tests.service.victim import JOBS

ROOT = Path(__file__).parent.parent.parent
FULL = bool(os.environ.get("TEST_FULL"))
KILLS = 200 if FULL else 20
WRITER_KILLS = 1000 if FULL else 200
# A process forked off one that has everything loaded begins within milliseconds.
FORKING = "forkserver" in multiprocessing.get_all_start_methods()
FORKS: Any = multiprocessing.get_context("forkserver" if FORKING else "spawn")
if FORKING:
    FORKS.set_forkserver_preload(["tests.service.victim", "tests.service.writer"])


@dataclass
class Forked:
    """A process that tells what it has acknowledged, and can be killed."""

    process: Any
    told: Connection

    @classmethod
    def begin(cls, target: Callable[..., None], *args: object) -> Forked:
        ours, theirs = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=target, args=(theirs, *args))
        process.start()
        theirs.close()
        return cls(process, ours)

    def kill(self) -> list[Any]:
        """What it still told before it died."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        last = []
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                last.append(self.told.recv())
        self.told.close()
        return last


def _words(server: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    assert server.stdout is not None
    for line in server.stdout:
        kind, _, value = line.strip().partition(" ")
        yield kind, value


def _start(data: Path, first: int, kind: str, jobs: int = JOBS) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.service.victim", str(data), str(first), kind, str(jobs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_servers_lose_no_job_and_list_no_broken_picture(
    open_service: Callable[..., GenerationService], folders: Folders, test_seed: int
) -> None:
    rng = random.Random(test_seed)
    acknowledged: list[str] = []
    for number in range(KILLS):
        server = Forked.begin(victim.forked, folders.data, number * JOBS, JOBS)
        enough = rng.randrange(1, JOBS + 1)
        while enough:
            kind, value = server.told.recv()
            if kind == "job":
                acknowledged.append(value)
                enough -= 1
        time.sleep(rng.random() * 0.08)
        acknowledged += [value for kind, value in server.kill() if kind == "job"]
    service = open_service("thread")
    views = [finish(service, job) for job in acknowledged]
    assert len(set(acknowledged)) == len(acknowledged) >= KILLS
    for view in views:
        # A job that was being drawn in three killed runs is given up, with a reason.
        assert view.state == "done" or (view.attempts == 3 and "3 times" in str(view.error))
    finished = [view.started or 0 for view in views if view.state == "done"]
    assert finished == sorted(finished)
    listed = service.gallery.newest(10_000)
    for record in listed:
        with Image.open(folders.data / str(record.path)) as image:
            image.load()
            assert image.getpixel((0, 0)) == (record.seed % 256, 0, 0)
    done = [view for view in views if view.state == "done"]
    assert all([image.index for image in view.images] == [0, 1] for view in done)
    # A second attempt draws only what is missing; a file whose row a kill prevented is found at the next start.
    saved = [path for path in folders.data.rglob("*.png") if folders.state not in path.parents]
    assert len(listed) == len({(record.job, record.index) for record in listed})
    assert {folders.data / str(record.path) for record in listed} == set(saved)
    assert service.history.groups().total == len(saved)
    time.sleep(0.2)
    assert not list(folders.data.rglob("*.part"))


def test_a_killed_writer_loses_no_picture_it_acknowledged(tmp_path: Path, test_seed: int) -> None:
    rng = random.Random(test_seed)
    acknowledged: list[tuple[str, Path]] = []
    for number in range(WRITER_KILLS):
        killed = Forked.begin(writer.forked, tmp_path, number * 10_000)
        acknowledged.append(killed.told.recv())
        time.sleep(rng.random() * 0.03)
        acknowledged += killed.kill()
    assert len({path for _, path in acknowledged}) == len(acknowledged) >= WRITER_KILLS
    for seed, path in acknowledged:
        with Image.open(path) as image:
            image.load()
            assert image.info["parameters"] == f"Seed: {seed}"
    for path in tmp_path.rglob("*.png"):  # also those nobody was told of
        with Image.open(path) as image:
            image.load()
    leftovers = len(list(tmp_path.rglob("*.part")))
    assert sweep_leftovers(tmp_path, time.time() + 10) == leftovers <= WRITER_KILLS


@pytest.mark.parametrize("jobs", [0, JOBS], ids=["idle", "drawing"])
def test_the_worker_process_ends_with_a_killed_server(folders: Folders, jobs: int) -> None:
    server = _start(folders.data, 0, "process", jobs)
    words = _words(server)
    worker = psutil.Process(int(next(words)[1]))
    for _ in range(jobs):
        next(words)
    assert worker.is_running()
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    try:
        worker.wait(timeout=20)
    finally:
        if worker.is_running():
            worker.kill()
