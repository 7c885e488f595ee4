"""One home for a fact about a field: label, range, step, default, infotext key, API alias.

Slider, API schema, infotext writer and parser, axis of a grid all read them here:

    steps: int = fact(20, label="Sampling steps", ge=1, le=150, step=1, infotext="Steps")
    facts(GenerationRequest, "steps").le == 150
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """A value: never changed, only copied with changes (`model_copy(update=…)`); unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Facts:
    """What every front end needs to know of one field. `ge`, `le`, `step` are None where they make no sense."""

    name: str
    default: Any
    label: str
    ge: float | None = None
    le: float | None = None
    step: float | None = None
    infotext: str | None = None
    api: tuple[str, ...] = ()
    choices: tuple[Any, ...] = ()
    hint: str = ""
    soft_le: float | None = None
    soft_ge: float | None = None


def fact(
    default: Any,
    *,
    label: str,
    ge: float | None = None,
    le: float | None = None,
    step: float | None = None,
    infotext: str | None = None,
    api: tuple[str, ...] = (),
    choices: tuple[Any, ...] = (),
    hint: str = "",
    soft_le: float | None = None,
    soft_ge: float | None = None,
) -> Any:
    """A pydantic field that carries its facts. `ge` and `le` are enforced; `soft_ge`, `soft_le` only end the slider."""
    extra: dict[str, Any] = {
        "facts": {
            "label": label, "ge": ge, "le": le, "step": step, "infotext": infotext, "api": list(api),
            "choices": list(choices), "hint": hint, "soft_le": soft_le,
            "soft_ge": soft_ge,
        }
    }  # fmt: skip
    return Field(default, ge=ge, le=le, title=label, description=hint or None, json_schema_extra=extra)


def facts(model: type[BaseModel], name: str) -> Facts:
    """The facts of one field of a model; KeyError where there is no such field."""
    field = model.model_fields[name]
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    found: dict[str, Any] = dict(extra.get("facts") or {"label": name})  # type: ignore[call-overload]
    found["api"] = tuple(found.get("api", ()))
    found["choices"] = tuple(found.get("choices", ()))
    return Facts(name=name, default=field.get_default(call_default_factory=True), **found)


def all_facts(model: type[BaseModel]) -> dict[str, Facts]:
    return {name: facts(model, name) for name in model.model_fields}
