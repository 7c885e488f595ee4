"""Sections of extensions in the forms: what they declare as the page's script (static/extensions.js) shows it; what is
chosen goes along with Generate as a JSON text: {"sections": {folder: {field: value}}}.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import gradio as gr

from modules.frontends.ui.own_forms import Option, Part, option_of
from modules.schema.errors import BadRequest
from modules.schema.extensions import Input
from modules.service.extensions import ExtensionStore


def build(tab: str) -> gr.Textbox:
    """Place the sections of a form; returns the hidden field that carries what is chosen in them."""
    with gr.Column(elem_classes="easel-folds"):
        gr.HTML("", elem_id=f"{tab}_extension_sections", js_on_load=None, apply_default_css=False)
    return gr.Textbox(elem_id=f"{tab}_extensions", visible="hidden")


def parts(store: ExtensionStore, tab: str) -> list[Part]:
    """What the script shows in a form."""
    found = []
    for each in store.with_sections(tab):
        if each.declared is not None:
            options = [option(f"{each.key}.{one.name}", one, each.name) for one in each.declared.fields]
            found.append(Part(key=each.key, label=each.name, hint=each.declared.description, options=options))
    return found


def option(key: str, one: Input, title: str, value: Any = ...) -> Option:
    """A declared field as the page shows it. `title`: the extension's name."""
    made = option_of(key, one.facts(title), value)
    return made.model_copy(update={"step": None}) if one.kind == "number" else made  # a box, no slider


def told_sections(store: ExtensionStore, fields: Mapping[str, Any], tab: str) -> str:
    """What the sections shall show after an infotext was pasted; each time another text, so that the page notices."""
    return json.dumps({"sections": store.told(fields, tab), "paste": uuid.uuid4().hex[:12]})


def put_sections(nested: dict[str, Any], text: Any) -> None:
    """Put the sections that are on into the loose values of a request; BadRequest's `field` is "extensions"."""
    try:
        asked = json.loads(text).get("sections", {}) if text else {}
        if not all(isinstance(values, dict) for values in asked.values()):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise BadRequest(
            "What the sections of extensions hold cannot be read; reload the page.", field="extensions"
        ) from None
    nested["extensions"] = asked
