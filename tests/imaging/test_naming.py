"""Patterns and paths."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.imaging.naming import (
    NameFields,
    clean_component,
    clean_path,
    expand,
    fields_of,
    next_number,
    resolve_under,
)
from modules.schema.errors import BadRequest
from modules.schema.plan import Plan
from modules.schema.record import CheckpointView
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings

NOW = datetime(2026, 11, 20, 13, 5, 9, tzinfo=timezone.utc)
FIELDS = NameFields(prompt="A red house", seed=3, seeds=(3, 4), now=NOW, job_started=NOW, batch_size=2, batch_index=1)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[date]", "2026-11-20"),
        ("[datetime]", "20261120130509"),
        ("[datetime<%H-%M>]", "13-05"),
        ("[datetime<%H><Asia/Tokyo>]", "22"),
        ("[datetime<%H><No/Where>]", "13"),
        ("[datetime<%H><../../etc/passwd>]", "13"),
        ("[job_timestamp]", "20261120130509"),
        ("[seed_first]-[seed_last]", "3-4"),
        ("x[batch_number]", "x2"),
        ("[generation_number]", "2"),
        ("[hasprompt<RED|no><blue|sky>]", "redsky"),
        ("[prompt_hash<4>]", "38ee"),
        ("[prompt_hash<x>]", "[prompt_hash]"),
        ("[nothing<a><b>]", "[nothing]"),
        ("[image_hash]", "[image_hash]"),
        ("[styles]", "None"),
        ("a/b-[none]", "a/b-"),
        ("[vae_filename]", "NoneType"),
        ("x-[denoising]y", "y"),
        ("", ""),
    ],
)
def test_patterns(pattern: str, expected: str) -> None:
    assert expand(pattern, FIELDS) == expected


@pytest.mark.parametrize("limit", [1, 20, 128, 200])
def test_each_text_of_a_pattern_is_cut(limit):
    fields = replace(FIELDS, prompt="x" * 500, seed=12345)
    assert expand("[seed]-[prompt]", fields, limit=limit) == f"12345-{'x' * limit}"


def test_the_fields_of_a_plan() -> None:
    checkpoint = CheckpointView(
        name="postcards", title="t", path="p", size=1, family="sd15", resolution=(256, 256), sha256="ab" * 32
    )
    request = GenerationRequest(prompt="house", batch_size=2, n_iter=2, styles=("S",))
    plan = Plan(
        request=request, settings=Settings(), checkpoint=checkpoint, sampler="Euler", scheduler="SGM Uniform",
        prompts=("house, fine",) * 4, negative_prompts=("",) * 4, seeds=(5, 6, 7, 8), subseeds=(0, 0, 0, 0),
    )  # fmt: skip
    pattern = (
        "[seed] [generation_number] [batch_number] [model_name] [model_hash] [sampler_scheduler] [prompt_no_styles]"
    )
    assert expand(pattern, fields_of(plan, 3)) == "8 4 2 postcards ababababab Euler Sgm uniform house"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60), st.text(max_size=30))
def test_any_pattern_and_prompt_make_a_path_below(pattern: str, prompt: str) -> None:
    text = expand(pattern, NameFields(prompt=prompt))
    path = clean_path(text)
    assert not path.is_absolute()
    assert ".." not in path.parts
    if path.parts:
        assert resolve_under(Path("/data"), path.as_posix()).is_relative_to("/data")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=400), st.integers(20, 255))
def test_a_clean_component_is_portable_and_short(text: str, limit: int) -> None:
    name = clean_component(text, limit)
    assert len(name.encode()) <= limit
    assert "/" not in name
    assert name == clean_component(name, limit)
    if name:
        assert PureWindowsPath(name).name == name
        assert not name.endswith((" ", "."))


HOSTILE = [
    "..", "../x", "a/../../b", "/etc/passwd", "//host/x", "\\\\host\\x", "a\\..\\b", "a:b", "\\\\?\\C:\\",
    "C:x", "con", "a/NUL.txt", "x\0y", "a/.. /b", "trailing.", "trailing ", "a//../..", "\ud800", "", "a\nb",
    "C:/x", "lpt1.png",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        resolve_under(tmp_path, name)


def test_links_out_of_the_root_are_refused_and_those_inside_are_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "in").symlink_to(root / "real")
    (root / "out").symlink_to(tmp_path)
    assert resolve_under(root, "in/x.png") == root / "in" / "x.png"
    with pytest.raises(BadRequest, match="leads out"):
        resolve_under(root, "out/x.png")
    (tmp_path / "alias").symlink_to(root)
    assert resolve_under(tmp_path / "alias", "real/x.png").parent.samefile(root / "real")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.png", "C:", "\\", "~", "x\0", "nul", "…"]), max_size=6))
def test_a_resolved_path_lies_below_the_root(parts: list[str]) -> None:
    try:
        path = resolve_under(Path("/data/root"), "/".join(parts))
    except BadRequest:
        return
    assert os.path.normpath(path).startswith("/data/root")


def test_numbers_are_read_from_names_of_all_kinds(tmp_path: Path) -> None:
    assert next_number(tmp_path) == 0
    assert next_number(tmp_path / "missing") == 0
    for name in (
        "00007-1.png",
        "12.txt",
        "x-99.png",
        "grid-0030-a.png",
        "٣٣-1.png",
        "-5.png",
        "99999999999999999-1.png",
    ):
        (tmp_path / name).touch()
    assert next_number(tmp_path) == 13
    assert next_number(tmp_path, "grid") == 31


def test_names_are_cut_between_letters_not_within() -> None:
    assert clean_component("e\u0301" * 50, 19) == "e\u0301" * 6
    assert clean_component("\U0001f3f3\ufe0f" * 9, 12) == "\U0001f3f3\ufe0f"
    assert clean_component("a\u200db" * 9, 4) == "a"
