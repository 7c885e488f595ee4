"""The routes of cards: lists with their mark, one card, pictures, notes; nothing is written on a shared server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modules.frontends import serve
from tests.frontends.stand_in import StandIn
from tests.service.test_cards import KEY, png
from tests.weights.tiny import write_keys

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service() -> Iterator[StandIn]:
    service = StandIn()
    write_lora(service.folders.lora / "ink.safetensors")
    service.library.scan()
    yield service
    service.close()


def write_lora(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_keys(path, {f"{KEY}.lora_down.weight": (4, 768), f"{KEY}.lora_up.weight": (320, 4)})


def client(service: StandIn, **sharing: Any) -> TestClient:
    app = serve.build_app(service, serve.Sharing(**sharing), page=False, api=False)
    return TestClient(app, base_url="http://127.0.0.1")


def test_a_list_is_sent_once(service: StandIn) -> None:
    browser = client(service)
    first = browser.get("/cards?kind=lora&checkpoint=dream")
    (entry,) = first.json()
    assert (entry["name"], entry["word"]) == ("ink", "ink")
    again = browser.get("/cards?kind=lora&checkpoint=dream", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert browser.get("/cards?kind=embedding").json() == []
    assert browser.get("/cards?kind=spoon").status_code == 422


def test_notes_and_previews_are_written_and_shown(service: StandIn) -> None:
    browser = client(service)
    (entry,) = browser.get("/cards").json()
    said = browser.post("/cards/notes", params={"path": entry["path"]}, json={"notes": "mine", "preferred_weight": 0.5})
    assert said.json()["model"]["notes"] == "mine"
    assert browser.get("/cards").json()[0]["weight"] == 0.5
    assert browser.get("/cards/picture", params={"path": entry["path"]}).status_code == 404
    told = browser.post("/cards/preview", params={"path": entry["path"]}, content=png())
    assert told.status_code == 200
    picture = browser.get("/cards/picture", params={"path": entry["path"]})
    assert picture.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(picture.content)).size == (448, 320)
    assert browser.post("/cards/preview", params={"path": entry["path"]}, content=b"no").status_code == 415
    for path in ("/etc/passwd", str(Path(entry["path"]).parent / "../../x.safetensors")):
        assert browser.post("/cards/notes", params={"path": path}, json={}).status_code == 404
        assert browser.post("/cards/preview", params={"path": path}, content=png()).status_code == 404
        assert browser.get("/cards/card", params={"path": path}).status_code == 404
    bad = browser.post("/cards/notes", params={"path": entry["path"]}, json={"preferred_weight": 1000})
    assert bad.status_code == 422


def test_a_shared_server_shows_cards_and_writes_nothing(service: StandIn) -> None:
    browser = client(service, shared=True)
    (entry,) = browser.get("/cards").json()
    folder = Path(entry["path"]).parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for route, body in (("notes", b"{}"), ("preview", png())):
        answer = browser.post(f"/cards/{route}", params={"path": entry["path"]}, content=body, headers=JSON)
        assert answer.status_code == 403
        assert "not written over the network" in answer.json()["message"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
