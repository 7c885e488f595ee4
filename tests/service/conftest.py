"""A service on a fresh data folder, with the fake engine in a thread or in a real process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ProcessWorker, ThreadWorker
from tests.service.fake_engine import Engine

ENGINE = "tests.service.fake_engine:Engine"
FACTORIES = {
    "thread": lambda folders: ThreadWorker(lambda: Engine(folders)),
    "process": partial(ProcessWorker, engine=ENGINE),
}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.under(tmp_path)


@pytest.fixture
def open_service(folders: Folders) -> Iterator[Callable[..., GenerationService]]:
    """Opens services on the same folder, one after the other; closes what is left open."""
    opened: list[GenerationService] = []

    def open_one(kind: str = "thread") -> GenerationService:
        service = GenerationService(folders, FACTORIES[kind])
        opened.append(service)
        return service

    yield open_one
    for service in opened:
        service.close()


@pytest.fixture(params=["thread", "process"])
def service(request: pytest.FixtureRequest, open_service: Callable[..., GenerationService]) -> GenerationService:
    return open_service(request.param)
