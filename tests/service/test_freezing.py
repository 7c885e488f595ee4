"""What the command line keeps from being changed stays as it is, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from modules.frontends.ui.language import Languages
from modules.frontends.ui.settings import sections
from modules.schema.errors import BadRequest
from modules.schema.settings import Settings
from modules.service.freezing import NOTHING_FROZEN, Freeze

FLAGS: list[tuple[dict[str, Any], set[str], str]] = [
    ({}, set(), ""),
    ({"freeze_settings": True}, {"emphasis", "token_merging_ratio", "outdir_samples"}, "--freeze-settings"),
    ({"freeze_settings_in_sections": "prompting, api"}, {"emphasis"}, "--freeze-settings-in-sections"),
    ({"freeze_settings_in_sections": "saving-paths"}, {"outdir_samples"}, "--freeze-settings-in-sections"),
    ({"freeze_specific_settings": "emphasis,tiling"}, {"emphasis"}, "--freeze-specific-settings"),
    ({"hide_ui_dir_config": True}, {"outdir_samples"}, "--hide-ui-dir-config"),
]
CHANGES = {"emphasis": "None", "token_merging_ratio": 0.5, "outdir_samples": "elsewhere"}


@pytest.mark.parametrize(
    ("flags", "frozen", "flag"), FLAGS, ids=lambda part: "" if isinstance(part, set) else str(part)
)
def test_what_is_frozen_cannot_be_changed(flags: dict[str, Any], frozen: set[str], flag: str) -> None:
    freeze, now = Freeze.of(flags), Settings()
    for key, value in CHANGES.items():
        if key in frozen:
            with pytest.raises(BadRequest, match=f"{key} cannot be changed.*{flag}"):
                freeze.check(now, {"hide_samplers": now.option("hide_samplers"), key: value})
            freeze.check(now, {key: now.option(key)})  # sent back as it is
        else:
            freeze.check(now, {key: value})


def test_names_that_are_not_there_are_told() -> None:
    with pytest.raises(BadRequest, match="prompting"):
        Freeze.of({"freeze_settings_in_sections": "prompt"})
    with pytest.raises(BadRequest, match="emphases"):
        Freeze.of({"freeze_specific_settings": "emphases"})


def test_the_page_shows_what_is_frozen_with_its_reason_and_hides_places() -> None:
    def shown(freeze: Freeze) -> dict[str, str]:
        return {o.key: o.disabled for part in sections(Settings(), Languages(), freeze=freeze) for o in part.options}

    assert not any(shown(NOTHING_FROZEN).values())
    frozen = shown(Freeze.of({"freeze_specific_settings": "emphasis", "hide_ui_dir_config": True}))
    assert {key for key, reason in frozen.items() if reason} == {"emphasis"}
    assert shown(NOTHING_FROZEN).keys() - frozen.keys() >= {"outdir_samples", "samples_filename_pattern"}
