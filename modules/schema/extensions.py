"""What an extension declares of itself in its extension.toml: plain data, checked, so that the server runs none of its
code to list it, to show its fields or to read what was chosen in them.

    name = "Film grain"
    version = "1.0"
    needs = []                      # of CAPABILITIES; asked for when it is switched on

    [section]                       # a part of the forms, with a switch; its values travel with each request
    [[section.fields]]
    name = "strength"
    label = "Strength"
    kind = "slider"
    default = 0.3
    minimum = 0
    maximum = 1
    step = 0.01

Nothing here reads a file. The folder's name is an extension's key everywhere; `name` is what people see.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from modules.schema.errors import BadFile, BadRequest
from modules.schema.fields import Facts, Frozen, all_facts
from modules.schema.request import GenerationRequest, Hires, Mask, Refiner, Source
from modules.schema.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

CAPABILITIES: dict[str, str] = {
    "net": "talks to other machines",
    "disk": "reads or writes files outside its own folder",
    "models": "loads model files of its own",
    "programs": "starts other programs",
}
"""What an extension may say that it needs. Told and asked for; its code is kept from nothing (docs/extensions.md)."""
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
"""Names of folders that can be extensions."""
LONGEST_TEXT = 10_000
LONGEST_FILE = 100_000
TABS = ("txt2img", "img2img")
Value = bool | int | float | str


class Input(Frozen):
    """One control. `infotext` is its key in infotexts; without one it is the extension's name and the label."""

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,63}$")
    label: str = Field(min_length=1, max_length=100)
    kind: Literal["checkbox", "slider", "number", "text", "dropdown"]
    default: Value
    minimum: int | float | None = None
    maximum: int | float | None = None
    step: int | float | None = Field(default=None, gt=0)
    choices: tuple[str, ...] = ()
    hint: str = Field(default="", max_length=500)
    infotext: str = ""

    @model_validator(mode="after")
    def _possible(self) -> Input:
        if self.kind == "slider" and (self.minimum is None or self.maximum is None or self.minimum >= self.maximum):
            raise ValueError(f"the slider {self.name} needs a minimum below its maximum")
        if self.kind == "dropdown" and not self.choices:
            raise ValueError(f"the dropdown {self.name} needs choices")
        try:
            same = self.value(self.default)
        except ValueError as error:
            raise ValueError(f"the default of {self.name} cannot be: {error}") from None
        if type(same) is not type(self.default):
            raise ValueError(f"the default of {self.name} is of another kind than a {self.kind} holds")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers fit."""
        return isinstance(self.default, int) and isinstance(self.step or 1, int)

    def value(self, given: Any) -> Value:
        """What was given as this input holds it; texts, as infotexts have them, are read. ValueError says what fits."""
        if self.kind == "checkbox":
            known = {"true": True, "false": False, "1": True, "0": False}
            if (text := str(given).lower()) not in known:
                raise ValueError(f"{self.label} is true or false")
            return known[text]
        if self.kind in ("text", "dropdown"):
            if isinstance(given, bool) or not isinstance(given, str | int | float):
                raise ValueError(f"{self.label} is a text")
            if self.choices and str(given) not in self.choices:
                raise ValueError(f"{self.label} is one of {', '.join(self.choices)}")
            if len(str(given)) > LONGEST_TEXT:
                raise ValueError(f"{self.label} has at most {LONGEST_TEXT} characters")
            return str(given)
        try:
            number = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not math.isfinite(number) or not low <= number <= high or (self.whole and not number.is_integer()):
            kind = "a whole number" if self.whole else "a number"
            ends = f" from {low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else ""
            raise ValueError(f"{self.label} is {kind}{ends}")
        return int(number) if self.whole else number

    def facts(self, title: str) -> Facts:
        """The same facts as a field of ours has. `title`: the extension's name."""
        return Facts(
            self.name, self.default, self.label, ge=self.minimum, le=self.maximum,
            step=self.step or ((1 if self.whole else 0.01) if self.kind == "slider" else None),
            infotext=self.infotext_key(title), choices=self.choices, hint=self.hint,
        )  # fmt: skip

    def infotext_key(self, title: str) -> str:
        """Keys of infotexts are made of letters, digits, spaces and dashes."""
        return " ".join(re.sub(r"[^\w \-/]", " ", self.infotext or f"{title} {self.label}").split())


class Section(Frozen):
    """A part of the forms, with a switch in front."""

    tabs: tuple[Literal["txt2img", "img2img"], ...] = TABS
    fields: tuple[Input, ...] = Field(default=(), max_length=100)


class Tab(Frozen):
    """A tab of its own; the function `build` in the extension's tab.py fills it."""

    title: str = Field(min_length=1, max_length=40)


class Declared(Frozen):
    """An extension.toml."""

    name: str = Field(min_length=1, max_length=60)
    version: str = Field(default="", max_length=40)
    description: str = Field(default="", max_length=1000)
    author: str = Field(default="", max_length=200)
    needs: tuple[Literal["net", "disk", "models", "programs"], ...] = ()
    section: Section | None = None
    settings: tuple[Input, ...] = Field(default=(), max_length=200)
    tab: Tab | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Declared:
        for inputs in (self.section.fields if self.section else (), self.settings):
            names = [each.name for each in inputs]
            if len(set(names)) < len(names):
                raise ValueError("two fields have the same name")
        keys = [each.infotext_key(self.name) for each in self.fields]
        taken = sorted(TAKEN.intersection(keys)) or [key for key in keys if keys.count(key) > 1]
        if taken:
            raise ValueError(f"infotexts have {taken[0]!r} already; give that field another infotext")
        return self

    @property
    def fields(self) -> tuple[Input, ...]:
        """Those of the section."""
        return self.section.fields if self.section else ()

    @property
    def shown(self) -> str:
        """Name and version, as infotexts tell them."""
        return " ".join(f"{self.name} {self.version}".replace(",", " ").split())

    def by_place(self, args: Sequence[Any]) -> dict[str, Any]:
        """Arguments in the order of the section's fields, by name; None stands for a default."""
        if len(args) > len(self.fields):
            raise BadRequest(
                f"{self.name} takes {len(self.fields)} arguments, {len(args)} were sent; /script-info lists them.",
                field="alwayson_scripts",
            )
        return {each.name: value for each, value in zip(self.fields, args) if value is not None}

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """All values of the section, defaults where none is given; BadRequest for an unknown name or a wrong value."""
        return _filled(self.fields, given, self.name)

    def with_settings(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """All of its own settings, likewise."""
        return _filled(self.settings, given, self.name)

    def kept_settings(self, kept: Mapping[str, Any]) -> dict[str, Value]:
        """All of its own settings as they are kept; what does not fit any more is a default."""
        values = self.with_settings({})
        for each in self.settings:
            try:
                values[each.name] = each.value(kept.get(each.name, each.default))
            except ValueError:
                continue
        return values

    def told(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Values of the section by their infotext keys."""
        return {each.infotext_key(self.name): values[each.name] for each in self.fields}

    def read(self, told: Mapping[str, Any]) -> dict[str, Value] | None:
        """The section's values as an infotext tells them; None where it tells none. What does not fit is a default."""
        keys = {each.name: each.infotext_key(self.name) for each in self.fields}
        if not self.section or not any(key in told for key in keys.values()):
            return None
        found = {}
        for each in self.fields:
            try:
                found[each.name] = each.value(told.get(keys[each.name], each.default))
            except ValueError:
                found[each.name] = each.default
        return found


_SETTINGS = [field.annotation for field in Settings.model_fields.values()]
TAKEN = frozenset(
    fact.infotext
    for model in (GenerationRequest, Hires, Refiner, Source, Mask, *_SETTINGS)
    for fact in all_facts(model).values()  # type: ignore[arg-type]
    if fact.infotext
) | {"Size", "Version", "Extensions", "Template", "Negative Template", "Wildcards", "Hires resize", "Lora hashes"}
"""Keys of infotexts that mean something else already."""


def _filled(inputs: Sequence[Input], given: Mapping[str, Any], title: str) -> dict[str, Value]:
    known = {each.name: each for each in inputs}
    for name in given:
        if name not in known:
            takes = ", ".join(known) or "nothing"
            raise BadRequest(f"{title} has no field called {str(name)[:60]!r}; it takes {takes}.", field="extensions")
    try:
        return {name: each.value(given.get(name, each.default)) for name, each in known.items()}
    except ValueError as error:
        raise BadRequest(f"{title}: {error}.", field="extensions") from None


def declared(text: str) -> Declared:
    """Read an extension.toml. BadFile says what is wrong with it."""
    if len(text) > LONGEST_FILE:
        raise BadFile(f"extension.toml is larger than {LONGEST_FILE} characters; make it shorter.")
    try:
        return Declared.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(f"extension.toml is no TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise BadFile(f"extension.toml: {f'{place}: ' if place else ''}{said}.") from None
