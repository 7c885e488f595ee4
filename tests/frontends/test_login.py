"""With --gradio-auth nothing is answered without a name and its password."""

from __future__ import annotations

import base64

import pytest
from starlette.testclient import TestClient

from modules.frontends.api.logins import Logins
from modules.frontends.serve import Sharing, build_app
from tests.frontends.stand_in import StandIn

PATHS = ["/", "/health", "/jobs", "/config", "/gradio_api/info", "/openapi.json", "/easel/easel.js", "/events/x"]


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = build_app(StandIn(), Sharing(logins=Logins([("anna", "sesame:1"), ("bo", "pä")], tries=1000)))
    return TestClient(app, base_url="http://127.0.0.1")


def basic(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("anna:wrong"),
        basic("anna:"),
        basic("bo:sesame:1"),
        basic(""),
        {"Authorization": "Basic ???"},
        {"Authorization": "Bearer sesame:1"},
        {"Authorization": "Basic"},
    ],
)
def test_no_door_opens_without_a_login(client: TestClient, path: str, headers: dict[str, str]) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert "password" in answer.json()["message"]


@pytest.mark.parametrize("login", ["anna:sesame:1", "bo:pä"])
def test_each_user_gets_in(client: TestClient, login: str) -> None:
    assert client.get("/health", headers=basic(login)).status_code == 200
    assert client.get("/", headers=basic(login)).status_code == 200


def test_changes_need_it_too(client: TestClient) -> None:
    assert client.post("/jobs", json={"prompt": "x"}).status_code == 401
    assert client.post("/jobs", json={"prompt": "x"}, headers=basic("anna:sesame:1")).status_code == 201
