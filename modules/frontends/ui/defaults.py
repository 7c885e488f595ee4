"""What the page's forms begin with: read from ui-config.json, and written there when the owner asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from modules.frontends.desk import FrontDesk
from modules.frontends.ui import forms

# Never what a form begins with.
PASSING = ("script", "controlnet", "extensions", "override_settings", "prompt", "negative_prompt")


class Changed(BaseModel):
    """A control that begins with something else than Easel's own default."""

    tab: str
    label: str
    value: Any
    usual: Any


def changed(service: FrontDesk) -> list[Changed]:
    """All of them, in the order of the forms."""
    return [
        Changed(
            tab=tab, label=forms.label_of(path), value=_word(path, look.value),
            usual=_word(path, forms.default_of(path)),
        )
        for tab in forms.FORMS
        for path, look in forms.looks_of(service.ui_config.known, tab).items()
        if look.value is not None
    ]  # fmt: skip


def keep(service: FrontDesk, drafts: Mapping[str, Mapping[str, Any]]) -> None:
    """Make what forms hold (by tab and path) what they begin with. What is as usual leaves the file."""
    changes: dict[str, Any] = {}
    for tab, values in drafts.items():
        if tab not in forms.FORMS:
            continue
        taken: set[str] = set()
        looks = forms.looks_of(service.ui_config.known, tab)
        for path, usual in forms.untouched(tab).items():
            keys = [key for key in forms.config_keys(tab, path) if key not in taken]
            taken.update(keys)
            value = values.get(path)
            if path in PASSING or not keys or value is None or not forms.fits(tab, path, value, looks):
                continue
            for key in keys[:-1]:
                changes[f"{key}/value"] = None
            changes[f"{keys[-1]}/value"] = None if value == usual else _word(path, value)
    service.ui_config.change(changes)


def _word(path: str, value: Any) -> Any:
    """As A1111 writes it: numbered choices by their names."""
    return forms.NUMBERED[path][value] if path in forms.NUMBERED and isinstance(value, int) else value
