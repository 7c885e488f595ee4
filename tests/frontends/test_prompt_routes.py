"""Prompts checked and styles edited over HTTP."""

from __future__ import annotations

import httpx
import pytest

from tests.frontends.conftest import Served


@pytest.fixture
def client(served: Served):
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client
    for view in served.service.styles.listed().styles:
        served.service.styles.delete(view.name)


def test_prompts_are_counted_and_problems_pointed_at(client):
    found = client.post("prompt/check", json={"prompt": "cat " * 80, "negative_prompt": "a (red"}).json()
    assert (found["prompt"]["tokens"], found["prompt"]["limit"]) == (80, 150)
    assert found["prompt"]["boundaries"] == [75 * 4]
    (problem,) = found["negative_prompt"]["problems"]
    assert (problem["start"], problem["end"]) == (2, 3)
    assert client.post("prompt/check", json={}).json()["prompt"]["limit"] == 75
    headers = {"content-type": "application/json"}
    strange = client.post("prompt/check", content=b'{"prompt": "\\ud800 \\u0000 ((("}', headers=headers).json()
    assert len(strange["prompt"]["problems"]) == 3


def test_styles_are_saved_applied_and_deleted(client, served):
    saved = client.post("styles", json={"name": "a/b ü", "prompt": "photo of {prompt}", "negative_prompt": "blur"})
    assert saved.status_code == 200
    assert saved.json()["styles"] == client.get("styles").json()["styles"]
    assert (
        served.service.folders.styles_files[0].read_bytes().startswith(b"\xef\xbb\xbfname,prompt,negative_prompt\r\n")
    )
    applied = client.post("styles/apply", json={"styles": ["a/b ü", "none"], "prompt": "a cat"}).json()
    assert applied == {"prompt": "photo of a cat", "negative_prompt": "blur"}
    counted = client.post("prompt/check", json={"prompt": "a cat", "styles": ["a/b ü"]}).json()
    assert (counted["prompt"]["tokens"], counted["negative_prompt"]["tokens"]) == (4, 1)
    assert client.post("styles/delete", json={"name": "a/b ü"}).json()["styles"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("styles", {"name": "#x"}, 422, "name"),
        ("styles", {}, 422, "name"),
        ("styles/delete", {"name": "none"}, 404, None),
        ("prompt/check", {"prompt": "x" * 100_001}, 422, "prompt"),
        ("prompt/check", {"steps": 0}, 422, "steps"),
        ("styles/apply", {"styles": "x"}, 422, "styles"),
    ],
)
def test_refusals_are_sentences(client, path, body, status, field):
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["field"] == field
    assert answer.json()["message"].endswith(".")


def test_an_unreadable_styles_file_costs_a_sentence(client, served):
    path = served.service.folders.styles_files[0]
    path.write_bytes(b"\xff\xfe")
    try:
        assert client.get("styles").json()["warnings"][0].startswith("styles.csv is not UTF-8")
        answer = client.post("styles", json={"name": "new"})
        assert answer.status_code == 507
        assert path.read_bytes() == b"\xff\xfe"
    finally:
        path.unlink()
