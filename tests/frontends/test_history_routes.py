"""The routes of history and queue: what they answer, to whom, and to nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from modules.frontends.api.logins import Logins
from modules.frontends.serve import Sharing
from modules.imaging.metadata import encode
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.frontends.conftest import Served, serving
from tests.service.fake_engine import Engine
from tests.service.test_generation import wait_for


@pytest.fixture
def client(queued: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=queued.url, timeout=30) as client:
        yield client


def draw(client: httpx.Client, prompt: str = "a red house", **more: Any) -> list[str]:
    body = {"prompt": prompt, "steps": 4, "width": 64, "height": 64, **more}
    id = client.post("jobs", json=body).json()["id"]
    wait_for(lambda: client.get(f"jobs/{id}").json()["state"] == "done")
    return [image["id"] for image in client.get(f"jobs/{id}").json()["images"]]


def test_a_picture_is_found_marked_thrown_away_and_back(client: httpx.Client) -> None:
    one, other = draw(client, "a lonely boat, day", n_iter=2, seed=5)
    found = client.get("history", params={"q": "lonely", "limit": 1}).json()
    assert [picture["id"] for picture in found["pictures"]] == [other]
    behind = client.get("history", params={"q": "lonely", "after": found["next"]}).json()
    assert [picture["id"] for picture in behind["pictures"]] == [one]
    assert client.post("history/mark", json={"ids": [one], "rating": 4, "favourite": True}).json() == {"ids": [one]}
    assert client.get("history/groups", params={"q": "lonely rating:4"}).json()["total"] == 1
    assert client.get(f"history/{one}").json()["infotext"].startswith("a lonely boat, day\nSteps: 4")
    assert client.get("history/compare", params={"one": one, "other": other}).json()["words"] == "seed 5 → 6"
    assert len(client.get(f"history/{one}/lineage").json()["beside"]) == 1
    assert client.post("history/delete", json={"ids": [one]}).json() == {"ids": [one]}
    assert client.get("history", params={"q": "lonely", "shelf": "trash"}).json()["pictures"][0]["id"] == one
    assert client.get(f"pictures/{one}").status_code == 200
    assert client.post("history/restore", json={"ids": [one]}).json() == {"ids": [one]}
    small = client.get(f"pictures/{one}/thumbnail")
    assert (small.status_code, small.headers["content-type"]) == (200, "image/webp")
    assert "sandbox" in small.headers["content-security-policy"]


def test_what_a_picture_was_drawn_from_is_served(client: httpx.Client) -> None:
    png = encode(Image.new("RGB", (64, 64), "blue"), None)
    (origin,) = draw(client)
    name = client.post("inputs", content=png, params={"origin": origin}).json()["id"]
    (child,) = draw(client, "over", source={"images": [name]})
    source = client.get(f"history/sources/{name}")
    assert (source.content, source.headers["content-type"]) == (png, "image/png")
    assert "sandbox" in source.headers["content-security-policy"]
    assert client.get(f"history/sources/{name}/thumbnail").headers["content-type"] == "image/webp"
    came = client.get(f"history/{child}/lineage").json()["came_from"]
    assert [relative["picture"]["id"] for relative in came] == [origin]
    assert client.get(f"history/sources/{'0' * 64}").status_code == 404
    assert client.get("history/sources/..%2f..%2fetc%2fpasswd").status_code in (404, 422)


def test_a_folder_is_imported(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(
        encode(Image.new("RGB", (64, 64)), "imported thing\nSteps: 1, Seed: 3, Size: 64x64")
    )
    assert client.post("history/import", json={"folder": str(tmp_path)}).status_code == 202
    wait_for(lambda: client.get("history/import").json()["state"] == "done")
    assert client.get("history/import").json()["added"] == 1
    (picture,) = client.get("history", params={"q": "imported thing"}).json()["pictures"]
    assert (
        client.get(f"pictures/{picture['id']}", params={"download": True}).content
        == (tmp_path / "one.png").read_bytes()
    )
    assert client.post("history/import", json={"folder": "/nowhere"}).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "history?limit=0", None),
        ("GET", "history?sort=best", None),
        ("GET", "history?after=x", None),
        ("GET", "history?sort=rated&after=x|1|1", None),
        ("GET", "history?offset=-1", None),
        ("GET", "history/none", None),
        ("GET", "history/none/lineage", None),
        ("GET", "history/compare?one=a&other=b", None),
        ("POST", "history/mark", {"ids": ["none"], "rating": 3}),
        ("POST", "history/mark", {"ids": [], "rating": 3}),
        ("POST", "history/mark", {"ids": ["a" * 100_000], "rating": 99}),
        ("POST", "history/delete", {"ids": "none"}),
        ("POST", "history/restore", {}),
        ("POST", "history/import", {"folder": "\0"}),
        ("POST", "history/import", {"folder": "x" * 10_000}),
        ("POST", "jobs/none/again", None),
        ("GET", "pictures/none/thumbnail", None),
    ],
)
def test_nonsense_is_refused_in_a_sentence(client: httpx.Client, method: str, path: str, more: Any) -> None:
    answer = client.request(method, path, json=more)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["message"]


def test_the_queue_is_told_as_it_changes(client: httpx.Client, queued: Served) -> None:
    assert client.post("queue/hold").json()["held"]
    jobs = [client.post("jobs", json={"prompt": f"{n} step=0.1", "steps": 4}).json()["id"] for n in range(3)]
    told: list[dict[str, Any]] = []
    ready = threading.Event()

    def listen() -> None:
        with httpx.stream("GET", f"{queued.url}queue/events", timeout=30) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
                    ready.set()
                    if told[-1]["kind"] == "queue" and not told[-1]["queue"]["jobs"]:
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(20)
    assert [job["id"] for job in told[0]["queue"]["jobs"]] == jobs
    assert client.post(f"jobs/{jobs[2]}/move", json={"before": jobs[0]}).status_code == 202
    assert client.post(f"jobs/{jobs[1]}/pause").status_code == 202
    wait_for(lambda: [(j["id"], j["state"]) for j in told[-1].get("queue", {}).get("jobs", [])]
             == [(jobs[2], "queued"), (jobs[0], "queued"), (jobs[1], "paused")])  # fmt: skip
    assert not client.post("queue/release").json()["held"]
    wait_for(lambda: client.get(f"jobs/{jobs[0]}").json()["state"] == "done")
    started = {id: client.get(f"jobs/{id}").json()["started"] for id in (jobs[2], jobs[0])}
    assert started[jobs[2]] < started[jobs[0]]
    client.post(f"jobs/{jobs[1]}/resume")
    thread.join(20)
    assert not thread.is_alive()
    assert any(one["running"] for one in told)
    again = client.post(f"jobs/{jobs[1]}/again").json()["id"]
    assert client.get(f"jobs/{again}").json()["request"]["prompt"] == "1 step=0.1"
    wait_for(lambda: client.get(f"jobs/{again}").json()["state"] == "done")
    assert client.get("queue").json()["ended"][0]["id"] == again


def test_others_are_only_a_number(tmp_path: Path) -> None:
    folders = Folders.under(tmp_path)
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    sharing = Sharing(logins=Logins((("anna", "one"), ("ben", "two"))), shared=True)
    with serving(service, sharing=sharing, page=False) as served:

        def user(name: str, password: str) -> Callable[..., Any]:
            def ask(method: str, path: str, body: Any = None) -> Any:
                answer = httpx.request(method, served.url + path, json=body, auth=(name, password), timeout=30)
                return answer.json() if answer.is_success else answer.status_code

            return ask

        anna, ben = user("anna", "one"), user("ben", "two")
        slow = {"prompt": "step=0.05", "steps": 10, "width": 64, "height": 64}
        for ask in (ben, anna):
            ask("POST", "queue/hold")
        bens = [ben("POST", "jobs", slow)["id"] for _ in range(2)]
        annas = anna("POST", "jobs", {**slow, "prompt": "anna"})["id"]
        assert [job["id"] for job in anna("GET", "queue")["jobs"]] == [annas]
        assert anna("GET", "queue")["others_before"] == 1  # they take turns
        assert ben("GET", "queue")["others_before"] == 0
        assert anna("POST", f"jobs/{bens[0]}/move", {"before": annas}) == 404
        assert anna("POST", f"jobs/{bens[0]}/again") == 404
        anna("POST", "queue/release")
        wait_for(lambda: anna("GET", f"jobs/{annas}")["state"] == "done")
        assert {job["state"] for job in ben("GET", "queue")["jobs"]} == {"queued"}  # ben's queue is still held
        (picture,) = anna("GET", "history")["pictures"]
        assert ben("GET", "history")["pictures"] == []
        assert ben("GET", f"history/{picture['id']}") == ben("GET", f"pictures/{picture['id']}/thumbnail") == 404
        assert ben("POST", "history/delete", {"ids": [picture["id"]]}) == 404
        assert anna("POST", "history/import", {"folder": str(tmp_path)}) == 403
