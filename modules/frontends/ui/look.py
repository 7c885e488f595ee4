"""What ui-config.json says of a control: what it begins with, its ends and step, whether it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIELDS = ("value", "minimum", "maximum", "step", "visible")


@dataclass(frozen=True)
class Look:
    """None is: nothing is said."""

    value: Any = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    visible: bool = True


NOTHING = Look()


def look_of(config: Mapping[str, Any], keys: Sequence[str]) -> Look:
    """The look under the first of these keys ("txt2img/Width") that has a field; what makes no sense is passed over."""
    found: dict[str, Any] = {}
    for key in keys:
        for field in FIELDS:
            value = config.get(f"{key}/{field}")
            if value is not None and field not in found and _makes_sense(field, value):
                found[field] = value
    low, high = found.get("minimum"), found.get("maximum")
    if low is not None and high is not None and low >= high:
        del found["minimum"], found["maximum"]
    return Look(**found) if found else NOTHING


def _makes_sense(field: str, value: Any) -> bool:
    if field == "value":
        return True
    if field == "visible":
        return isinstance(value, bool)
    return is_number(value) and abs(value) < 1e9 and (field != "step" or value > 0)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
