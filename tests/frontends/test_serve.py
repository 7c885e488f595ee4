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


def _say_and_ask(tmp_path, question: str, **options) -> tuple[list[str], str]:
    """What a server says in a process of its own, and what `question` (Python, with `url` and `said`) prints."""
    program = (
        "import httpx, os, signal, threading, sys\n"
        "from modules.frontends import serve\n"
        "from tests.frontends.stand_in import StandIn\n"
        "service, said = StandIn(), []\n"
        "def ask(url):\n"
        "    try:\n"
        f"        {question}\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "from pathlib import Path\n"
        "def ready(url): threading.Thread(target=ask, args=(url,)).start()\n"
        f"state, options = Path({str(tmp_path)!r}), {options!r}\n"
        "code = serve.run(service, port=0, when_ready=ready, say=said.append, state=state, **options)\n"
        "service.close()\n"
        "print('code', code)\n"
        "print('\\n'.join(said), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    return done.stderr.splitlines(), done.stdout


def test_a_shared_server_says_its_password_once_and_asks_for_it(tmp_path):
    question = (
        "password = said[0].split('password ')[1].split()[0]; "
        "print([httpx.get(url + '/health', auth=auth).status_code for auth in (None, ('easel', password))])"
    )
    said, printed = _say_and_ask(tmp_path, question, listen=True, page=False)
    assert printed.splitlines() == ["[401, 200]", "code 0"]
    assert "shown this once" in said[0]
    said, _ = _say_and_ask(tmp_path, "pass", listen=True, page=False)
    assert "shown at the first start" in said[0]


def test_a_certificate_makes_it_https(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl on this machine")
    question = "print(url[:5], httpx.get(url + '/health', verify=False).json()['status'])"
    files = (str(certificate), str(key))
    _, printed = _say_and_ask(tmp_path, question, page=False, certificate=files)
    assert printed.splitlines() == ["https ok", "code 0"]
    said, printed = _say_and_ask(tmp_path, "pass", page=False, certificate=(str(certificate), str(tmp_path / "none")))
    assert printed == "code 2\n"
    assert "--tls-certfile" in said[0]


def test_calls_are_logged_and_timed_and_a_restart_is_told_by_the_exit_code(tmp_path):
    question = "print(float(httpx.post(url + '/sdapi/v1/server-restart').headers['x-process-time']) >= 0)"
    options = {"page": False, "api": True, "api_log": True, "api_stop": True}
    said, printed = _say_and_ask(tmp_path, question, **options)
    assert printed.splitlines() == ["True", f"code {serve.EXIT_RESTART}"]
    assert any(
        line.startswith("API ") and " 200 http/1.1 POST /sdapi/v1/server-restart 127.0.0.1 " in line for line in said
    )


def test_without_api_there_is_no_sdapi_and_without_page_no_page(service):
    with TestClient(serve.build_app(service, page=False, api=False), base_url="http://127.0.0.1") as client:
        assert client.get("/health").status_code == 200
        for path in ("/", "/sdapi/v1/options"):
            assert client.get(path).status_code == 404
        assert client.get("/internal/ping").json() == {}  # as in A1111, beside the page too


def test_the_documentation_tells_of_the_login(service):
    login = serve.Logins([("ann", "x")])
    with TestClient(
        serve.build_app(service, serve.Sharing(logins=login), page=False), base_url="http://127.0.0.1"
    ) as app:
        told = app.get("/openapi.json", auth=("ann", "x")).json()
    assert told["security"] == [{"login": []}]
    with TestClient(serve.build_app(service, page=False), base_url="http://127.0.0.1") as client:
        assert "security" not in client.get("/openapi.json").json()


def test_a_tunnels_name_is_answered_once_it_is_known_and_asks_for_a_login(tmp_path):
    program = (
        "import httpx, os, signal, threading, time\n"
        "from pathlib import Path\n"
        "from modules.frontends import serve\n"
        "from tests.frontends.stand_in import StandIn\n"
        "service, said, go = StandIn(), [], threading.Event()\n"
        "def tunnel(port):\n"
        "    go.wait(30)\n"
        "    return 'https://Abc.gradio.example'\n"
        "def ask(url):\n"
        "    def code(auth=None):\n"
        "        return httpx.get(url + '/health', headers={'Host': 'abc.gradio.example'}, auth=auth).status_code\n"
        "    before = code()\n"
        "    go.set()\n"
        "    while not any('Public' in line for line in said): time.sleep(0.01)\n"
        "    print(before, code(), code(('ann', 'x')))\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "def ready(url): threading.Thread(target=ask, args=(url,)).start()\n"
        "more = {'tunnel': tunnel, 'users': [('ann', 'x')], 'page': False}\n"
        "serve.run(service, port=0, when_ready=ready, say=said.append, **more)\n"
        "service.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "421 401 200\n", done.stderr
