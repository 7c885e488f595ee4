"""The native job API over HTTP: submit once, reorder, hold, skip, cancel, follow from anywhere, count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from modules.frontends import serve
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.service.fake_engine import Engine

SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerationService]:
    folders = Folders.under(tmp_path_factory.mktemp("native"))
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)), most_waiting=4)
    yield service
    service.close()


@pytest.fixture
def client(service: GenerationService) -> Iterator[TestClient]:
    with TestClient(serve.build_app(service, page=False), base_url="http://127.0.0.1") as client:
        yield client


def submit(client: TestClient, key: str | None = None, **body: Any) -> str:
    answer = client.post("/jobs", json={**SMALL, **body}, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"jobs/{answer.json()['id']}"
    return answer.json()["id"]


def ended(service: GenerationService, job: str) -> Any:
    for _ in service.follow(job):
        pass
    return service.job(job)


def metrics(client: TestClient) -> dict[str, float]:
    """The samples of /metrics; fails where a line is not in Prometheus' text format."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, declared = {}, set()
    for line in answer.text.splitlines():
        if line.startswith("#"):
            declared.add(re.fullmatch(r"# (?:HELP|TYPE) (\w+) .+", line).group(1))  # type: ignore[union-attr]
            continue
        sample = re.fullmatch(r'(\w+)(\{\w+="[^"\\]*"\})? (\S+)', line)
        assert sample is not None, line
        assert sample.group(1) in declared
        found[sample.group(1) + (sample.group(2) or "")] = float(sample.group(3))
    return found


def test_jobs_are_sent_once_reordered_held_and_counted(client: TestClient, service: GenerationService) -> None:
    before = metrics(client)
    slow = submit(client, prompt="step=0.03", steps=60)
    first, second, third = (submit(client, key=f"key {k}", seed=k) for k in range(3))
    assert submit(client, key="key 1", seed=1) == second
    assert [view["id"] for view in client.get("/jobs").json()] == [third, second, first, slow]
    assert client.post(f"/jobs/{first}/pause").status_code == 202
    assert client.post(f"/jobs/{third}/move", json={"before": second}).status_code == 202
    assert client.get(f"/jobs/{third}").json()["position"] < client.get(f"/jobs/{second}").json()["position"]
    assert client.get(f"/jobs/{first}").json()["state"] == "paused"
    counted = metrics(client)
    assert (counted['easel_jobs{state="running"}'], counted['easel_jobs{state="queued"}']) == (1, 2)
    assert (counted['easel_jobs{state="paused"}'], counted["easel_drawing"]) == (1, 1)
    client.post(f"/jobs/{slow}/cancel")
    assert ended(service, slow).state == "cancelled"
    assert (ended(service, third).finished or 0) <= (ended(service, second).started or 0)
    assert service.job(first).state == "paused"
    client.post(f"/jobs/{first}/resume")
    assert ended(service, first).state == "done"
    after = metrics(client)
    assert after["easel_pictures_total"] - before["easel_pictures_total"] == 3
    assert after['easel_jobs{state="done"}'] == 3
    again = client.post(f"/jobs/{first}/again").json()["id"]
    assert again != first
    assert ended(service, again).images[0].seed == service.job(first).images[0].seed


def test_a_running_job_is_not_held_and_a_skip_costs_a_picture(client: TestClient, service: GenerationService) -> None:
    job = submit(client, prompt="step=0.03", steps=20, n_iter=2)
    while service.job(job).step < 2:
        pass
    for action in ("pause", "resume"):
        answer = client.post(f"/jobs/{job}/{action}")
        assert answer.status_code == 422
        assert "only jobs that wait" in answer.json()["message"]
    assert client.post(f"/jobs/{job}/skip").status_code == 202
    assert [image.index for image in ended(service, job).images] == [1]


def test_a_follower_goes_on_behind_any_event(client: TestClient, service: GenerationService) -> None:
    job = submit(client, n_iter=2)
    ended(service, job)
    text = client.get(f"/events/{job}").text
    ids = [int(found) for found in re.findall(r"^id: (\d+)$", text, re.MULTILINE)]
    assert len(ids) >= 4
    assert ids == sorted(ids)
    kinds = [json.loads(data)["kind"] for data in re.findall(r"^data: (.+)$", text, re.MULTILINE)]
    assert kinds[0] == "queued"
    assert kinds[-1] in ("done", "end")
    for id in ids:
        rest = client.get(f"/events/{job}", headers={"Last-Event-ID": str(id)}).text
        assert [int(found) for found in re.findall(r"^id: (\d+)$", rest, re.MULTILINE)] == [k for k in ids if k > id]


def test_too_many_waiting_jobs_are_told_so(client: TestClient) -> None:
    submit(client, prompt="step=0.05", steps=100)
    codes = {client.post("/jobs", json=SMALL).status_code for _ in range(8)}
    assert codes == {201, 429}
    assert "most at once" in client.post("/jobs", json=SMALL).json()["message"]


def test_the_documentation_is_complete(client: TestClient) -> None:
    """Every route that is not left out on purpose is described, with what it answers."""
    told = client.get("/openapi.json").json()["paths"]
    for path, methods in told.items():
        for method, operation in methods.items():
            good = [code for code in operation["responses"] if code.startswith("2")]
            assert good, (method, path)
            assert "4XX" in operation["responses"] or path in ("/health", "/metrics"), (method, path)
    for path in ("/events/{id}", "/queue/events"):
        assert set(told[path]["get"]["responses"]["200"]["content"]) == {"text/event-stream"}
