"""ControlNet's units at the end of a form's parts: what the page's script (static/controlnet.js) builds them from.

What is asked for goes along with Generate as a JSON text: a list of units by the names of `schema.control`, their
pictures uploaded and named; what an infotext tells comes back the same way, as {"units": [...]}.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from pydantic import BaseModel

from modules.frontends.api.controlnet import SHOWN_UNITS, titles
from modules.frontends.desk import FrontDesk
from modules.frontends.ui.scripts import Field
from modules.schema.control import PREPROCESSORS, ControlUnit, Preprocessor, Slider, units_told
from modules.schema.errors import BadRequest
from modules.schema.fields import Facts, facts

FIELDS = (
    "pixel_perfect", "module", "model", "weight", "guidance_start", "guidance_end", "processor_res", "control_mode",
    "resize_mode", "hr_option",
)  # fmt: skip
"""What a unit shows besides its picture and the preprocessor's own numbers."""
NAMED = {"control_mode", "resize_mode", "hr_option"}
"""Fields whose few choices are all to be seen."""
_pastes = itertools.count(1)


class PreprocessorPart(BaseModel):
    """What a preprocessor takes; `a` and `b` are its thresholds."""

    name: str
    sized: bool
    masked: bool
    a: Field | None = None
    b: Field | None = None


class UnitsPage(BaseModel):
    """What the units of a tab show: so many, with these fields; `models`: files as they lie there now."""

    units: int
    fields: list[Field]
    preprocessors: list[PreprocessorPart]
    models: list[str]


def page(service: FrontDesk) -> UnitsPage:
    models = ["None", *titles(service)]
    return UnitsPage(
        units=SHOWN_UNITS,
        fields=[_field(facts(ControlUnit, name), models) for name in FIELDS],
        preprocessors=[_part(row) for row in PREPROCESSORS],
        models=models,
    )


def _field(fact: Facts, models: list[str]) -> Field:
    lists = {"module": [row.name for row in PREPROCESSORS], "model": models}
    choices = [(name, name) for name in lists.get(fact.name, fact.choices)]
    value = 512 if fact.name == "processor_res" else fact.default
    kind = "choice" if choices else "switch" if isinstance(value, bool) else "number"
    least = fact.soft_ge if fact.soft_ge is not None else fact.ge
    return Field(
        name=fact.name, label=fact.label, hint=fact.hint, kind=kind, value=value, choices=choices, ge=least,
        le=fact.soft_le or fact.le, step=fact.step,
    )  # fmt: skip


def _part(row: Preprocessor) -> PreprocessorPart:
    return PreprocessorPart(
        name=row.name, sized=row.sized, masked=row.masked, a=_slider(row.a, "a"), b=_slider(row.b, "b")
    )


def _slider(slider: Slider | None, which: str) -> Field | None:
    if slider is None:
        return None
    return Field(
        name=f"threshold_{which}", label=slider.label, hint="", kind="number", value=slider.default, ge=slider.ge,
        le=slider.le, step=slider.step,
    )  # fmt: skip


def build(tab: str) -> gr.Textbox:
    """Place the units (inside the column of a form's parts); returns the hidden field that carries them."""
    gr.HTML("", elem_id=f"{tab}_controlnet_units", js_on_load=None, apply_default_css=False)
    return gr.Textbox(elem_id=f"{tab}_controlnet", visible="hidden")


def units_of(text: Any) -> list[dict[str, Any]]:
    """The units that a form asks for, or that `told` has put there; BadRequest's `field` is "controlnet"."""
    try:
        asked = json.loads(text) if text else []
    except (TypeError, ValueError):
        asked = None
    if isinstance(asked, dict):
        asked = asked.get("units")
    if not isinstance(asked, list) or not all(isinstance(unit, dict) for unit in asked):
        raise BadRequest("The units of ControlNet cannot be read; set them again.", field="controlnet")
    return asked


def told(fields: Mapping[str, Any]) -> str:
    """What the units shall show after an infotext was pasted; those it does not tell of are switched off. Each time
    another text, so that the page notices."""
    return json.dumps({"units": units_told(fields), "paste": next(_pastes)})
