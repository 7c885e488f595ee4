"""The native routes over real HTTP: submit, follow, come back in the middle, fetch the picture."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.frontends.conftest import Served


@pytest.fixture
def client(served: Served):
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client
    served.service.release()


def submit(client: httpx.Client, **values) -> str:
    answer = client.post("jobs", json={"steps": 4, "width": 64, "height": 64, **values})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"jobs/{answer.json()['id']}"
    return answer.json()["id"]


def follow(client: httpx.Client, id: str, most: int = 10_000, **options) -> list[tuple[int, dict]]:
    """(id, data) of up to `most` server-sent events."""
    found, number = [], 0
    with client.stream("GET", f"events/{id}", **options) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                found.append((number, json.loads(line[6:])))
                if len(found) == most:
                    break
    return found


def finished(client: httpx.Client, id: str) -> dict:
    follow(client, id)
    return client.get(f"jobs/{id}").json()


def test_a_job_is_followed_from_submit_to_picture(client, test_seed):
    id = submit(client, prompt="a cat", seed=test_seed, n_iter=2)
    events = follow(client, id)
    kinds = [event["kind"] for _, event in events]
    assert kinds[:2] == ["queued", "started"]
    assert kinds.count("image") == 2
    assert kinds[-2:] == ["done", "end"]
    numbers = [number for number, event in events if event["kind"] not in ("preview", "end")]
    assert numbers == sorted(set(numbers))
    view = client.get(f"jobs/{id}").json()
    assert (view["state"], view["progress"], len(view["images"])) == ("done", 1.0, 2)

    picture = client.get(f"pictures/{view['images'][1]['id']}")
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["content-disposition"] == (
        f"inline; filename=\"00001-{test_seed + 1}.png\"; filename*=UTF-8''00001-{test_seed + 1}.png"
    )
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in picture.headers["content-security-policy"]
    assert Image.open(io.BytesIO(picture.content)).size == (64, 64)
    saved = client.get(f"pictures/{view['images'][1]['id']}?download=true")
    assert saved.headers["content-disposition"].startswith("attachment; ")


def test_thumbnails_are_small(client):
    view = finished(client, submit(client, width=1024, height=512))
    small = client.get(f"pictures/{view['images'][0]['id']}/thumbnail")
    assert small.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(small.content)).size == (384, 192)


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_follower_that_was_cut_off_goes_on_where_it_was(client, how):
    id = submit(client)
    seen = [(n, e) for n, e in follow(client, id, most=5) if e["kind"] != "preview"]
    last = seen[-1][0]
    options: dict[str, Any] = (
        {"headers": {"Last-Event-ID": str(last)}} if how == "header" else {"params": {"after": last}}
    )
    rest = [(n, e) for n, e in follow(client, id, **options) if e["kind"] not in ("preview", "end")]
    assert all(n > last for n, _ in rest)
    everything = [(n, e) for n, e in follow(client, id) if e["kind"] not in ("preview", "end")]
    assert seen + rest == everything


def test_previews_are_pictures_while_the_job_runs(client, served):
    served.service.hold(3)
    id = submit(client, steps=20, width=256, height=128)
    event = next(e for _, e in follow(client, id, most=6) if e["kind"] == "preview")
    preview = client.get(event["url"])
    assert preview.headers["content-type"] == "image/jpeg"
    assert preview.headers["cache-control"] == "no-store"
    assert Image.open(io.BytesIO(preview.content)).size == (64, 32)
    client.post(f"jobs/{id}/cancel")
    assert finished(client, id)["state"] == "cancelled"


def test_cancel_ends_the_running_and_the_waiting_job(client, served):
    served.service.hold(3)
    first, second = submit(client, steps=100), submit(client, steps=100)
    assert client.get(f"jobs/{second}").json()["position"] >= 1
    assert client.post(f"jobs/{second}/cancel").status_code == 202
    assert client.post(f"jobs/{first}/cancel").status_code == 202
    assert finished(client, first)["state"] == finished(client, second)["state"] == "cancelled"


def test_skip_goes_on_with_the_next_picture(client, served):
    served.service.hold(3)
    id = submit(client, steps=60, n_iter=2)
    follow(client, id, most=4)
    assert client.post(f"jobs/{id}/skip").status_code == 202
    served.service.release()
    view = finished(client, id)
    assert view["state"] == "done"
    assert view["step"] < 120


def test_a_failed_job_says_why(client):
    view = finished(client, submit(client, prompt="fail"))
    assert view["state"] == "failed"
    assert "ran out of memory" in view["error"]


def test_jobs_are_listed_newest_first(client):
    ids = [submit(client, steps=1) for _ in range(3)]
    assert [view["id"] for view in client.get("jobs", params={"limit": 3}).json()] == ids[::-1]
    finished(client, ids[-1])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("GET", "jobs/none", None, 404, "not_found", None),
        ("GET", "events/none", None, 404, "not_found", None),
        ("GET", "jobs/none/preview", None, 404, "not_found", None),
        ("GET", "pictures/none", None, 404, "not_found", None),
        ("GET", "pictures/none/thumbnail", None, 404, "not_found", None),
        ("POST", "jobs/none/cancel", None, 404, "not_found", None),
        ("POST", "jobs/none/skip", None, 404, "not_found", None),
        ("POST", "jobs", {"steps": 0}, 422, "bad_request", "steps"),
        ("POST", "jobs", {"promt": ""}, 422, "bad_request", "promt"),
        ("POST", "jobs", [], 422, "bad_request", None),
        ("GET", "jobs?limit=0", None, 422, "bad_request", "limit"),
        ("GET", "easel/nothing.js", None, 404, "not_found", None),
    ],
)
def test_errors_are_json_with_code_message_and_field(client, method, path, body, status, code, field):
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    said = answer.json()
    assert (said["code"], said["field"]) == (code, field)
    assert said["message"].endswith(".")


def test_health_answers(client):
    assert client.get("health").json()["status"] == "ok"


def test_the_page_and_its_files_are_served(client):
    page = client.get("")
    assert page.status_code == 200
    assert "<title>" in page.text or "Easel" in page.text
    for name, kind in (("easel.css", "text/css"), ("easel.js", "text/javascript"), ("easel.svg", "image/svg+xml")):
        answer = client.get(f"easel/{name}")
        assert answer.headers["content-type"].startswith(kind)


def test_files_of_this_machine_are_not_served(client):
    for path in ("/etc/passwd", "pyproject.toml", "../../etc/passwd"):
        assert client.get(f"gradio_api/file={path}").status_code in (400, 403, 404)
