"""Extensions through the API: listed, described, and asked for by place, by name and by an infotext."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modules.frontends import serve
from modules.schema.folders import Folders
from modules.service.freezing import Freeze
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.extending import SECTION, write_extension
from tests.frontends.test_sdapi import SHIPPED, SMALL, ask
from tests.service.fake_engine import Engine


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerationService]:
    folders = Folders.under(tmp_path_factory.mktemp("extensions"))
    folders = Folders(**{**vars(folders), "checkpoint_dirs": (*folders.checkpoint_dirs, SHIPPED)})
    assert folders.extensions is not None
    more = '[[section.fields]]\nname = "kind"\nlabel = "Kind"\nkind = "dropdown"\ndefault = "fine"\n'
    more += 'choices = ["fine", "coarse"]\n'
    write_extension(folders.extensions, "grain", "", SECTION + more, name="Film grain")
    write_extension(
        folders.extensions,
        "other",
        "",
        'needs = ["net"]\n' + SECTION.replace("[section]", "[section]\ntabs = ['img2img']"),
    )
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    service.change_settings(service.extensions.switched(["grain"]))
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service: GenerationService) -> Iterator[TestClient]:
    with TestClient(serve.build_app(service, page=False), base_url="http://127.0.0.1:7860") as client:
        yield client


def test_extensions_are_listed_as_a1111_does(client: TestClient) -> None:
    grain, other = client.get("/sdapi/v1/extensions").json()
    assert grain == {
        "name": "grain", "remote": "", "branch": "", "commit_hash": "", "version": "1.2", "commit_date": "",
        "enabled": True,
    }  # fmt: skip
    assert (other["name"], other["enabled"]) == ("other", False)


def test_sections_of_those_that_are_on_are_scripts_that_always_run(client: TestClient) -> None:
    for tab in ("txt2img", "img2img"):
        assert client.get("/sdapi/v1/scripts").json()[tab][-1] == "film grain"
    info = [item for item in client.get("/sdapi/v1/script-info").json() if item["name"] == "film grain"]
    assert [item["is_img2img"] for item in info] == [False, True]
    assert all(item["is_alwayson"] for item in info)
    strength, kind = info[0]["args"]
    assert strength == {
        "name": "strength", "label": "Strength", "value": 0.5, "minimum": 0, "maximum": 1, "step": 0.05, "choices": None
    }  # fmt: skip
    assert (kind["value"], kind["choices"]) == ("fine", ["fine", "coarse"])


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        ({"Film grain": {"args": [0.25, "coarse"]}}, {"strength": 0.25, "kind": "coarse"}),
        ({"grain": {"args": [None, "coarse"]}}, {"strength": 0.5, "kind": "coarse"}),
        ({"GRAIN": {"args": {"strength": "1"}}}, {"strength": 1.0, "kind": "fine"}),
        ({"film grain": {"args": []}}, {"strength": 0.5, "kind": "fine"}),
        ({"film grain": {}}, {"strength": 0.5, "kind": "fine"}),
    ],
)
def test_arguments_arrive_by_place_and_by_name(
    asked: dict[str, Any], values: dict[str, Any], client: TestClient, service: GenerationService
) -> None:
    ask(client, "txt2img", alwayson_scripts=asked, **SMALL)
    assert service.jobs(1)[0].request.extensions == {"grain": values}


def test_an_infotext_brings_its_sections_and_the_body_wins(client: TestClient, service: GenerationService) -> None:
    text = "a\nSteps: 2, Seed: 1, Film grain Strength: 0.25, Film grain Kind: coarse, Extensions: Film grain 1.2"
    ask(client, "txt2img", infotext=text, **SMALL)
    assert service.jobs(1)[0].request.extensions == {"grain": {"strength": 0.25, "kind": "coarse"}}
    ask(client, "txt2img", infotext=text, alwayson_scripts={"grain": {"args": [0.75]}}, **SMALL)
    assert service.jobs(1)[0].request.extensions == {"grain": {"strength": 0.75, "kind": "fine"}}
    ask(client, "txt2img", infotext="a\nSteps: 2, Seed: 1", **SMALL)
    assert service.jobs(1)[0].request.extensions == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"other": {"args": []}}, "not found"),
        ({"grain": {"args": [0.1, "fine", 3]}}, "takes 2 arguments, 3 were sent"),
        ({"grain": {"args": [5]}}, "Strength is a number from 0 to 1"),
        ({"grain": {"args": {"size": 1}}}, "no field called 'size'"),
        ({"grain": {"args": "x"}}, "by place, or an object"),
        ({"grain": 3}, "by place, or an object"),
    ],
)
def test_what_no_extension_takes_is_refused(asked: dict[str, Any], said: str, client: TestClient) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"alwayson_scripts": asked, **SMALL})
    assert answer.status_code == 422
    assert said in answer.text


def test_the_api_does_not_switch_extensions_on(client: TestClient, service: GenerationService) -> None:
    told = client.get("/sdapi/v1/options").json()
    assert told["enabled_extensions"] == {"grain": []}
    assert client.post("/sdapi/v1/options", json=told | {"enabled_extensions": {"other": ["net"]}}).status_code == 200
    assert [each.key for each in service.extensions.active()] == ["grain"]
    body = {"override_settings": {"enabled_extensions": {"other": ["net"]}}, **SMALL}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
    body = {"override_settings": {"disable_all_extensions": "all"}, **SMALL}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 422


def page_of(service: GenerationService) -> TestClient:
    return TestClient(serve.build_app(service, page=True), base_url="http://127.0.0.1:7860")


def test_a_tab_that_fails_shows_its_reason_and_the_page_is_there(tmp_path: Path) -> None:
    folders = Folders.under(tmp_path)
    assert folders.extensions is not None
    tabs = {
        "raises": "import gradio\n\ndef build(own):\n    gradio.Textbox()\n    raise ValueError('not today')\n",
        "torch": "import torch\n\ndef build(own):\n    pass\n",
        "broken": "def build(:",
        "empty": "",
        "leaves": "raise SystemExit(2)",
    }
    for key, code in tabs.items():
        write_extension(folders.extensions, key, None, f'[tab]\ntitle = "T {key}"', tab=code)
    write_extension(folders.extensions, "missing", None, '[tab]\ntitle = "T missing"')
    write_extension(folders.extensions, "off", None, '[tab]\ntitle = "T off"', tab="raise SystemExit(3)")
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    try:
        service.change_settings(service.extensions.switched([*tabs, "missing"]))
        with page_of(service) as client:
            told = client.get("/config").text
        for key, said in (
            ("raises", "ValueError: not today"), ("torch", "imports torch"), ("broken", "SyntaxError"),
            ("empty", "no function build"), ("leaves", "SystemExit: 2"), ("missing", "cannot be read"),
        ):  # fmt: skip
            assert f'"T {key}"' in told
            assert said in told
        assert '"T off"' not in told
    finally:
        service.close()


def test_the_list_switches_with_what_was_shown_alone(tmp_path: Path) -> None:
    folders = Folders.under(tmp_path)
    assert folders.extensions is not None
    write_extension(folders.extensions, "one", "", 'needs = ["net"]')
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    try:
        with page_of(service) as client:
            (row,) = client.get("/easel/extensions").json()["rows"]
            assert (row["on"], row["needs"]) == (
                False, [{"name": "net", "about": "talks to other machines", "new": True}],
            )  # fmt: skip
            answer = client.post("/easel/extensions", json={"on": {"one": []}})
            assert (answer.status_code, "needs net" in answer.text) == (422, True)
            (row,) = client.post("/easel/extensions", json={"on": {"one": ["net"]}}).json()["rows"]
            assert (row["on"], row["needs"][0]["new"]) == (True, False)
            service.freeze = Freeze.of({}, extension_access=False)
            assert "insecure" in client.get("/easel/extensions").json()["frozen"]
            for body in ({"on": {}}, {"on": {"one": ["net"]}}, {"on": {"one": ["net"]}, "disabled": "all"}):
                assert client.post("/easel/extensions", json=body).status_code == 422
            assert service.extensions.active() != []
    finally:
        service.close()


def test_settings_of_its_own_are_a_section_of_the_settings(tmp_path: Path) -> None:
    folders = Folders.under(tmp_path)
    assert folders.extensions is not None
    own = SECTION.replace("[section]", "").replace("[[section.fields]]", "[[settings]]")
    write_extension(folders.extensions, "one", "", own, name="The one")
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    try:
        with page_of(service) as client:
            assert "The one" not in [part["name"] for part in client.get("/easel/settings").json()]
            service.change_settings(service.extensions.switched(["one"]))
            part = client.get("/easel/settings").json()[-1]
            assert (part["name"], part["options"][0]["key"], part["options"][0]["value"]) == (
                "The one", "one/strength", 0.5,
            )  # fmt: skip
            changed = client.post("/easel/settings", json={"one/strength": "0.25", "jpeg_quality": 70}).json()
            assert changed[-1]["options"][0]["value"] == 0.25
            assert service.settings.extensions.extension_settings == {"one": {"strength": 0.25}}
            assert service.settings.saving.jpeg_quality == 70
            for key, value in (("one/strength", 3), ("one/x", 1), ("two/strength", 0.5), ("enabled_extensions", {})):
                assert client.post("/easel/settings", json={key: value, "jpeg_quality": 30}).status_code == 422
            assert service.settings.saving.jpeg_quality == 70
    finally:
        service.close()
