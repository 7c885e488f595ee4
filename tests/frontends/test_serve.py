"""Ports, sub-paths, and the line that says where the page is."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from starlette.testclient import TestClient

from modules.frontends import serve
from tests.frontends.stand_in import StandIn


@pytest.fixture
def service():
    desk = StandIn(pace=0.01)
    yield desk
    desk.close()


def test_a_port_in_use_is_one_sentence_and_an_exit_code(service, capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert serve.run(service, port=port) == serve.EXIT_PORT_IN_USE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in said
    assert "--port" in said


def test_without_a_port_the_next_free_one_is_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        first = busy.getsockname()[1]
        monkeypatch.setattr(serve, "DEFAULT_PORT", first)
        found = serve.open_port("127.0.0.1", None)
        assert first < found.getsockname()[1] < first + serve.PORTS_TRIED
        found.close()


@pytest.mark.parametrize("prefix", ["/paint", ""], ids=["direct", "behind a stripping proxy"])
def test_a_subpath_serves_page_and_api(service, prefix):
    app = serve.build_app(service, serve.Sharing(subpath="/paint/"))
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        assert client.get(f"{prefix}/health").json()["status"] == "ok"
        page = client.get(f"{prefix}/")
        assert page.status_code == 200
        assert '"root":"http://127.0.0.1:7860/paint"' in page.text.replace('": "', '":"')
        assert client.post(f"{prefix}/jobs", json={"steps": 1}).status_code == 201
        assert client.get(f"{prefix}/gradio_api/proxy=http://10.0.0.1/").json()["code"] == "refused"
        assert client.get(f"{prefix}/easel/easel.js").status_code == 200


def test_gradio_is_imported_without_writing_stubs_and_left_as_it_was():
    code = (
        "import ast, sys\n"
        "from modules.frontends.ui.gradio_import import without_stubs\n"
        "before, parsed, parse = list(sys.meta_path), [], ast.parse\n"
        "ast.parse = lambda *a, **k: parsed.append(1) or parse(*a, **k)\n"
        "with without_stubs():\n"
        "    import gradio\n"
        "import gradio.component_meta as meta\n"
        "assert sys.meta_path == before\n"
        "assert meta.create_or_modify_pyi.__module__ == 'gradio.component_meta'\n"
        "assert gradio.Textbox().change is not None\n"
        "print(len(parsed), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    parsed, torch = done.stdout.split()
    assert int(parsed) < 40  # one and more per component otherwise
    assert torch == "False"


@pytest.mark.parametrize("presses", [1, 2])
def test_stopping_ends_open_event_streams_without_a_word(tmp_path, presses):
    program = (
        "import httpx, os, signal, threading, time, sys\n"
        "from modules.frontends import serve\n"
        "from tests.frontends.stand_in import StandIn\n"
        "from modules.schema.request import GenerationRequest\n"
        "service = StandIn()\n"
        "service.hold(0)\n"
        "job = service.submit(GenerationRequest())\n"
        "def follow(url):\n"
        "    with httpx.stream('GET', f'{url}/events/{job}', timeout=60) as answer:\n"
        "        lines = answer.iter_lines()\n"
        "        next(lines)\n"
        f"        for _ in range({presses}): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05)\n"
        "        for line in lines: pass\n"
        "    print('ended', flush=True)\n"
        "thread = []\n"
        "def ready(url):\n"
        "    thread.append(threading.Thread(target=follow, args=(url,)))\n"
        "    thread[0].start()\n"
        "code = serve.run(service, port=0, when_ready=ready)\n"
        "thread[0].join()\n"
        "service.close()\n"
        "print('code', code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == ["ended", "code 0"]
