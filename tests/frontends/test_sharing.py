"""What a shared server lets in: nothing without a login, nothing from other sites, nothing of other users, no files.

Three thousand path strings in each run, all of them everywhere with TEST_FULL=1.
"""

from __future__ import annotations

import base64
import http.server
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from modules.frontends import serve
from modules.frontends.api import fetch
from modules.frontends.api.gate import LOOPBACK, Origins, Rate
from modules.frontends.api.logins import FILE, TRIES, Logins, made_login
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.service.fake_engine import Engine

FULL = bool(os.environ.get("TEST_FULL"))
CANARY = "canary-4711-not-to-be-seen"


def basic(name: str, password: str = "") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password or name + '-secret'}".encode()).decode()}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerationService]:
    data = tmp_path_factory.mktemp("shared") / "data"
    service = GenerationService(Folders.under(data), lambda folders: ThreadWorker(lambda: Engine(folders)))
    (data.parent / "outside.txt").write_text(CANARY)
    (data / "config.json").write_text(f'{{"secret": "{CANARY}"}}')
    yield service
    service.close()


def logins() -> Logins:
    return Logins([("ann", "ann-secret"), ("bob", "bob-secret")], [("api", "api-secret")], tries=10**6)


@pytest.fixture(scope="module")
def app(service: GenerationService) -> Any:
    return serve.build_app(service, serve.Sharing(logins=logins(), shared=True), stop=lambda how: True)


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


def walk(routes: list[Any], prefix: str = "") -> Iterator[tuple[str, set[str], bool]]:
    """(path, methods, is a socket) of everything below, parameters filled in."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        inner = getattr(route, "routes", None) or getattr(getattr(route, "app", None), "routes", None)
        if isinstance(route, Mount) or (inner and not isinstance(route, Route)):
            yield path + "/anything", {"GET", "POST"}, False
            yield from walk(list(inner or []), path.rstrip("/"))
        elif isinstance(route, WebSocketRoute):
            yield path, set(), True
        else:
            yield path, set(getattr(route, "methods", None) or {"GET"}), False
        original = getattr(route, "original_router", None)
        if original is not None:
            yield from walk(list(original.routes), path)


def test_no_route_mount_or_socket_answers_without_a_login(app: Any, client: TestClient) -> None:
    seen = 0
    for path, methods, socket in walk(app.routes):
        address = path.replace("{", "").replace("}", "").replace(":path", "") or "/"
        if socket:
            with pytest.raises(Exception), client.websocket_connect(address):  # noqa: B017 - any refusal
                pass
            seen += 1
            continue
        for method in methods:
            answer = client.request(
                method, address, headers={"Content-Type": "application/json"}, follow_redirects=False
            )
            assert answer.status_code == 401, (method, address, answer.status_code)
            seen += 1
    assert seen > 100
    for extra in ("/sdapi/v1/txt2img", "/openapi.json", "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/x"):
        assert client.post(extra).status_code == 401


def test_api_users_reach_the_api_and_nothing_else(client: TestClient) -> None:
    assert client.get("/sdapi/v1/options", headers=basic("api")).status_code == 200
    for path in ("/", "/jobs", "/gradio_api/info", "/openapi.json"):
        assert client.get(path, headers=basic("api")).status_code == 401
    assert client.get("/sdapi/v1/options", headers=basic("ann")).status_code == 200
    with TestClient(
        serve.build_app(client.app.state.desk, serve.Sharing(logins=Logins(api_users=[("api", "x")])), page=False),  # type: ignore[attr-defined]
        base_url="http://127.0.0.1",
    ) as local:
        assert local.get("/jobs").status_code == 200
        assert local.get("/sdapi/v1/options").status_code == 401


def test_users_know_nothing_of_each_other(client: TestClient, service: GenerationService, test_seed: int) -> None:
    body = {"steps": 1, "width": 64, "height": 64, "seed": test_seed}
    made = client.post("/jobs", json=body, headers={**basic("ann"), "Idempotency-Key": "one"})
    job = made.json()["id"]
    again = client.post("/jobs", json=body, headers={**basic("ann"), "Idempotency-Key": "one"})
    assert again.json()["id"] == job
    for _ in service.follow(job):
        pass
    picture = client.get(f"/jobs/{job}", headers=basic("ann")).json()["images"][0]["id"]
    assert client.get(f"/pictures/{picture}", headers=basic("ann")).status_code == 200
    assert client.get(f"/pictures/{picture}/thumbnail", headers=basic("ann")).status_code == 200
    assert job not in client.get("/jobs", headers=basic("bob")).text
    for method, path in (
        ("GET", "/jobs/ID"), ("GET", "/events/ID"), ("GET", "/jobs/ID/preview"), ("POST", "/jobs/ID/cancel"),
        ("POST", "/jobs/ID/skip"), ("POST", "/jobs/ID/pause"), ("POST", "/jobs/ID/resume"), ("POST", "/jobs/ID/move"),
    ):  # fmt: skip
        theirs = client.request(method, path.replace("ID", job), headers=basic("bob"))
        unknown = client.request(method, path.replace("ID", "0" * 32), headers=basic("bob"))
        assert theirs.status_code == unknown.status_code == 404
        assert theirs.text.replace(job, "0" * 32) == unknown.text
    for path in (f"/pictures/{picture}", f"/pictures/{picture}/thumbnail"):
        assert client.get(path, headers=basic("bob")).status_code == 404
    theirs = client.post("/internal/progress", json={"id_task": job}, headers=basic("bob"))
    assert theirs.status_code == 401 or theirs.json()["completed"] is False
    other = client.post("/jobs", json=body, headers={**basic("bob"), "Idempotency-Key": "one"})
    assert other.json()["id"] != job


def test_no_model_file_is_written_over_the_network(client: TestClient, service: GenerationService) -> None:
    task = {"kind": "merge", "primary_model_name": "postcards", "interp_method": "No interpolation"}
    answer = client.post("/model-tasks", json=task, headers=basic("ann"))
    assert answer.status_code == 403
    assert service.model_tasks.views() == []


def test_what_is_drawn_for_somebody_else_is_not_shown(client: TestClient, service: GenerationService) -> None:
    slow = {"prompt": "step=0.02", "steps": 100, "width": 64, "height": 64}
    job = client.post("/jobs", json=slow, headers=basic("ann")).json()["id"]
    while service.job(job).step < 2:
        pass
    mine = client.get("/sdapi/v1/progress", headers=basic("ann")).json()
    theirs = client.get("/sdapi/v1/progress", headers=basic("bob")).json()
    assert mine["state"]["job_count"] == 1
    assert (theirs["current_image"], theirs["state"]["job_count"]) == (None, 0)
    client.post("/sdapi/v1/interrupt", headers=basic("bob"))
    assert service.job(job).state == "running"
    client.post("/sdapi/v1/interrupt", headers=basic("ann"))
    for _ in service.follow(job):
        pass
    assert service.job(job).state == "cancelled"


FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "http://evil.example:7860"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:7861"},
    {"Origin": "http://localhost:7860"},
    {"Origin": "http://sub.127.0.0.1:7860"},
    {"Origin": "http://127.0.0.1:7860.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "CROSS-SITE"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "file://"},
    {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin, cross-site"},
)
BODIES = {
    "application/json": b'{"sd_model_checkpoint": null}',
    "text/plain": b'{"steps": 1}',
    "application/x-www-form-urlencoded": b"steps=1",
    "multipart/form-data; boundary=x": b"--x--\r\n",
}


def test_nothing_is_changed_at_the_word_of_another_page(
    app: Any, client: TestClient, service: GenerationService
) -> None:
    """Every route with every header, and with every kind of body; all of both together with TEST_FULL=1."""
    jobs, settings = len(service.jobs(1000)), service.settings
    tried = routes = 0
    for path, methods, _ in walk(app.routes):
        for method in sorted(methods - {"GET", "HEAD", "OPTIONS"}):
            address = path.replace("{", "").replace("}", "").replace(":path", "") or "/"
            for number, headers in enumerate(FOREIGN):
                for kind, body in BODIES.items() if FULL else [list(BODIES.items())[(number + routes) % len(BODIES)]]:
                    given = {**basic("ann"), **headers, "Content-Type": kind}
                    answer = client.request(method, address, headers=given, content=body)
                    assert answer.status_code == 403, (method, address, headers)
                    assert "access-control-allow-origin" not in answer.headers
                    tried += 1
            routes += 1
    assert routes > 30
    assert tried == routes * len(FOREIGN) * (len(BODIES) if FULL else 1)
    assert len(service.jobs(1000)) == jobs
    assert service.settings == settings


def test_sites_the_owner_named_may_call_and_read(service: GenerationService) -> None:
    origins = Origins(frozenset({"https://canvas.example"}), r"https://[a-z]+\.friends\.example")
    sharing = serve.Sharing(origins=origins, logins=Logins([("ann", "ann-secret")]))
    with TestClient(serve.build_app(service, sharing, page=False), base_url="http://127.0.0.1:7860") as client:
        for origin in ("https://canvas.example", "https://one.friends.example"):
            preflight = client.options(
                "/sdapi/v1/txt2img",
                headers={
                    "Origin": origin, "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "content-type,authorization",
                },
            )  # fmt: skip
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            assert preflight.headers["access-control-allow-headers"] == "content-type,authorization"
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert client.post("/sdapi/v1/interrupt", headers=headers).status_code == 401
            answer = client.post("/sdapi/v1/interrupt", headers={**headers, **basic("ann")})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
        for origin in ("https://canvas.example.evil.example", "https://x.friends.example.evil.example", "null"):
            answer = client.post("/sdapi/v1/interrupt", headers={"Origin": origin, **basic("ann")})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


def test_every_site_may_call_where_the_owner_says_so_but_never_with_the_browsers_own_login() -> None:
    headers = dict(Origins(frozenset("*")).headers("https://any.example"))
    assert headers == {b"access-control-allow-origin": b"*"}


def test_wrong_passwords_are_counted() -> None:
    door = Logins([("ann", "secret")])
    good = basic("ann", "secret")["Authorization"]
    assert door.who(good, False, "10.0.0.1") == "ann"
    for k in range(TRIES):
        assert door.who(basic("ann", f"guess{k}")["Authorization"], False, "10.0.0.2") is None
    with pytest.raises(PermissionError):
        door.who(basic("ann", "guess")["Authorization"], False, "10.0.0.2")
    with pytest.raises(PermissionError):
        door.who(good, False, "10.0.0.2")
    assert door.who(good, False, "10.0.0.1") == "ann"


def test_the_password_that_is_made_is_kept_as_a_hash(tmp_path: Path) -> None:
    kept, password = made_login(tmp_path)
    assert password is not None
    assert len(password) == 20
    assert password not in (tmp_path / FILE).read_text()
    same, again = made_login(tmp_path)
    assert (same, again) == (kept, None)
    assert same.fits("easel", password)
    assert not same.fits("easel", password[:-1])
    assert not same.fits("ann", password)
    assert made_login(tmp_path / "other")[1] != password


def test_a_shared_server_always_asks_for_a_login(tmp_path: Path) -> None:
    said: list[str] = []

    def share(host: str, listen: bool, users=(), api_users=()) -> serve.Sharing:
        return serve.share(host, listen, "", users, api_users, ["studio.example"], None, tmp_path, said.append)

    local = share("127.0.0.1", False)
    assert (local.shared, local.logins.asks(False), local.per_minute) == (False, False, None)
    assert local.hosts == LOOPBACK | {"studio.example"}
    for host, listen in (("0.0.0.0", True), ("192.168.0.4", False)):
        shared = share(host, listen)
        assert shared.logins.asks(False)
        assert shared.any_address
        assert shared.per_minute
        assert share(host, listen, api_users=[("a", "b")]).logins.asks(False)
    assert sum("password" in sentence and "shown this once" in sentence for sentence in said) == 1


def test_too_many_changes_in_a_minute_are_held_back() -> None:
    rate = Rate(3)
    assert [rate.seconds_to_wait(("ann", "10.0.0.1")) > 0 for _ in range(4)] == [False, False, False, True]
    assert rate.seconds_to_wait(("bob", "10.0.0.1")) == 0


# --------------------------------------------------------------------------------------------------------------- paths

BASES = (
    "../outside.txt", "../../outside.txt", "..\\outside.txt", "....//outside.txt", "./../outside.txt", "config.json",
    "../config.json", "/etc/passwd", "/proc/self/environ", "/proc/self/cwd/config.json", "C:\\Windows\\win.ini",
    "C:outside.txt", "\\\\host\\share\\x", "//host/share/x", "\\\\?\\C:\\x", "file:///etc/passwd", "~/outside.txt",
    "$HOME/outside.txt", "outside.txt::$DATA", "CON", "NUL.png", "outside.txt.", "outside.txt ", ".", "..", "/", "",
    "\u2025/outside.txt", "\uff0e\uff0e/outside.txt", "\u202etxt.edistuo", "a/../../outside.txt", ".easel/login.json",
    ".easel/easel.sqlite3", "models/../../outside.txt", "%2e%2e/outside.txt", "..%2foutside.txt", "..%5coutside.txt",
    "%252e%252e%252foutside.txt", "..%c0%afoutside.txt", "x" * 5000,
)  # fmt: skip


def encodings(text: str, root: Path) -> Iterator[str]:
    """The same aim written in other ways."""
    yield text
    yield str(root / text) if text and not text.startswith("/") else text
    yield text.replace("/", "%2f").replace(".", "%2e")
    yield text.replace("/", "%252f").replace(".", "%252e")
    yield text.replace("/", "\\")
    yield text.replace("..", "...").replace("/", "//")
    yield text + "\0.png"
    yield text + "%00.png"
    yield "/" + text
    yield text.upper()
    yield " " + text
    yield text + "?x=.png"
    yield "valid/../" + text


def raw_get(client: TestClient, path: str) -> tuple[int, bytes]:
    """What the app answers to a path that reaches it just so: a client would tidy it up."""
    raw = path.encode("utf-8", "replace")
    headers = [(b"host", b"127.0.0.1:7860"), *((k.lower().encode(), v.encode()) for k, v in basic("ann").items())]
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": raw, "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860), "scheme": "http", "http_version": "1.1",
        "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    got: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        got.append(message)

    async def ask() -> None:
        await client.app(dict(scope), receive, send)

    client.portal.call(ask)  # type: ignore[union-attr]
    return got[0]["status"], b"".join(message.get("body", b"") for message in got[1:])


READERS = (
    "/pictures/{}", "/pictures/{}/thumbnail", "/jobs/{}", "/jobs/{}/preview", "/events/{}", "/easel/{}",
    "/gradio_api/file={}", "/gradio_api/file/{}", "/file={}", "/{}", "/assets/{}", "/gradio_api/static/{}",
    "/static/{}", "/gradio_api/custom_component/x/y/z/{}", "/theme.css/{}",
)  # fmt: skip


def test_no_path_leads_to_a_file_outside(client: TestClient, service: GenerationService, test_seed: int) -> None:
    rng = random.Random(test_seed)
    root = service.folders.data
    strings = [text for base in BASES for text in encodings(base, root)]
    pairs = [(reader, text) for reader in READERS for text in strings]
    if not FULL:
        pairs = rng.sample(pairs, 3000)
    before = {path for path in root.parent.rglob("*") if path.is_file()}
    for reader, text in pairs:
        status, body = raw_get(client, reader.format(text))
        assert status < 500, (reader, text)
        assert CANARY.encode() not in body, (reader, text)
        assert b"root:" not in body
    for text in strings if FULL else rng.sample(strings, 40):
        for path, body in (
            ("/sdapi/v1/options", {"sd_model_checkpoint": text}),
            ("/sdapi/v1/options", {"outdir_txt2img_samples": text + "x"}),
            ("/sdapi/v1/txt2img", {"override_settings": {"outdir_txt2img_samples": text}, "steps": 1}),
            ("/sdapi/v1/txt2img", {"override_settings": {"sd_model_checkpoint": text or "x"}, "steps": 1}),
            ("/sdapi/v1/png-info", {"image": text}),
            ("/sdapi/v1/img2img", {"init_images": [text], "steps": 1}),
            ("/jobs", {"source": {"images": [text]}}),
            ("/sdapi/v1/create/embedding", {"name": text}),
        ):
            answer = client.post(path, json=body, headers=basic("ann"))
            assert 400 <= answer.status_code < 500 or (text == "" and answer.status_code == 200), (path, text)
            assert CANARY not in answer.text
    after = {path for path in root.parent.rglob("*") if path.is_file()}
    new = {path for path in after - before if not path.is_relative_to(root / ".easel")}
    assert new == set()


def test_gradio_gives_out_what_was_uploaded_and_nothing_else(client: TestClient, service: GenerationService) -> None:
    sent = client.post("/gradio_api/upload", files={"files": ("a.txt", b"mine")}, headers=basic("ann"))
    place = sent.json()[0]
    assert client.get(f"/gradio_api/file={place}", headers=basic("ann")).content == b"mine"
    for path in (service.folders.settings_file, Path(__file__), Path("/etc/passwd"), Path(place).parent):
        assert client.get(f"/gradio_api/file={path}", headers=basic("ann")).status_code == 404
    link = Path(place).parent / "link.txt"
    link.symlink_to(service.folders.data.parent / "outside.txt")
    assert client.get(f"/gradio_api/file={link}", headers=basic("ann")).status_code == 404
    link.unlink()


# ---------------------------------------------------------------------------------------------------------------- SSRF


def test_addresses_of_this_machine_and_its_network_are_never_fetched() -> None:
    """Every disguise of loopback against a listener that must stay silent."""
    hits: list[str] = []

    class Hear(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    hosts = (
        "127.0.0.1", "localhost", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
        "017700000001", "127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]", "[::127.0.0.1]", "0.0.0.0", "0", "[::]", "10.0.0.1", "172.16.0.1", "192.168.0.1",
        "169.254.169.254", "[fe80::1]", "[fc00::1]", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255",
        "user@127.0.0.1", "user:word@127.0.0.1", "evil.example@127.0.0.1", "127.0.0.1#", "127.0.0.1%00",
        "LOCALHOST", "localhost.localdomain", "ip6-localhost", "[fe80::1%25lo]", "192.0.0.1", "240.0.0.1",
    )  # fmt: skip
    urls = [f"http://{host}{tail}" for host in hosts for tail in (f":{port}/", "/", ":80/x.png")]
    urls += [
        "file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "http:127.0.0.1", "http://", "https:///x",
        f"http://127.0.0.1:{port}\\@example.org/", f"http://example.org:{port}/", "http://a b/", "jar:http://x!/",
    ]  # fmt: skip
    assert len(urls) >= 120
    for url in urls:
        with pytest.raises(BadRequest):
            fetch.fetch(url, resolve=_never_public, ports={80, 443, port})
    # A name that leads home, one that leads home the second time, and a page that sends there.
    with pytest.raises(BadRequest):
        fetch.fetch(f"http://rebind.example:{port}/", resolve=lambda host, port: ["127.0.0.1"], ports={port})
    both = ["127.0.0.1", "93.184.216.34"]
    with pytest.raises(BadRequest):
        fetch.fetch(f"http://rebind.example:{port}/", resolve=lambda host, port: both, ports={port})
    server.shutdown()
    server.server_close()
    assert hits == []


def _never_public(host: str, port: int) -> list[str]:
    """The system's own resolver; names that nobody knows here lead to loopback."""
    try:
        return fetch.resolve(host, port)
    except OSError:
        return ["127.0.0.1"]


def test_pictures_are_fetched_where_the_owner_allows_it_and_redirects_are_looked_at_again() -> None:
    asked: list[str] = []

    class Serve(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['Host']} {self.path} {self.headers['User-Agent']}")
            if self.path.startswith("/to"):
                self.send_response(302)
                self.send_header("Location", self.path[3:])
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (fetch.MAX_BYTES + 1 if self.path == "/big" else 5))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://pictures.example:{server.server_port}"

    def get(path: str, **options: Any) -> bytes:
        return fetch.fetch(home + path, forbid_local=False, resolve=lambda host, port: ["127.0.0.1"], **options)

    assert get("/a.png", agent="mine") == b"xxxxx"
    assert asked[-1] == f"pictures.example:{server.server_port} /a.png mine"
    assert get("/to/a.png") == b"xxxxx"
    for path in ("/big", "/to/to/to/to/to/a", "/to" + "file:///etc/passwd"):
        with pytest.raises(BadRequest):
            get(path)
    server.shutdown()
    server.server_close()
