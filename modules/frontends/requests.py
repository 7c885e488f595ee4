"""From loose values to a GenerationRequest, with one sentence for what is wrong; for the form and the API alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from modules.schema.errors import BadRequest
from modules.schema.fields import Facts, facts
from modules.schema.request import GenerationRequest

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
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise BadRequest(_sentence(name, first["type"], cleaned.get(name)), field=name or None) from None


def _sentence(name: str, kind: str, value: Any) -> str:
    if name not in GenerationRequest.model_fields:
        return f"There is no field called {name!r}; remove it." if name else "Send one JSON object of request fields."
    known = facts(GenerationRequest, name)
    if value is None or value == "":
        return f"{known.label} is empty; give {_allowed(known)}."
    return f"{known.label} cannot be {_shown(value)}; give {_allowed(known)}."


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
