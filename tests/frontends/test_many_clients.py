"""Sixteen users with four jobs each at a live server: everybody gets the own pictures, those that a run alone gives."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from modules.frontends import serve
from modules.frontends.api.logins import Logins
from modules.pipeline.run import Engine
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.weights.tiny import write_tiny_sd15

FULL = bool(os.environ.get("TEST_FULL"))
CLIENTS, JOBS = (64, 8) if FULL else (16, 4)
USERS = [(f"user{k}", f"word-{k}") for k in range(CLIENTS)]
WATCHER = ("watcher", "word")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[str]:
    folders = Folders.under(tmp_path_factory.mktemp("many"))
    write_tiny_sd15(folders.checkpoint_dirs[0] / "tiny.safetensors", test_seed)
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    bound = serve.open_port("127.0.0.1", 0)
    app = serve.build_app(service, serve.Sharing(logins=Logins([*USERS, WATCHER])), page=False)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/sdapi/v1"
    server.should_exit = True
    thread.join(10)
    service.close()
    bound.close()


def test_everybody_gets_the_own_pictures(address: str, test_seed: int, record_property: pytest.FixtureRequest) -> None:
    got: dict[int, str] = {}
    drawing = threading.Event()
    drawing.set()
    first = test_seed % 10_000

    def ask(client: httpx.Client, seed: int) -> str:
        body = {"prompt": f"a house {seed}", "seed": seed, "steps": 2, "width": 64, "height": 64}
        answer = client.post(f"{address}/txt2img", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["images"][0]

    def draw(k: int) -> None:
        with httpx.Client(timeout=600, auth=USERS[k]) as client:
            for job in range(JOBS):
                seed = first + k * JOBS + job
                got[seed] = ask(client, seed)

    waited: dict[str, list[float]] = {"progress": [], "interrupt": []}

    def watch() -> None:
        with httpx.Client(timeout=600, auth=WATCHER) as client:
            while drawing.is_set():
                for name, method in (("progress", "GET"), ("interrupt", "POST")):
                    began = time.perf_counter()
                    assert client.request(method, f"{address}/{name}").status_code == 200
                    waited[name].append(time.perf_counter() - began)
                time.sleep(0.01)

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(CLIENTS)]
    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    drawing.clear()
    watcher.join()
    assert len(got) == CLIENTS * JOBS == len(set(got.values()))
    with httpx.Client(timeout=600, auth=WATCHER) as client:
        assert [seed for seed, picture in got.items() if ask(client, seed) != picture] == []
    for name, seconds in waited.items():
        p99 = sorted(seconds)[int(0.99 * (len(seconds) - 1))] * 1000
        record_property(f"{name} p99 ms", round(p99))  # type: ignore[operator]
        print(f"{name}: p99 {p99:.0f} ms of {len(seconds)}, {CLIENTS} clients x {JOBS} jobs")
