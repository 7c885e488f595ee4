"""A server that is killed: opens the service on a folder, submits jobs and tells each id once it is acknowledged.

python -m tests.service.victim <data folder> <first number> <thread|process> <jobs>
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.service.generation import GenerationService
from modules.service.worker import ProcessWorker, ThreadWorker
from tests.service.fake_engine import Engine

JOBS = 4


def main() -> None:
    folders, first, kind = Folders.under(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    process = partial(ProcessWorker, engine="tests.service.fake_engine:Engine")
    service = GenerationService(folders, _thread if kind == "thread" else process)
    while kind == "process" and not service.stats()["worker"]["ready"]:
        time.sleep(0.01)
    print("pid", service.stats()["worker"].get("pid"), flush=True)
    for number in range(first, first + int(sys.argv[4])):
        request = GenerationRequest(prompt="step=0.004", steps=5, width=64, height=64, seed=number, n_iter=2)
        print("job", service.submit(request, key=str(number)), flush=True)
    time.sleep(60)


def _thread(folders: Folders) -> ThreadWorker:
    return ThreadWorker(lambda: Engine(folders))


if __name__ == "__main__":
    main()
