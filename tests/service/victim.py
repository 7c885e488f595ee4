"""A server that is killed: opens the service on a folder, submits jobs and tells each id once it is acknowledged.

python -m tests.service.victim <data folder> <first number> <thread|process> <jobs>
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.service.generation import GenerationService
from modules.service.worker import ProcessWorker, ThreadWorker
from tests.service.fake_engine import Engine

JOBS = 4


def main() -> None:
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), lambda *told: print(*told, flush=True))


def serve(data: Path, first: int, kind: str, jobs: int, tell: Callable[[str, Any], None]) -> None:
    """Runs for a minute, or until it is killed."""
    process = partial(ProcessWorker, engine="tests.service.fake_engine:Engine")
    service = GenerationService(Folders.under(data), _thread if kind == "thread" else process, most_waiting=10**6)
    while kind == "process" and not service.stats()["worker"]["ready"]:
        time.sleep(0.01)
    tell("pid", service.stats()["worker"].get("pid"))
    for number in range(first, first + jobs):
        request = GenerationRequest(prompt="step=0.004", steps=5, width=64, height=64, seed=number, n_iter=2)
        tell("job", service.submit(request, key=str(number)))
    time.sleep(60)


def forked(told: Connection, data: Path, first: int, jobs: int) -> None:
    """The same in a process that was forked off: the engine in a thread of it."""
    serve(data, first, "thread", jobs, lambda kind, value: told.send((kind, value)))


def _thread(folders: Folders) -> ThreadWorker:
    return ThreadWorker(lambda: Engine(folders))


if __name__ == "__main__":
    main()
