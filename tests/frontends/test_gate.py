"""The gate lets our own browser in and nobody else."""

from __future__ import annotations

import base64
from typing import Any

import anyio
import anyio.from_thread
import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from modules.frontends.api import gate
from modules.frontends.api.gate import Gate, Rate
from modules.frontends.api.logins import Logins


def gated(**options) -> tuple[TestClient, list[str]]:
    app, changed = FastAPI(), []

    @app.get("/look")
    def look() -> str:
        return "seen"

    @app.post("/change")
    async def change(request: Request) -> int:
        body = await request.body()
        changed.append("changed")
        return len(body)

    users = options.pop("users", ())
    app.add_middleware(Gate, logins=Logins(users), **options)
    return TestClient(app, base_url="http://127.0.0.1:7860"), changed


GOOD_HOSTS = ("127.0.0.1:7860", "127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860", "[::1]")
BAD_HOSTS = (
    "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.", "localhost.evil.example",
    "user@localhost", "localhost:7860@evil.example", "127.0.0.1:7860/", "0.0.0.0:7860", "2130706433", "0x7f.1",
    "127.1", "[::1%25eth0]", "[::ffff:127.0.0.1]", "[::1", "::1", "localhost:port", "localhost, evil.example", " ", "",
    "http://localhost", "192.168.0.5:7860", "localhost\\evil.example", "localhost/evil", "localhost?evil",
    "localhost#evil",
    "evil.example#localhost", "evil.example\\localhost", "localhost%00", "localhost%2eevil.example", "localhost evil",
    "127.0.0.1:7860:7860", "127.0.0.1:", "127.0.0.1:99999999", "127.0.0.1:-1", "127.000.000.001", "0177.0.0.1",
    "0x7f000001", "017700000001", "127.0.0.1.nip.io", "[::1]evil", "[::1].evil", "[0:0:0:0:0:0:0:2]", "[::]",
    "*", ".", "-", "localhost.localdomain", "ip6-localhost", "xn--lcalhost-54a", "l\xf6calhost".encode(),
    "127.0.0.1.", "127.0.0.1.:7860", "LOCALHOST.EVIL.EXAMPLE", "[::1]:0x50", "localhost:\xb2".encode(),
    "localhost:7860.evil", "user:pass@127.0.0.1", "@localhost", "localhost@", "169.254.169.254", "10.0.0.1",
    "host.docker.internal",
)  # fmt: skip


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_loopback_names_are_answered(host):
    client, _ = gated()
    assert client.get("/look", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_other_host_names_are_refused_before_routing(host):
    client, changed = gated()
    assert client.get("/look", headers={"Host": host}).status_code == 421
    assert client.post("/change", headers={"Host": host}, content=b"x").status_code == 421
    assert changed == []


def test_two_host_headers_are_refused():
    client, _ = gated()
    answer = client.get("/look", headers=[("Host", "127.0.0.1:7860"), ("Host", "evil.example")])  # type: ignore[arg-type]
    assert answer.status_code == 421


def test_a_server_that_listens_answers_to_its_names_and_to_any_address_in_numbers():
    client, _ = gated(hosts=["studio.local"], any_address=True)
    for host in ("studio.local:7860", "STUDIO.local", "192.168.0.5:7860", "[fe80::1]:7860"):
        assert client.get("/look", headers={"Host": host}).status_code == 200
    for host in (
        "user@studio.local",
        "evil.example",
        "studio.local.evil.example",
        "2130706433",
        "192.168.0.5.evil.example",
    ):
        answer = client.get("/look", headers={"Host": host})
        assert answer.status_code == 421
    assert "--host-name 192.168.0.5.evil.example" in answer.json()["message"]


FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:7861"},
    {"Origin": "http://localhost:7860"},
    {"Origin": "http://evil.127.0.0.1:7860"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "CROSS-SITE"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_nothing_changes_at_the_word_of_another_site(headers, kind):
    client, changed = gated()
    answer = client.post("/change", headers={**headers, "Content-Type": kind}, content=b"{}")
    assert answer.status_code == 403
    assert answer.json()["code"] == "refused"
    assert changed == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:7860"},
        {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
def test_our_own_page_and_programs_may_change_things(headers):
    client, changed = gated()
    assert client.post("/change", headers=headers, content=b"{}").status_code == 200
    assert changed == ["changed"]


def test_looking_is_allowed_from_anywhere_and_carries_the_headers():
    client, _ = gated()
    answer = client.get("/look", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_bodies_end_at_the_limit_announced_or_not():
    client, changed = gated(max_body=1000)
    assert client.post("/change", content=b"x" * 1000).json() == 1000
    assert client.post("/change", content=b"x" * 1001).status_code == 413
    assert client.post("/change", content=(b"x" * 300 for _ in range(10))).status_code == 413
    assert client.post("/change", headers={"Content-Length": "-5"}, content=b"x").status_code == 413
    assert changed == ["changed"]


def test_gradio_routes_that_fetch_foreign_addresses_are_closed():
    client, _ = gated()
    for path in ("/gradio_api/proxy=http://10.0.0.1/", "/gradio_api/file=https://evil.example/", "/monitoring"):
        assert client.get(path).status_code == 404
        assert client.get(path).json()["code"] == "refused"


def basic(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ann:wrong"),
        basic("ann:"),
        basic("bob:secret"),
        basic(""),
        {"Authorization": "Basic !"},
        {"Authorization": "Basic"},
        {"Authorization": "Bearer " + base64.b64encode(b"ann:secret").decode()},
    ],
    ids=str,
)
def test_with_users_nobody_else_gets_in(headers):
    client, changed = gated(users=[("ann", "secret"), ("böb", "pass:word")])
    for answer in (client.get("/look", headers=headers), client.post("/change", headers=headers, content=b"x")):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert changed == []


def test_with_users_each_of_them_gets_in():
    client, _ = gated(users=[("ann", "secret"), ("böb", "pass:word")])
    assert client.get("/look", headers=basic("ann:secret")).status_code == 200
    assert client.get("/look", headers=basic("böb:pass:word")).status_code == 200
    assert client.post("/change", headers=basic("ann:secret") | {"Origin": "null"}).status_code == 403


def test_too_many_changes_a_minute_are_told_to_wait_and_looking_is_not_counted():
    client, changed = gated(rate=Rate(3))
    answers = [client.post("/change") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert int(answers[4].headers["retry-after"]) >= 1
    assert all(client.get("/look").status_code == 200 for _ in range(20))
    assert len(changed) == 3


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.05)
    client, changed = gated()
    answers: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep(30)

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/change", "raw_path": b"/change", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:7860")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860),
        "scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(client.app, scope, receive, send)
    assert 400 <= answers[0]["status"] < 500
    assert changed == []


def test_headers_and_names_have_an_end():
    client, _ = gated()
    assert client.get("/look", headers={"X-Long": "x" * 40_000}).status_code == 431
    assert client.get("/look/" + "x" * 300).status_code == 404


def test_wrong_passwords_are_looked_at_five_times_a_minute():
    client, _ = gated(users=[("ann", "secret")])
    answers = [client.get("/look", headers=basic(f"ann:guess{k}")).status_code for k in range(8)]
    assert answers == [401] * 5 + [429] * 3
    assert client.get("/look").status_code == 401
