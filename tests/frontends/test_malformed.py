"""Requests that make no sense: refused in words, never with a 5xx, and the next job is drawn as if nothing had been.

Two thousand are made up here, ten thousand with TEST_FULL=1; schemathesis makes up its own from the OpenAPI, some for
each route.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modules.frontends import serve
from modules.frontends.api.bodies import Img2Img, Txt2Img
from modules.frontends.api.extras import ExtraSingle
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import SECTION_OF
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.service.fake_engine import Engine

FULL = bool(os.environ.get("TEST_FULL"))
COUNT = 10_000 if FULL else 2000
EXAMPLES = 50 if FULL else 3
SHIPPED = Path(__file__).parents[2] / "models" / "Stable-diffusion"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerationService]:
    folders = Folders.under(tmp_path_factory.mktemp("malformed"))
    folders = Folders(**{**vars(folders), "checkpoint_dirs": (*folders.checkpoint_dirs, SHIPPED)})
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)), most_waiting=50)
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service: GenerationService) -> Iterator[TestClient]:
    app = serve.build_app(service, page=False, flags={"api": True}, stop=lambda how: True)
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # 1 x 1
ODD: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"), "",
    " ", "null", "NaN", "1e999", "0x10", "-", "true", True, False, [], {}, [[]], [None], {"a": 1}, {"": None},
    "x" * 200_000, "\ud800", "\udfff emoji", "\0", "é" * 1000, "(" * 5000, "[" * 5000, "<lora:" * 500, "%s%n",
    "../../etc/passwd",
    "data:image/png;base64,", "data:text/html,<script>", "http://127.0.0.1:1/", "file:///etc/passwd", "====", PNG[:40],
    json.loads("[" * 60 + "]" * 60), json.loads("[" * 300 + "]" * 300), json.loads('{"a":' * 200 + "1" + "}" * 200),
    PNG, base64.b64encode(b"GIF89a" + b"\xff" * 50).decode(), ["a"] * 3000, [PNG] * 3, {"args": [1] * 1000},
)  # fmt: skip


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def bodies(rng: random.Random) -> tuple[str, bytes]:
    """(path, body) of one request that is wrong in one place or in many."""
    kinds = {
        "/sdapi/v1/txt2img": Txt2Img.model_fields, "/sdapi/v1/img2img": Img2Img.model_fields,
        "/sdapi/v1/extra-single-image": ExtraSingle.model_fields, "/jobs": GenerationRequest.model_fields,
        "/sdapi/v1/options": SECTION_OF, "/sdapi/v1/png-info": ["image"], "/sdapi/v1/interrogate": ["image", "model"],
        "/sdapi/v1/extra-batch-images": ["imageList", "upscaler_1"],
        "/internal/progress": ["id_task", "id_live_preview"],
        "/sdapi/v1/create/embedding": ["name", "num_vectors_per_token"], "/prompt/check": ["prompt", "styles", "steps"],
        "/sdapi/v1/create/hypernetwork": ["name", "enable_sizes"], "/sdapi/v1/train/embedding": ["x"],
    }  # fmt: skip
    path = rng.choice(list(kinds))
    fields = list(kinds[path])
    body: dict[Any, Any] = {"steps": 1, "width": 64, "height": 64} if "img" in path or path == "/jobs" else {}
    if path.endswith("img2img"):
        body["init_images"] = [PNG]
    for name in rng.sample(fields, min(len(fields), rng.choice([1, 1, 1, 2, 5]))):
        body[name] = rng.choice(ODD)
    text = json.dumps(body).encode()
    how = rng.randrange(12)
    if how == 0:
        text = text[: rng.randrange(len(text))]
    elif how == 1:
        text = nested(rng.choice([10, 1000, 50_000])).encode()
    elif how == 2:
        text = bytes(rng.randrange(256) for _ in range(40))
    elif how == 3:
        text = text[:-1] + b', "steps": 1, "steps": "x"}'
    elif how == 4:
        text = rng.choice([b"", b"null", b"[]", b"0", b'"x"', b"{}", b"NaN", b"\xff\xfe{", b"\xef\xbb\xbf{}"])
    return path, text


def same_picture(client: TestClient) -> str:
    body = {"prompt": "a cat", "seed": 77, "steps": 2, "width": 64, "height": 64}
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    return hashlib.sha256(answer.json()["images"][0].encode()).hexdigest()


def test_made_up_requests_never_break_anything(client: TestClient, service: GenerationService, test_seed: int) -> None:
    rng = random.Random(test_seed)
    before = same_picture(client)
    settings = service.settings
    for number in range(COUNT):
        path, body = bodies(rng)
        odd = rng.choice(["text/plain", "", "multipart/form-data", "x/y"])
        kind = "application/json" if rng.random() < 0.95 else odd
        answer = client.post(path, content=body, headers={"Content-Type": kind})
        shown = (path, body[:300], answer.status_code, answer.text[:300])
        assert answer.status_code < 500, shown
        if answer.status_code >= 400:
            told = answer.json()
            assert told["message"], shown
            assert "Traceback" not in answer.text, shown
        if path == "/sdapi/v1/options":
            service.change_settings({key: settings.option(key) for key in SECTION_OF})
        for view in service.jobs(60):
            service.cancel(view.id)
        if number % 100 == 99:
            assert same_picture(client) == before
    assert same_picture(client) == before


def test_wrong_methods_paths_and_ids_are_refused(client: TestClient) -> None:
    for path in ("/sdapi/v1/txt2img", "/jobs/x", "/events/x", "/pictures/%00", "/sdapi/v1/nothing", "/internal/x"):
        for method in ("GET", "PUT", "DELETE", "PATCH", "POST"):
            answer = client.request(method, path)
            assert 400 <= answer.status_code < 500, (method, path)
            assert answer.json()["message"]


def test_what_schemathesis_makes_up_from_the_openapi(client: TestClient, service: GenerationService) -> None:
    """Every route: no 5xx, and the answers are what the OpenAPI says."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings  # a companion of schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    async def at_home(scope: Any, receive: Any, send: Any) -> None:
        """The app, asked by a name it answers to."""
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope = {**scope, "headers": [(b"host", b"127.0.0.1"), *kept]}
        await client.app(scope, receive, send)

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    schema = schemathesis.openapi.from_asgi("/openapi.json", at_home)
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.startswith(("/events", "/queue/events", "/sdapi/v1/server-")):
            continue

        def check(case: Any) -> None:
            nonlocal tried
            answer = case.call()
            for view in service.jobs(60):
                service.cancel(view.id)
            tried += 1
            case.validate_response(answer, checks=checks)

        quiet = settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
            derandomize=True,
        )  # fmt: skip
        quiet(given(case=operation.as_strategy())(check))()
    assert tried > 50
