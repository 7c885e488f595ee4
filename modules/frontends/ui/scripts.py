"""The script picker at the end of a form: a list of scripts, and what the chosen one takes.

The page's script (static/scripts.js) builds it from one list of facts, as it does the Settings tab; what is chosen goes
along with Generate as a JSON text: {"name": key, "args": {name: value}}.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from pydantic import BaseModel

from modules.frontends.api.extras import models as upscaler_models
from modules.frontends.api.sdapi import LATENT_UPSCALE_MODES
from modules.frontends.desk import FrontDesk
from modules.imaging.upscale import UPSCALERS
from modules.prompt.values import split
from modules.sampling.table import SAMPLER_NAMES, SCHEDULE_LABELS
from modules.schema.axes import AXES, Axis, axes_of, find_axis, known
from modules.schema.errors import BadRequest
from modules.schema.fields import Facts, facts
from modules.schema.scripts import NO_AXIS, SCRIPT_OF, ScriptRow, scripts_of

LONG_TEXTS = {"prompt_txt": 6, "original_prompt": 2, "original_negative_prompt": 2}
NUMBERED = {"inpainting_fill": ("fill", "original", "latent noise", "latent nothing")}


class Field(BaseModel):
    """One argument as the page shows it. `kind`: switch, number, choice, several, text or axis; `lines` of a text."""

    name: str
    label: str
    hint: str
    kind: str
    value: Any
    choices: list[tuple[str, Any]] = []
    ge: float | None = None
    le: float | None = None
    step: float | None = None
    lines: int = 1


class ScriptPart(BaseModel):
    key: str
    title: str
    fields: list[Field]


class AxisPart(BaseModel):
    """`choices` is empty where values are written."""

    label: str
    kind: str
    choices: list[str] = []


class ScriptPage(BaseModel):
    """What a tab's picker shows."""

    scripts: list[ScriptPart]
    axes: list[AxisPart]


def page(service: FrontDesk, tab: str) -> ScriptPage:
    """Everything the picker of a tab shows; lists of files as they are now."""
    lists = {
        "samplers": list(SAMPLER_NAMES),
        "schedules": list(SCHEDULE_LABELS),
        "checkpoints": [view.name for view in service.checkpoints() if not view.problem],
        "hires upscalers": [*LATENT_UPSCALE_MODES, *UPSCALERS, *upscaler_models(service.library)],
        "vaes": ["Automatic", "None", *(file.name for file in service.model_files.vaes())],
        "faces": ["No", "CodeFormer", "GFPGAN"],
        "styles": [*service.styles.known()],
    }
    upscalers = [*UPSCALERS, *upscaler_models(service.library)]
    scripts = [ScriptPart(key=row.key, title=row.title, fields=_fields(row, upscalers)) for row in scripts_of(tab)]
    axes = [_axis(axis, lists) for axis in axes_of(tab) if known(axis) and _possible(axis, tab)]
    return ScriptPage(scripts=scripts, axes=axes)


def _possible(axis: Axis, tab: str) -> bool:
    """An axis over something that a source has is none without one."""
    return tab == "img2img" or not axis.fields or not all(path.startswith("source.") for path in axis.fields)


def _axis(axis: Axis, lists: dict[str, list[str]]) -> AxisPart:
    return AxisPart(label=axis.label, kind=axis.kind, choices=lists.get(axis.choices) or list(axis.own_choices))


def _fields(row: ScriptRow, upscalers: list[str]) -> list[Field]:
    return [_field(facts(row.model, name), upscalers) for name in row.args if name and not name.endswith("_dropdown")]


def _field(fact: Facts, upscalers: list[str]) -> Field:
    choices = [(str(choice), choice) for choice in fact.choices]
    value = list(fact.default) if isinstance(fact.default, tuple) else fact.default
    if fact.name in NUMBERED:
        choices = [(name, k) for k, name in enumerate(NUMBERED[fact.name])]
    if fact.name == "upscaler":
        choices = [(name, name) for name in upscalers]
    kind = "text"
    if fact.name.endswith("_type") and len(fact.name) == len("x_type"):
        kind = "axis"
    elif isinstance(fact.default, tuple):
        kind = "several"
    elif choices:
        kind = "choice"
    elif isinstance(fact.default, bool):
        kind = "switch"
    elif isinstance(fact.default, int | float):
        kind = "number"
    hint = "" if fact.name in NUMBERED else fact.hint
    return Field(
        name=fact.name, label=fact.label, hint=hint, kind=kind, value=value, choices=choices, ge=fact.ge,
        le=fact.soft_le or fact.le, step=fact.step, lines=LONG_TEXTS.get(fact.name, 1),
    )  # fmt: skip


def build(tab: str) -> gr.Textbox:
    """Place the picker (inside the column of settings); returns the hidden field that carries what is chosen."""
    with gr.Column(elem_id=f"{tab}_script_container", elem_classes="easel-scripts"):
        gr.HTML("", elem_id=f"{tab}_scripts", js_on_load=None, apply_default_css=False)
    return gr.Textbox(elem_id=f"{tab}_script", visible="hidden")


# ------------------------------------------------------------------------------------------------- from an infotext

# Scripts that a picture's infotext tells of, by the key that only they write: argument → key.
TOLD: dict[str, dict[str, str]] = {
    "loopback": {
        "final_denoising_strength": "Final denoising strength", "denoising_curve": "Denoising curve",
    },
    "sd upscale": {"overlap": "SD upscale overlap", "upscaler": "SD upscale upscaler"},
    "img2img alternative test": {
        "original_prompt": "Decode prompt", "original_negative_prompt": "Decode negative prompt",
        "cfg": "Decode CFG scale", "st": "Decode steps", "randomness": "Randomness",
    },
}  # fmt: skip
_pastes = itertools.count(1)


def told_script(fields: Mapping[str, Any], tab: str) -> str:
    """What the picker shall show after an infotext was pasted: its script, or none. A text as `build`'s field holds,
    each time another one, so that the page notices."""
    name, args = "", {}
    if fields.get("Script") == SCRIPT_OF["x/y/z plot"].title:
        name, args = "x/y/z plot", _told_axes(fields, tab)
    for key, keys in TOLD.items():
        if tab in SCRIPT_OF[key].tabs and next(iter(keys.values())) in fields:
            model, written = SCRIPT_OF[key].model, {arg: said for arg, said in keys.items() if said in fields}
            found = {arg: _like(facts(model, arg).default, fields[said]) for arg, said in written.items()}
            name, args = key, {arg: value for arg, value in found.items() if value is not None}
    return json.dumps({"name": name, "args": args, "paste": next(_pastes)})


def _told_axes(fields: Mapping[str, Any], tab: str) -> dict[str, Any]:
    args: dict[str, Any] = {"csv_mode": False}
    for letter in "xyz":
        axis = find_axis(tab, str(fields.get(f"{letter.upper()} Type", NO_AXIS))) or AXES[0]
        key = f"{letter.upper()} Values"
        text = f"{fields[f'{key}-1']}x{fields[f'{key}-2']}" if f"{key}-1" in fields else str(fields.get(key, ""))
        text = str(fields.get(f"Fixed {key}", text))
        listed = bool(axis.choices or axis.own_choices)
        args |= {f"{letter}_type": axis.label, f"{letter}_values": text}
        args[f"{letter}_values_dropdown"] = []
        if listed:
            with contextlib.suppress(BadRequest):  # what is no list stays text
                args[f"{letter}_values_dropdown"] = split(text)
    return args


def _like(default: Any, said: Any) -> Any:
    """A text of an infotext as an argument of that kind; None where it is none."""
    if isinstance(default, str):
        return str(said)
    try:
        return type(default)(float(str(said)))
    except (ValueError, OverflowError):
        return None
