"""Settings that the command line keeps from being changed: by A1111's --freeze-settings or --hide-ui-dir-config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.schema.errors import BadRequest
from modules.schema.settings import SECTION_OF, Settings, is_place
from modules.schema.unused_options import UNUSED

A1111_SECTIONS = {
    "saving-images": "saving", "saving-paths": "saving", "saving-to-dirs": "saving", "sd": "model", "sdxl": "model",
    "vae": "model", "optimizations": "performance", "compatibility": "sampling", "sampler-params": "sampling",
    "img2img": "drawing", "upscaling": "drawing", "face-restoration": "faces", "interrogate": "interrogating",
    "extra_networks": "networks", "live previews": "preview", "ui": "page", "ui_alternatives": "page",
    "ui_gallery": "page", "ui_prompt_editing": "page", "API": "api",
}  # fmt: skip
"""Its names of sections, and where their settings mostly are here."""

SWITCHES = ("enabled_extensions", "disabled_extensions", "disable_all_extensions")
"""Settings that switch extensions."""
NOT_FROM_OUTSIDE = (
    "Extensions cannot be switched: others reach this page (--listen, --share or --server-name), and Easel was started "
    "without --enable-insecure-extension-access."
)


@dataclass(frozen=True)
class Freeze:
    """`everything`; `sections` by their names in `schema.settings`; `names` of settings; with `places` folders and
    patterns of file names are not even shown. `switching`: extensions may not be switched on or off."""

    everything: bool = False
    switching: bool = False
    sections: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    places: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, Any], extension_access: bool = True) -> Freeze:
        """As flags by A1111's dests say, and whether extensions may be switched from the page. BadRequest for a section
        or setting that there is not."""
        sections = {A1111_SECTIONS.get(name, name) for name in _listed(flags.get("freeze_settings_in_sections"))}
        names = set(_listed(flags.get("freeze_specific_settings")))
        for name in sorted(sections - Settings.model_fields.keys()):
            known = ", ".join(Settings.model_fields)
            raise BadRequest(f"--freeze-settings-in-sections: no section is called {name!r}; there are {known}.")
        for name in sorted(names - SECTION_OF.keys()):
            raise BadRequest(f"--freeze-specific-settings: no setting is called {name!r}; config.json has their names.")
        everything, places = bool(flags.get("freeze_settings")), bool(flags.get("hide_ui_dir_config"))
        return cls(everything, not extension_access, frozenset(sections), frozenset(names), places)

    def hides(self, key: str) -> bool:
        """Whether a setting is not shown."""
        return self.places and (is_place(key) or key.endswith("_filename_pattern"))

    def reason(self, key: str) -> str:
        """Why a setting cannot be changed; empty where it can."""
        if self.switching and key in SWITCHES:
            return NOT_FROM_OUTSIDE
        for flag, holds in (
            ("--freeze-settings", self.everything),
            ("--freeze-settings-in-sections", SECTION_OF.get(key) in self.sections),
            ("--freeze-specific-settings", key in self.names),
            ("--hide-ui-dir-config", self.hides(key)),
        ):
            if holds:
                return f"{key} cannot be changed: Easel was started with {flag}."
        return ""

    def check(self, now: Settings, changes: Mapping[str, Any], unused: Mapping[str, Any] = UNUSED) -> None:
        """BadRequest where one of the changes would change what is frozen. `unused`: the present values of A1111's
        options that change nothing."""
        for key, value in changes.items():
            reason = self.reason(key)
            if not reason or (key in unused and unused[key] == value):
                continue
            if key in unused or now.with_options({key: value}).option(key) != now.option(key):
                raise BadRequest(reason, field=key)


NOTHING_FROZEN = Freeze()


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]
