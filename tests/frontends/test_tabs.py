"""What the tabs' scripts are told, and what over a network is refused, without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from modules.frontends import serve
from modules.frontends.ui import extras
from modules.frontends.ui.own_forms import parts_of
from modules.schema.fields import Frozen, fact
from tests.frontends.stand_in import StandIn


@pytest.fixture(scope="module")
def desk() -> Iterator[StandIn]:
    service = StandIn(pace=0)
    yield service
    service.close()


def client(desk: StandIn, **sharing: Any) -> TestClient:
    return TestClient(serve.build_app(desk, serve.Sharing(**sharing)), base_url="http://127.0.0.1:7860")


def test_what_is_for_the_owner_is_refused_over_the_network(desk: StandIn) -> None:
    with client(desk, shared=True) as far, client(desk) as near:
        for there, local in ((far, False), (near, True)):
            assert there.get("/easel/extras").json()["local"] is local
            assert bool(there.get("/easel/merger").json()["refused"]) is not local
        answer = far.post("/model-tasks", json={"kind": "convert", "checkpoint": "x"})
        assert (answer.status_code, answer.json()["message"]) == (403, far.get("/easel/merger").json()["refused"])


def test_the_form_of_extras_is_the_schemas(desk: StandIn) -> None:
    own, *rest = extras.parts(desk)
    by_key = {option.key: option for option in own.options}
    assert by_key["upscaling_resize"].default == 4.0  # as A1111's tab, where its API has 2
    assert (by_key["upscaling_resize"].ge, by_key["upscaling_resize"].le) == (1, 8)
    assert by_key["upscaler_1"].choices[:3] == ("None", "Lanczos", "Nearest")
    assert by_key["resize_mode"].names == ("Scale by", "Scale to")
    assert "gfpgan_visibility" not in by_key  # no such model is here
    assert [part.key for part in rest] == ["split_oversized", "focal_crop", "auto_crop"]


def test_a_section_that_may_be_off_is_a_part_of_its_own() -> None:
    class Inner(Frozen):
        depth: float = fact(0.5, label="Depth", ge=0, le=1, step=0.1)

    class Outer(Frozen):
        size: int = fact(3, label="Size", ge=1, le=9, soft_le=5, step=1)
        inner: Inner | None = fact(None, label="Inside", hint="All of it.")
        secret: str = fact("", label="Secret")

    own, inside = parts_of(Outer, {"inner.depth": {"default": 0.25}}, hidden=("secret",))
    assert [(o.key, o.default, o.le) for o in own.options] == [("size", 3, 5)]
    assert (inside.key, inside.label, inside.hint, inside.on) == ("inner", "Inside", "All of it.", False)
    assert [(o.key, o.default) for o in inside.options] == [("inner.depth", 0.25)]
