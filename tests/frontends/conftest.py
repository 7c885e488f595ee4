"""A served stand-in, a browser, and a watch for console errors, failed requests and foreign addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi.testclient import TestClient

from modules.bootstrap.run_tests import find_browser
from modules.frontends import serve
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.frontends.stand_in import StandIn
from tests.service.fake_engine import Engine

ROOT = Path(__file__).parent.parent.parent
CHROMIUM_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Served:
    """A running server; `service` is reached from the test as well."""

    service: Any
    url: str


@contextmanager
def serving(service: Any = None, **more: Any) -> Iterator[Served]:
    """The app over a service (a stand-in that takes 20 ms a step), on a free port; both are closed in the end. `more`:
    as for `serve.build_app`, as flags of a command line."""
    service = service or StandIn(pace=0.02)
    bound = serve.open_port("127.0.0.1", 0)
    app = serve.build_app(service, **more)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Served(service, f"http://127.0.0.1:{bound.getsockname()[1]}/")
    app.state.streams.close()
    server.should_exit = True
    thread.join(10)
    service.close()
    bound.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app over the real service, its queue and history, with the fake engine (its prompt says what happens)."""
    folders = Folders.under(tmp_path_factory.mktemp("data"))
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    with serving(service) as served:
        yield served


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium of this machine, driven by Playwright; skipped where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = find_browser(os.environ)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


SLOW_ANSWERS = """{
    // Each waits anew: at times the second answer comes before the first.
    const fetch = window.fetch, pause = () => new Promise((done) => setTimeout(done, LONGEST * Math.random()));
    window.fetch = async (...asked) => {
        await pause();
        const answer = await fetch(...asked);
        await pause();
        return answer;
    };
}"""


def new_context(chromium: Any, width: int = 1440, height: int = 900, **more: Any) -> Any:
    """A browser profile. What may move stands still: a page drawn sixty times a second costs more than the test."""
    context = chromium.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **more)
    context.set_default_timeout(60_000)  # a busy machine is not a failure
    slowest = os.environ.get("TEST_SLOW_ANSWERS")  # ms: what a test takes for granted too early then fails
    if slowest:
        context.add_init_script(SLOW_ANSWERS.replace("LONGEST", str(int(slowest) // 2)))
    return context


@dataclass
class Watch:
    """What went wrong on a page; empty at the end of a good test."""

    troubles: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def on(self, page: Any) -> Any:
        page.on("console", lambda m: self.troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("response", lambda r: self.troubles.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("requestfailed", self._failed)
        page.on("request", self._request)
        return page

    def _failed(self, request: Any) -> None:
        # Closing an event stream, or a page with one, is told as an aborted request.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.troubles.append(f"{request.failure} {request.url}")

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.foreign.append(request.url)


@pytest.fixture(scope="module")
def context(chromium: Any) -> Iterator[Any]:
    """One browser profile for the module, so that Gradio's own files are fetched once."""
    context = new_context(chromium)
    yield context
    context.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Fails the test at its end if a page it watched had an error or asked another host for anything."""
    found = Watch()
    yield found
    assert found.troubles == []
    assert found.foreign == []


def hold_answers(page: Any, address: str) -> None:
    """What the page asks of addresses with these words in them reaches it once `answer()` is called in it, as late as a
    test needs it."""
    page.evaluate(
        """(address) => {
            const fetch = window.fetch, held = new Promise((done) => { window.answer = done; });
            window.fetch = async (...asked) => {
                const answer = await fetch(...asked);
                if (String(asked[0]).includes(address)) await held;
                return answer;
            };
        }""",
        address,
    )


def open_page(page: Any, served: Served) -> None:
    page.goto(served.url)
    page.wait_for_selector("#txt2img_generate:visible")
    page.wait_for_selector(".easel-example")  # filled in by the first answer of the server
    page.wait_for_function("window.easel !== undefined")


@pytest.fixture
def page(served: Served, context: Any, watch: Watch) -> Iterator[Any]:
    """The page as a first visit sees it."""
    page = watch.on(context.new_page())
    page.goto(f"{served.url}health")
    page.evaluate("localStorage.clear()")
    open_page(page, served)
    yield page
    served.service.release()
    for view in served.service.jobs():
        served.service.cancel(view.id)
    for left in context.pages:
        left.close()


@pytest.fixture(scope="module")
def desk() -> Iterator[StandIn]:
    service = StandIn(pace=0)
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(desk: StandIn) -> Iterator[TestClient]:
    with TestClient(serve.build_app(desk), base_url="http://127.0.0.1:7860") as client:
        yield client


@dataclass
class Program:
    """Easel as a user starts it, on a folder of its own."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    lines: list[str]

    def pictures(self, task: str = "txt2img") -> list[Path]:
        return sorted(self.data.glob(f"outputs/{task}-images/????-??-??/*.png"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with started(tmp_path_factory.mktemp("data"), ROOT / "models") as found:
        yield found


@contextmanager
def started(data: Path, models: Path) -> Iterator[Program]:
    """Easel on a data folder and a folder of models, from its start to its end."""
    if not list((ROOT / "models" / "Stable-diffusion").glob("*.safetensors")):
        pytest.skip("no checkpoint in models/Stable-diffusion")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "webui.py", "--skip-prepare-environment", "--skip-torch-cuda-test"]
    command += ["--data-dir", str(data), "--models-dir", str(models), "--port", str(port)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
    reader.start()
    deadline = time.monotonic() + 120
    while not any("is ready" in line for line in lines):
        assert process.poll() is None, "".join(lines)
        assert time.monotonic() < deadline, "".join(lines)
        time.sleep(0.05)
    yield Program(process, f"http://127.0.0.1:{port}/", data, lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130), "".join(lines)
    assert "Traceback" not in "".join(lines)


@pytest.fixture(scope="module")
def drawing_context(chromium: Any) -> Iterator[Any]:
    context = new_context(chromium)
    context.set_default_timeout(180_000)
    yield context
    context.close()


@pytest.fixture
def real_context(drawing_context: Any) -> Iterator[Any]:
    """A browser profile for a page that really draws. One for the module, so that files are fetched and compiled once;
    what pages keep in it is forgotten."""
    opened: list[Any] = []

    def note(page: Any) -> None:
        opened.append(page)

    drawing_context.on("page", note)
    yield drawing_context
    drawing_context.remove_listener("page", note)
    addresses = [urlsplit(page.url) for page in opened]
    for left in drawing_context.pages:
        left.close()
    for origin in {f"{one.scheme}://{one.netloc}/" for one in addresses if one.netloc}:
        forget(drawing_context, origin)


def forget(context: Any, origin: str) -> None:
    """Nothing that pages of an address kept in the browser stays."""
    page = context.new_page()
    page.goto(f"{origin}health")
    page.evaluate("localStorage.clear()")
    page.close()


def open_program(context: Any, program: Program, watch: Watch) -> Any:
    """The page of a program, once it shows what it has."""
    page = watch.on(context.new_page())
    page.goto(program.url)
    page.wait_for_selector(".easel-example")
    return page


def open_bare(page: Any, served: Served) -> None:
    """The page of a service without checkpoints, once its form is filled in."""
    page.goto(served.url)
    page.wait_for_selector("#txt2img_generate:visible")
    page.wait_for_function("window.easel?.history && document.querySelector('#txt2img_sampling input')?.value")
