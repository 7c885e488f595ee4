"""Forms that the page's script builds (static/controls.js): the facts of a schema's fields as plain data.

Fifty Gradio components would cost every start a tenth of a second for tabs that are rarely opened.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel

from modules.frontends.ui.look import Look, is_number, look_of
from modules.schema.fields import Facts, Frozen, all_facts


class Option(BaseModel):
    """One field as the page shows it; `ge`, `le`, `step` are None where they make no sense. `value` is what it holds
    now, `default` what it goes back to; `names` are words for `choices` that are numbers. `disabled` says why nothing
    can be chosen at present; `readers` names the samplers and schedules that heed it, where not all do;
    `told` is its label in an infotext."""

    key: str
    label: str
    hint: str = ""
    value: Any = None
    default: Any = None
    choices: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    ge: float | None = None
    le: float | None = None
    step: float | None = None
    disabled: str = ""
    readers: list[str] = []
    told: str = ""


class Part(BaseModel):
    """Fields that belong together; one with a `key` is switched on and off as a whole."""

    key: str = ""
    label: str = ""
    hint: str = ""
    on: bool = False
    options: list[Option] = []


def option_of(key: str, fact: Facts, value: Any = ..., **changes: Any) -> Option:
    """A field by its facts; `changes` wins over them."""
    fact = replace(fact, **{name: new for name, new in changes.items() if name in Facts.__dataclass_fields__})
    rest = {name: new for name, new in changes.items() if name in ("names", "disabled", "readers", "told")}
    return Option(
        key=key, label=fact.label, hint=fact.hint, value=fact.default if value is ... else value, default=fact.default,
        choices=fact.choices, ge=fact.ge, le=fact.soft_le or fact.le, step=fact.step, **rest,
    )  # fmt: skip


def parts_of(
    model: type[BaseModel], shown: Mapping[str, Mapping[str, Any]], hidden: Collection[str] = (), below: str = ""
) -> list[Part]:
    """A model's own fields as the first part, then one part for each section that may be None.

    `shown`: by path ("split.threshold") what the page shows otherwise than the facts say; `hidden`: paths left out.
    """
    own, sections = Part(), []
    for name, fact in all_facts(model).items():
        path = f"{below}{name}"
        if path in hidden:
            continue
        inner = _section(model, name)
        if inner is None:
            own.options.append(option_of(path, fact, **shown.get(path, {})))
        else:
            first, *rest = parts_of(inner, shown, hidden, f"{path}.")
            sections += [Part(key=path, label=fact.label, hint=fact.hint, options=first.options), *rest]
    return [own, *sections]


def with_looks(parts: list[Part], config: Mapping[str, Any], keys: Callable[[Option], Sequence[str]]) -> list[Part]:
    """The parts as ui-config.json wants them to begin; `keys` is where it may tell of an option. What makes no sense is
    passed over."""
    return [part.model_copy(update={"options": [_looked(o, look_of(config, keys(o))) for o in part.options]})
            for part in parts]  # fmt: skip


def _looked(option: Option, look: Look) -> Option:
    ends = [(option.ge, look.minimum), (option.le, look.maximum)]
    low, high = (own if asked is None else asked for own, asked in ends)
    if option.ge is None or option.le is None or low is None or high is None or not option.ge <= low < high:
        low, high = option.ge, option.le
    value = look.value
    if option.names and value in option.names:
        value = option.choices[option.names.index(value)]
    number = is_number(option.default)
    alike = is_number(value) if number else type(value) is type(option.default)
    inside = not option.choices or value in option.choices
    if not alike or not inside or (number and low is not None and high is not None and not low <= value <= high):
        value = option.value
    return option.model_copy(update={"ge": low, "le": high, "step": look.step or option.step, "value": value})


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    kinds = get_args(model.model_fields[name].annotation) or (model.model_fields[name].annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Frozen)), None)
