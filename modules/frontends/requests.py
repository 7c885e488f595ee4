"""From loose values to a GenerationRequest, with one sentence for what is wrong; for the form and the API alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from modules.schema.control import ControlUnit
from modules.schema.errors import BadRequest
from modules.schema.fields import Facts, facts
from modules.schema.request import (
    AutoCrop,
    Batch,
    Extras,
    FocalCrop,
    GenerationRequest,
    Hires,
    Inversion,
    Mask,
    Outpaint,
    Refiner,
    Soft,
    Source,
    SplitOversized,
)  # fmt: skip
from modules.schema.rounds import Loopback, Tiles
from modules.schema.scripts import SCRIPT_OF, SCRIPTS, Asked

PARTS: dict[str, type[BaseModel]] = {
    "hires": Hires, "refiner": Refiner, "source": Source, "mask": Mask, "tiles": Tiles, "loopback": Loopback,
    "outpaint": Outpaint, "inversion": Inversion, "extras": Extras, "soft": Soft, "script": Asked, "batch": Batch,
    "split_oversized": SplitOversized, "focal_crop": FocalCrop, "auto_crop": AutoCrop,
    "controlnet": ControlUnit,
}  # fmt: skip
LONGEST_PROMPT = 100_000  # characters; more is a pasted file, not a prompt


def make_request(values: Mapping[str, Any]) -> GenerationRequest:
    """The request these values stand for; BadRequest names the field and what is allowed.

    Lone surrogates (half an emoji of a broken paste) become replacement characters, since no file format can hold them.
    """
    cleaned = {name: well_formed(value) if isinstance(value, str) else value for name, value in values.items()}
    for name, value in cleaned.items():
        if isinstance(value, str):
            check_length(name, value)
    try:
        return GenerationRequest.model_validate(cleaned)
    except ValidationError as error:
        location = error.errors()[0]["loc"]
        path = _path(location)
        if path[:1] == ["controlnet"] and len(path) > 1:
            raise BadRequest(_of_unit(location, path[1], cleaned), field=".".join(path)) from None
        raise BadRequest(_sentence(path, cleaned), field=".".join(path) or None) from None


def _path(location: Sequence[int | str]) -> list[str]:
    """Names of fields down to the one that is wrong ("hires", "hr_scale"); the last may be unknown."""
    model: type[BaseModel] | None = GenerationRequest
    path: list[str] = []
    for part in map(str, location):
        if model is None:
            break  # places in a list, keys of a dictionary, members of a union
        if part.isdigit() and path == ["controlnet"]:
            continue  # which unit
        if part in SCRIPT_OF and path == ["script"]:
            model = SCRIPT_OF[part].model
            continue
        path.append(part)
        model = PARTS.get(part) if part in model.model_fields else None
    return path


def _sentence(path: Sequence[str], values: Mapping[str, Any]) -> str:
    if not path:
        return "Send one JSON object of request fields."
    model = PARTS[path[-2]] if len(path) > 1 else GenerationRequest
    if path[0] == "script":
        asked = values.get("script")
        row = SCRIPT_OF.get(str(asked.get("name", "")) if isinstance(asked, Mapping) else "")
        if row is None or row.part != "script":
            names = ", ".join(row.key for row in SCRIPTS if row.part == "script")
            return f"A script's name is one of: {names}."
        model = row.model if len(path) > 1 else GenerationRequest
    if path[-1] not in model.model_fields:
        return f"There is no field called {path[-1]!r}; remove it."
    value: Any = values
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    known = facts(model, path[-1])
    if value is None or value == "":
        return f"{known.label} is empty; give {_allowed(known)}."
    return f"{known.label} cannot be {_shown(value)}; give {_allowed(known)}."


def _of_unit(location: Sequence[int | str], name: str, values: Mapping[str, Any]) -> str:
    """The same for a field of a unit of ControlNet, told which one."""
    number = int(location[1])
    if name not in ControlUnit.model_fields:
        return f"There is no field called {name!r} in a ControlNet unit; remove it."
    known = facts(ControlUnit, name)
    value = values["controlnet"][number].get(name)
    return f"{known.label} of ControlNet unit {number} cannot be {_shown(value)}; give {_allowed(known)}."


def _allowed(known: Facts) -> str:
    """What a field takes, in words."""
    if known.choices:
        return "one of " + ", ".join(map(str, known.choices))
    if known.ge is not None and known.le is not None:
        kind = "a whole number" if isinstance(known.default, int) else "a number"
        extra = f" ({known.hint.rstrip('.')})" if known.hint else ""
        return f"{kind} from {known.ge:g} to {known.le if isinstance(known.le, int) else f'{known.le:g}'}{extra}"
    return {str: "a text", tuple: "a list of names", dict: "an object"}.get(type(known.default), "another value")


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _label(name: str) -> str:
    return facts(GenerationRequest, name).label if name in GenerationRequest.model_fields else name


def check_length(name: str, text: str) -> None:
    """BadRequest for a text that is no prompt any more."""
    if len(text) > LONGEST_PROMPT:
        message = f"{_label(name)} is {len(text):,} characters long; {LONGEST_PROMPT:,} is the most."
        raise BadRequest(message, field=name)


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced and without NUL."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")


def put_script(nested: dict[str, Any], text: Any) -> None:
    """Put the chosen script into the loose values of a request; BadRequest's `field` is "script"."""
    if not text:
        return
    try:
        asked = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get("args", {}), dict):
        raise BadRequest("What the script is to do cannot be read; choose it again.", field="script")
    if asked.get("name") == "":
        return
    row = SCRIPT_OF.get(str(asked.get("name")))
    if row is None:
        raise BadRequest("There is no such script; choose one of the list.", field="script")
    values = row.values(asked.get("args", {}))
    if row.part == "script":
        nested["script"] = values
    else:
        nested.setdefault("source", {})[row.part.removeprefix("source.")] = values
