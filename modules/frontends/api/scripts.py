"""/scripts and /script-info: what the table of scripts tells, in A1111's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from modules.frontends.api import answers as a
from modules.frontends.api.bodies import ALWAYS_ON, SOFT_INPAINTING
from modules.frontends.api.control_units import TITLE as CONTROLNET
from modules.frontends.api.errors import Refused
from modules.prompt import infotext
from modules.schema.axes import axes_of
from modules.schema.control import ControlUnit
from modules.schema.errors import BadRequest
from modules.schema.extensions import Declared
from modules.schema.fields import Facts, facts
from modules.schema.request import GenerationRequest, Refiner, Soft
from modules.schema.scripts import SCRIPTS, scripts_of
from modules.service.extensions import ExtensionStore

TABS = ("txt2img", "img2img")
_RENAMED = {"sampler_name": "sampler"}


def always_on(tab: str) -> tuple[str, ...]:
    """Titles that alwayson_scripts takes, in lower case."""
    return (*ALWAYS_ON, CONTROLNET, SOFT_INPAINTING) if tab == "img2img" else (*ALWAYS_ON, CONTROLNET)


def names_of(tab: str, extensions: ExtensionStore) -> list[str]:
    own = [each.name.lower() for each in extensions.with_sections(tab)]
    return [*(row.key for row in scripts_of(tab)), *always_on(tab), *own]


def sections_of(
    scripts: Mapping[str, Any], text: str | None, extensions: ExtensionStore, tab: str
) -> dict[str, dict[str, Any]]:
    """The extensions' sections that a body asks for: those in its alwayson_scripts, then those its infotext tells.
    Refused, with 422, for a name that nobody has; BadRequest for arguments that cannot be."""
    found: dict[str, dict[str, Any]] = extensions.told(infotext.parse(text).fields, tab) if text else {}
    for name, asked in scripts.items():
        if name.lower() in always_on(tab):
            continue
        extension = extensions.find(name)
        if extension is None or extension.declared is None or not _has_section(extension.declared, tab):
            raise Refused(
                422, f"Always on script {name[:60]!r} not found; /scripts lists those there are.",
                field="alwayson_scripts",
            )  # fmt: skip
        args = asked.get("args", []) if isinstance(asked, dict) else None
        if not isinstance(args, list | dict):
            raise BadRequest(
                f'{extension.name}: write {{"args": […]}}, by place, or an object of arguments by name.',
                field="alwayson_scripts",
            )
        found[extension.key] = dict(args) if isinstance(args, dict) else extension.declared.by_place(args)
    return found


def _has_section(declared: Declared, tab: str) -> bool:
    return declared.section is not None and tab in declared.section.tabs


def script_items(extensions: ExtensionStore) -> list[a.ScriptItem]:
    """All scripts of both tabs, and the sections of extensions."""
    items = []
    for tab in TABS:
        for row in SCRIPTS:
            if tab in row.tabs:
                args = [_argument(row.model, name, tab) for name in row.args]
                items.append(a.ScriptItem(name=row.key, is_alwayson=False, is_img2img=tab == "img2img", args=args))
        for title in always_on(tab):
            items.append(
                a.ScriptItem(name=title, is_alwayson=True, is_img2img=tab == "img2img", args=_of_always_on(title))
            )
        for each in extensions.with_sections(tab):
            fields = each.declared.fields if each.declared else ()
            args = [_told(field.facts(each.name), field.name) for field in fields]
            items.append(a.ScriptItem(name=each.name.lower(), is_alwayson=True, is_img2img=tab == "img2img", args=args))
    return items


def _of_always_on(title: str) -> list[a.ScriptArgument]:
    if title == SOFT_INPAINTING:
        return [a.ScriptArgument(name="", label="Soft inpainting", value=False)] + [
            _argument(Soft, name) for name in Soft.model_fields
        ]
    if title == CONTROLNET:
        return [_argument(ControlUnit, name) for name in ControlUnit.model_fields]
    found = []
    for name in ALWAYS_ON[title]:
        model = Refiner if name in Refiner.model_fields else GenerationRequest
        known = facts(model, _RENAMED.get(name, name)) if name else None
        found.append(_told(known, name) if known else a.ScriptArgument(name="", label="", value=False))
    return found


def _argument(model: type[BaseModel], name: str, tab: str = "") -> a.ScriptArgument:
    if not name:
        return a.ScriptArgument(name="", label="", value=None)
    told = _told(facts(model, name), name)
    if name in ("x_type", "y_type", "z_type"):
        return told.model_copy(update={"choices": [axis.label for axis in axes_of(tab)]})
    return told


def _told(known: Facts, name: str) -> a.ScriptArgument:
    value: Any = list(known.default) if isinstance(known.default, tuple) else known.default
    return a.ScriptArgument(
        name=name, label=known.label, value=value, minimum=known.ge, maximum=known.le, step=known.step,
        choices=list(known.choices) or None,
    )  # fmt: skip
