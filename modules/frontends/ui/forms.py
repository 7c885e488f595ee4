"""The form: components from the facts on each field, values from the form to a request, and what a fresh page shows.

Labels, ranges, steps and defaults are written once, on the field (`schema.request`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.frontends.requests import make_request
from modules.sampling.table import SAMPLER_NAMES, SCHEDULE_LABELS
from modules.schema.errors import BadRequest
from modules.schema.fields import Facts, facts
from modules.schema.prompts import StyleList
from modules.schema.record import CheckpointView
from modules.schema.request import GenerationRequest

# Fields of the txt2img form, in the order in which values travel, with the element id's ending.
FIELDS: dict[str, str] = {
    "prompt": "prompt",
    "negative_prompt": "neg_prompt",
    "sampler": "sampling",
    "scheduler": "scheduler",
    "steps": "steps",
    "width": "width",
    "height": "height",
    "n_iter": "batch_count",
    "batch_size": "batch_size",
    "cfg_scale": "cfg_scale",
    "seed": "seed",
    "styles": "styles",
    "filmstrip": "filmstrip",
}
DIVIDER = 40  # characters of a line that parts the styles of two files
# What a checkpoint brings its own defaults for.
FOLLOWING = ("width", "height", "cfg_scale")
CHOICES: dict[str, tuple[str, ...]] = {"sampler": SAMPLER_NAMES, "scheduler": SCHEDULE_LABELS}


def known(name: str) -> Facts:
    return facts(GenerationRequest, name)


def slider(name: str, tab: str) -> gr.Slider:
    """A slider over a field."""
    fact = known(name)
    return gr.Slider(
        minimum=fact.ge or 0,
        maximum=fact.soft_le or fact.le or 100,
        step=fact.step,
        value=fact.default,
        label=fact.label,
        elem_id=f"{tab}_{FIELDS[name]}",
        elem_classes="easel-slider",
        buttons=[],
        min_width=120,
    )


def dropdown(name: str, tab: str) -> gr.Dropdown:
    fact = known(name)
    return gr.Dropdown(
        choices=list(CHOICES[name]),
        value=fact.default,
        label=fact.label,
        elem_id=f"{tab}_{FIELDS[name]}",
        num_choices_shown=None,
        min_width=120,
    )


def prompt_box(name: str, tab: str, lines: int, placeholder: str) -> gr.Textbox:
    return gr.Textbox(
        value=known(name).default,
        label=known(name).label,
        show_label=False,
        lines=lines,
        max_lines=12,
        placeholder=placeholder,
        elem_id=f"{tab}_{FIELDS[name]}",
        elem_classes="prompt",
    )


def style_choices(styles: StyleList) -> list[str]:
    """Names for the list; with several files a line before each file's, as A1111 draws it."""
    files = dict.fromkeys(style.file for style in styles.styles)
    if len(files) < 2:
        return [style.name for style in styles.styles]
    choices: list[str] = []
    for file in files:
        choices.append(f" {Path(file).stem.upper()} ".center(DIVIDER, "-"))
        choices += [style.name for style in styles.styles if style.file == file]
    return choices


def chosen_styles(names: Any) -> Any:
    """What was chosen in that list, without its dividing lines; anything that is no list is for others to refuse."""
    if not isinstance(names, list | tuple):
        return names or ()
    return tuple(name for name in names if not (isinstance(name, str) and len(name) >= DIVIDER and name[:3] == "---"))


def request_from_form(values: Mapping[str, Any], checkpoint: str | None) -> GenerationRequest:
    """What the form asks for; numbers end where their sliders end.

    The seed is a text, so that all 64 bits of it arrive; empty means -1.
    """
    chosen = {name: values[name] for name in FIELDS} | {"styles": chosen_styles(values["styles"])}
    for name in ("steps", "width", "height", "n_iter", "batch_size", "cfg_scale", "filmstrip"):
        if isinstance(chosen[name], float) and chosen[name].is_integer():
            chosen[name] = int(chosen[name])
        end = known(name).soft_le
        if end is not None and isinstance(chosen[name], int | float) and chosen[name] > end:
            first = known(name).ge or 0
            raise BadRequest(
                f"{known(name).label} cannot be {chosen[name]:g} here; give a number from {first:g} to {end:g}.",
                field=name,
            )
    seed = str(chosen["seed"]).strip() if chosen["seed"] is not None else ""
    try:
        chosen["seed"] = int(seed) if seed else -1
    except ValueError:
        raise BadRequest(
            f"{known('seed').label} cannot be {seed[:40]!r}; give a whole number, or -1 to draw a new one.",
            field="seed",
        ) from None
    return make_request({**chosen, "checkpoint": checkpoint or None})


def find_checkpoint(views: Sequence[CheckpointView], name: str | None) -> CheckpointView | None:
    """The view meant by a name or title ("model.safetensors [hash]"), as settings files of others write it."""
    wanted = (name or "").strip()
    stem = wanted.split(" [")[0]
    for view in views:
        if wanted and (wanted in (view.name, view.title, view.path) or stem in (view.path, view.title.split(" [")[0])):
            return view
    return None


def checkpoint_choices(views: Sequence[CheckpointView]) -> list[tuple[str, str]]:
    """(shown, value) pairs; files that cannot be used say so."""
    return [(view.title + (" (cannot be read)" if view.problem else ""), view.name) for view in views]


def defaults_of(view: CheckpointView | None) -> dict[str, Any]:
    """Width, height and CFG that suit a checkpoint; the fields' own where it does not say."""
    own = {name: known(name).default for name in FOLLOWING}
    if view is None:
        return own
    width, height = view.resolution
    return own | {"width": width, "height": height} | ({"cfg_scale": view.cfg_scale} if view.cfg_scale else {})


def follow_checkpoint(
    values: Mapping[str, Any], before: CheckpointView | None, now: CheckpointView | None
) -> dict[str, Any]:
    """`FOLLOWING` after another checkpoint was chosen: what still stood at the old one's default takes the new one's,
    what the user changed stays."""
    old, new = defaults_of(before), defaults_of(now)
    return {name: new[name] if values.get(name) in (old[name], None) else values[name] for name in FOLLOWING}


def read_draft(text: str | None) -> dict[str, Any]:
    """The values that the browser kept from the last visit; anything that makes no sense is left out."""
    try:
        kept = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(kept, dict):
        return {}
    draft = {name: kept[name] for name in ("checkpoint", "followed") if isinstance(kept.get(name), str)}
    for name in FIELDS:
        if name not in kept:
            continue
        try:
            request_from_form({n: known(n).default for n in FIELDS} | {name: kept[name]}, None)
        except BadRequest:
            continue
        if name not in CHOICES or kept[name] in CHOICES[name]:
            draft[name] = kept[name]
    return draft


def opening_values(
    draft: Mapping[str, Any], views: Sequence[CheckpointView], setting: str | None
) -> tuple[CheckpointView | None, dict[str, Any]]:
    """The checkpoint and field values a page opens with: the draft's, or the defaults of the checkpoint chosen."""
    chosen = find_checkpoint(views, setting) or next((view for view in views if not view.problem), None)
    values: dict[str, Any] = {name: known(name).default for name in FIELDS} | {"seed": str(known("seed").default)}
    values |= {"styles": list(values["styles"])}
    values |= {name: value for name, value in draft.items() if name in FIELDS}
    followed = find_checkpoint(views, draft.get("followed"))
    return chosen, values | follow_checkpoint(values, followed, chosen)
