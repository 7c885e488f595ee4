"""Presets: all that a form holds under a name, in presets.json; some are what a family of models begins with.

    {"portrait": {"tab": "txt2img", "values": {"steps": 30, "width": 832}, "families": ["sdxl"]}}

An exported file looks the same, so importing is reading one more.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from modules.imaging.save import DISK, Disk
from modules.schema.errors import BadRequest, NotFound
from modules.schema.fields import Frozen
from modules.service.flat_file import FlatFile

LONGEST_NAME = 100
LARGEST = 200_000  # characters of one preset
MOST = 2000


class Preset(Frozen):
    """`values` by the path of the form's field; `families`: for which it is what a form begins with."""

    tab: str = Field(max_length=40)
    values: dict[str, Any]
    families: tuple[str, ...] = ()


class PresetStore:
    """Thread-safe. A preset that makes no sense is left out, alone, and stays in the file."""

    def __init__(self, path: Path, copies: Path, disk: Disk = DISK) -> None:
        self._file = FlatFile(path, copies, "the presets", lambda name, value: _read(value) is not None, disk)
        self._lock = threading.Lock()

    @property
    def warnings(self) -> list[str]:
        return self._file.warnings

    def listed(self) -> dict[str, Preset]:
        """By name, sorted."""
        found = {name: _read(value) for name, value in self._file.raw.items()}
        return {name: found[name] for name in sorted(found, key=str.lower) if found[name] is not None}  # type: ignore[misc]

    def save(self, presets: dict[str, Preset]) -> None:
        """Add presets, or change those of the same names. A family begins with one preset of a tab: the last saved.

        BadRequest for a name or a preset that cannot be; DiskTrouble where the file cannot be written.
        """
        for name, preset in presets.items():
            if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or "\n" in name:
                raise BadRequest(
                    f"A preset's name is a line of 1 to {LONGEST_NAME} characters; give another.", field="name"
                )
            if len(preset.model_dump_json()) > LARGEST:
                raise BadRequest(f"The preset {name} is too large; shorten its prompts.", field="values")
        with self._lock:
            raw = dict(self._file.raw)
            if len(raw.keys() | presets.keys()) > MOST:
                raise BadRequest(f"At most {MOST} presets are kept; delete some first.", field="name")
            for name, preset in presets.items():
                for other, kept in [(other, _read(value)) for other, value in raw.items()]:
                    if kept is not None and kept.tab == preset.tab and set(kept.families) & set(preset.families):
                        left = tuple(family for family in kept.families if family not in preset.families)
                        raw[other] = _plain(kept.model_copy(update={"families": left}))
                raw[name] = _plain(preset)
            self._file.write(raw)

    def delete(self, name: str) -> None:
        """NotFound where there is none of that name."""
        with self._lock:
            if name not in self._file.raw:
                raise NotFound(f"No preset is called {name!r:.120}; the list shows those that are.")
            self._file.write({other: value for other, value in self._file.raw.items() if other != name})

    def take_in(self, data: bytes) -> list[str]:
        """Read an exported file; the names of what it brought, which win over those that are there. BadRequest."""
        try:
            found = json.loads(data.decode("utf-8-sig"))
            presets = {str(name): Preset.model_validate(value) for name, value in found.items()}
        except (ValueError, AttributeError, RecursionError):
            raise BadRequest("This file holds no presets; choose one that was exported here.", field="file") from None
        self.save(presets)
        return list(presets)


def _read(value: Any) -> Preset | None:
    try:
        return Preset.model_validate(value)
    except ValidationError:
        return None


def _plain(preset: Preset) -> dict[str, Any]:
    return preset.model_dump(mode="json")
