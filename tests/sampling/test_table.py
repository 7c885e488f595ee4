"""Names: the lists of the server, old and fused names, nearest names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modules.sampling import samplers, schedules
from modules.sampling.table import (
    AUTOMATIC,
    SAMPLER_NAMES,
    SAMPLERS,
    SCHEDULE_LABELS,
    SCHEDULES,
    find_sampler,
    find_schedule,
    normalise,
    resolve,
    sampler_words,
)
from modules.schema.errors import NotFound
from modules.schema.settings import Sampling

A1111_ORDER = (
    *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler"),
    *("LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC"),
    "LCM",
)
A1111_SCHEDULES = (
    *("Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal"),
    *("Align Your Steps", "Simple", "Normal", "DDIM", "Beta"),
)


def test_lists_begin_as_the_original_ones() -> None:
    assert SAMPLER_NAMES[:20] == A1111_ORDER
    assert SCHEDULE_LABELS[:12] == A1111_SCHEDULES
    assert len(set(SAMPLER_NAMES)) == len(SAMPLERS)
    assert len({row.name for row in SCHEDULES}) == len(SCHEDULES) == len(set(SCHEDULE_LABELS))


def test_the_lists_need_no_torch() -> None:
    code = "import modules.sampling.table, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_row_has_its_function_and_reads_only_options_there_are() -> None:
    fields = set(Sampling.model_fields) | {"eta"}
    for row in SAMPLERS:
        assert samplers.load(row).__module__ == "modules.sampling.samplers"
        assert samplers.load(row).__doc__
        assert set(row.reads) <= fields
        if row.scheduler:
            assert find_schedule(row.scheduler).name == row.scheduler
    for schedule in SCHEDULES:
        assert set(schedule.reads) <= fields
        if schedule is not AUTOMATIC:
            assert getattr(schedules, schedule.name).__doc__


def test_no_word_means_two_samplers() -> None:
    words = [word for row in SAMPLERS for word in sampler_words(row)]
    assert len(words) == len(set(words))
    for row in SAMPLERS:
        for word in (row.name, row.name.upper(), f"  {row.name.lower()} ", *row.aliases):
            assert find_sampler(word) == (row, None)


@pytest.mark.parametrize(
    ("text", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE Heun Exponential", "DPM++ 2M SDE Heun", "Exponential"),
        ("DPM++ 2M SDE SGMUniform", "DPM++ 2M SDE", "SGM Uniform"),
        ("Euler sgm_uniform", "Euler", "SGM Uniform"),
        ("LMS Karras", "LMS", "Karras"),
        ("DPM2 a Karras", "DPM2 a", "Karras"),
        ("k_dpmpp_2m_ka", "DPM++ 2M", "Karras"),
        ("k_dpmpp_2m_sde_exp", "DPM++ 2M SDE", "Exponential"),
        ("k_euler_ancestral", "Euler a", None),
        ("dpmpp_2m_sde", "DPM++ 2M SDE", None),
        ("heun", "Heun", None),
        ("uni_pc", "UniPC", None),
        ("k_dpm_2_ancestral", "DPM2 a", None),
        ("k_dpmpp_2s_ancestral", "DPM++ 2S a", None),
        ("k_dpm_adaptive", "DPM adaptive", None),
        ("euler_ancestral_cfg_pp", "Euler a CFG++", None),
        ("plms", "PLMS", None),
        ("DDIM DDIM", "DDIM", "DDIM"),
    ],
)
def test_old_names_are_understood(text: str, sampler: str, schedule: str | None) -> None:
    row, found = find_sampler(text)
    assert row.name == sampler
    assert (found.label if found else None) == schedule


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("DPM++ 2M Karras", None), ("DPM++ 2M", "Automatic")),
        (("DPM++ 2M SDE Karras", None), ("DPM++ 2M SDE", "Karras")),
        (("DPM++ 2M", "Karras"), ("DPM++ 2M", "Automatic")),
        (("DPM++ 2M", "karras"), ("DPM++ 2M", "Automatic")),
        (("Euler", "Uniform"), ("Euler", "Uniform")),
        (("Euler a", None), ("Euler a", "Automatic")),
        (("Euler a", ""), ("Euler a", "Automatic")),
        (("Euler a", "Align Your Steps"), ("Euler a", "Align Your Steps")),
    ],
)
def test_a_request_or_infotext_is_normalised(given: tuple[str, str | None], expected: tuple[str, str]) -> None:
    row, schedule = normalise(*given)
    assert (row.name, schedule.label) == expected


def test_automatic_stands_for_the_samplers_own() -> None:
    assert resolve(find_sampler("DPM++ 2M")[0], AUTOMATIC).label == "Karras"
    assert resolve(find_sampler("Euler")[0], AUTOMATIC).label == "Uniform"
    assert resolve(find_sampler("Euler")[0], find_schedule("Beta")).label == "Beta"


def test_unknown_names_bring_the_nearest() -> None:
    with pytest.raises(NotFound, match="Euler a") as caught:
        find_sampler("Euler ancestrel")
    assert caught.value.field == "sampler_name"
    with pytest.raises(NotFound, match="Karras"):
        find_schedule("Karas")
    with pytest.raises(NotFound):
        find_sampler("")
    with pytest.raises(NotFound):
        find_sampler("Karras")
