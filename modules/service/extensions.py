"""The extensions that lie in their folder, as the server knows them: by what they declare. Only a tab's own file is
run here, and only of one that is switched on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from modules.schema.errors import BadFile, BadRequest
from modules.schema.extensions import KEY, LONGEST_FILE, Declared, Value, declared
from modules.schema.fields import Frozen
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings

MOST = 500
BROUGHT = {"wildcards": "wildcards", "tags": "tags to complete", "localizations": "translations"}
"""Folders of an extension that hold data, which is read without its code."""


class Extension(Frozen):
    """One folder. `problem` says why it cannot take part as it is; `note` what else there is to say of it; `brings`,
    what data it has; `asks`, what it needs besides what was agreed to. `failed` says how its code failed to load."""

    key: str
    declared: Declared | None = None
    problem: str = ""
    note: str = ""
    brings: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    on: bool = False
    failed: str = ""

    @property
    def name(self) -> str:
        return self.declared.name if self.declared else self.key


class ExtensionStore:
    """Reads the folder anew each time: it is small. `folder` is None where extensions are disabled by a flag;
    `failures` tells what the drawing process could not load."""

    def __init__(
        self,
        folder: Path | None,
        settings: Callable[[], Settings],
        failures: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.folder, self._settings, self._failures = folder, settings, failures

    def listed(self) -> list[Extension]:
        """All of them, by name of folder."""
        return [self._seen(path) for path in self._paths()]

    def active(self) -> list[Extension]:
        """Those that take part."""
        return [each for each in self.listed() if each.on and each.declared is not None]

    def find(self, name: str) -> Extension | None:
        """The one that takes part and is called so: by its folder, or by what it calls itself."""
        wanted, active = name.casefold(), self.active()
        known = [each for each in active if each.key.casefold() == wanted]
        return next(iter(known or [each for each in active if each.name.casefold() == wanted]), None)

    def with_sections(self, tab: str) -> list[Extension]:
        """Those that take part and have a section in a tab."""
        return [one for one in self.active() if one.declared and one.declared.section
                and tab in one.declared.section.tabs]  # fmt: skip

    def checked(self, request: GenerationRequest) -> GenerationRequest:
        """The request with all values of its sections filled in. BadRequest for one that nobody has, or a value that
        cannot be."""
        if not request.extensions:
            return request
        found: dict[str, dict[str, Value]] = {}
        for name, values in request.extensions.items():
            extension = self.find(name)
            if extension is None or extension.declared is None or extension.declared.section is None:
                raise BadRequest(
                    f"No extension called {name[:60]!r} is on and has a section; the Extensions tab lists all.",
                    field="extensions",
                )
            found[extension.key] = extension.declared.values(values)
        return request.model_copy(update={"extensions": found})

    def switched(self, names: Iterable[str]) -> dict[str, Any]:
        """The settings with which exactly these take part, each with what it says now that it needs. BadRequest for one
        that cannot."""
        known, enabled = {each.key: each for each in self.listed()}, {}
        wanted = set(names)
        for name in sorted(wanted):
            extension = known.get(name)
            if extension is None or extension.declared is None or extension.problem:
                why = extension.problem if extension else "There is no such folder."
                raise BadRequest(
                    f"The extension {name[:60]!r} cannot be switched on. {why}".strip(), field="extensions"
                )
            enabled[name] = extension.declared.needs
        off = [name for name in self._settings().extensions.disabled_extensions if name not in wanted]
        return {"enabled_extensions": enabled, "disabled_extensions": off}

    def told(self, fields: Mapping[str, Any], tab: str) -> dict[str, dict[str, Value]]:
        """The sections that an infotext's fields tell of, with their values."""
        found = {}
        for each in self.with_sections(tab):
            values = each.declared.read(fields) if each.declared else None
            if values is not None:
                found[each.key] = values
        return found

    def _paths(self) -> list[Path]:
        if self.folder is None:
            return []
        try:
            with os.scandir(self.folder) as entries:
                found = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        except OSError:
            return []
        return sorted(found, key=lambda path: (path.name.lower(), path.name))[:MOST]

    def _seen(self, path: Path) -> Extension:
        key, chosen = path.name, self._settings().extensions
        note, brings = _note(path), tuple(word for word in BROUGHT if (path / word).is_dir())
        seen = Extension(key=key, note=note, brings=brings)
        if not KEY.fullmatch(key):
            return seen.model_copy(
                update={"problem": "Its folder's name has characters that are not possible here; rename it."}
            )
        try:
            own = _declared(path)
        except BadFile as error:
            return seen.model_copy(update={"problem": error.message})
        if own is None:
            return seen
        on = chosen.on(key, own.needs)
        asks = own.needs
        if key in chosen.enabled_extensions:
            asks = tuple(need for need in own.needs if need not in chosen.enabled_extensions[key])
        return seen.model_copy(
            update={"declared": own, "asks": asks, "on": on, "failed": self._failures().get(key, "") if on else ""}
        )


def _declared(path: Path) -> Declared | None:
    """What a folder's extension.toml says; None where it has neither that nor code for us. BadFile."""
    file = path / "extension.toml"
    if not file.is_file():
        if (path / "extension.py").is_file():
            raise BadFile("Its extension.toml is missing: docs/extensions.md says what stands in it.")
        return None
    try:
        if file.stat().st_size > 4 * LONGEST_FILE:
            raise BadFile("Its extension.toml is too large.")
        return declared(file.read_text("utf-8"))
    except OSError as error:
        raise BadFile(f"Its extension.toml cannot be read ({error.strerror}).") from None
    except UnicodeError:
        raise BadFile("Its extension.toml is no UTF-8 text.") from None


def _note(path: Path) -> str:
    """What of a folder is not run."""
    others = any((path / "scripts").glob("*.py")) or (path / "install.py").is_file() or (path / "preload.py").is_file()
    return "It has code for A1111's own modules, which Easel does not run." if others else ""
