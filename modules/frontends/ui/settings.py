"""The Settings tab: every option of `schema.settings`, by section, with its own label, range and hint.

The page's script builds it from one list (static/settings.js): eighty Gradio components would cost every start
a tenth of a second for a tab that is rarely opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from modules.frontends.api.extras import models as upscaler_models
from modules.frontends.desk import FrontDesk
from modules.frontends.ui.hints import HINTS
from modules.frontends.ui.language import AUTOMATIC, NONE, Languages
from modules.frontends.ui.own_forms import Option, option_of
from modules.frontends.ui.panel import plain
from modules.imaging.upscale import UPSCALERS
from modules.sampling.table import SAMPLER_NAMES, SAMPLERS, SCHEDULES, Sampler
from modules.schema.fields import all_facts
from modules.schema.request import GenerationRequest, Hires, Mask, Refiner, Source
from modules.schema.settings import Settings
from modules.service.freezing import NOTHING_FROZEN, Freeze

# Not on the page: the checkpoint has its own list above, what the API may do is for the owner of config.json, and
# extensions are switched in a tab of their own.
ELSEWHERE = ("sd_model_checkpoint", "automatic_attention")
SECTIONS_ELSEWHERE = ("api", "extensions")
MODELS = (GenerationRequest, Source, Mask, Hires, Refiner)
# What an infotext may tell of a form, in its order.
INFOTEXT_KEYS = tuple(
    dict.fromkeys(fact.infotext for model in MODELS for fact in all_facts(model).values() if fact.infotext)
)
NO_LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType({})
ETAS = ("eta_ddim", "eta_ancestral")
# Tabs by id, as they are called, in their order.
TABS = {
    "txt2img": "txt2img", "img2img": "img2img", "extras": "Extras", "pnginfo": "PNG Info", "history": "History",
    "queue": "Queue", "modelmerger": "Checkpoint Merger", "settings": "Settings", "extensions": "Extensions",
}  # fmt: skip
FRAME = '<div id="settings" class="easel-settings-page"></div>'


class Section(BaseModel):
    name: str
    about: str
    options: list[Option]


def lists(service: FrontDesk) -> dict[str, tuple[str, ...]]:
    """Choices of options that files on this machine and the page itself give."""

    def names(kind: str) -> list[str]:
        return sorted({view.name for view in service.library.files(kind) if not view.problem}, key=str.lower)

    vaes = dict.fromkeys(file.name for file in service.model_files.vaes())
    shown = [key for name, field in Settings.model_fields.items() if name not in SECTIONS_ELSEWHERE
             for key in field.annotation.model_fields]  # type: ignore[union-attr]  # fmt: skip
    return {
        "sd_vae": ("Automatic", "None", *vaes),
        "sd_lora": ("None", *names("lora")),
        "sd_hypernetwork": ("None", *names("hypernetwork")),
        "upscaler_for_img2img": (
            "None",
            *(name for name in UPSCALERS if name != "None"),
            *upscaler_models(service.library),
        ),
        "hide_samplers": SAMPLER_NAMES,
        "infotext_skip_pasting": INFOTEXT_KEYS,
        "ui_tab_order": tuple(TABS.values()),
        "hidden_tabs": tuple(label for id, label in TABS.items() if id != "settings"),
        "quicksettings_list": tuple(key for key in shown if key not in ("quicksettings_list", "automatic_attention")),
    }


def sections(
    settings: Settings,
    languages: Languages,
    listed: Mapping[str, tuple[str, ...]] = NO_LISTS,
    freeze: Freeze = NOTHING_FROZEN,
) -> list[Section]:
    """Everything the tab shows."""
    found = []
    named = {"localization": (NONE, AUTOMATIC, *languages.names()), **listed}
    for name, field in Settings.model_fields.items():
        model = field.annotation
        if name in SECTIONS_ELSEWHERE or model is None:
            continue
        options = [
            option_of(
                key,
                fact,
                settings.option(key),
                choices=_with(named.get(key, fact.choices), settings.option(key)),
                hint=fact.hint or HINTS.get(key, ""),
                readers=readers_of(key),
                told=fact.infotext or "",
                disabled=freeze.reason(key),
            )
            for key, fact in all_facts(model).items()  # type: ignore[arg-type]
            if key not in ELSEWHERE and not freeze.hides(key)
        ]
        found.append(Section(name=name, about=(model.__doc__ or "").split("\n")[0].split(" (")[0], options=options))
    return found


def readers_of(key: str) -> list[str]:
    """Samplers and schedules that read an option, by name; none where all do."""
    samplers = [row.name for row in SAMPLERS if key in row.reads or (key in ETAS and _eta_of(row) == key)]
    return samplers + [row.label for row in SCHEDULES if key in row.reads]


def _eta_of(row: Sampler) -> str:
    if "eta" not in row.reads:
        return ""
    return "eta_ddim" if row.variance_preserving else "eta_ancestral"


def _with(choices: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """A list never hides what is set, though the file may be gone."""
    return (*choices, value) if choices and isinstance(value, str) and value not in choices else choices


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    plain(FRAME, "settings_panel")
