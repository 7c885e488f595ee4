"""The settings on disk: A1111's flat config.json.

What is wrong with the file costs as little as can be (service.flat_file): a value that cannot be is left at its
default, alone. Keys that are not ours stay in the file.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.imaging.save import DISK, Disk
from modules.schema.errors import BadRequest, DiskTrouble
from modules.schema.settings import SECTION_OF, Settings
from modules.schema.unused_options import UNUSED, check_unused
from modules.service.flat_file import FlatFile


class SettingsStore:
    """The one place that knows the current settings. Thread-safe. Good copies lie in the folder `copies`."""

    def __init__(self, path: Path, copies: Path, disk: Disk = DISK) -> None:
        self.path = path
        self._file = FlatFile(path, copies, "the settings", _rescuable, disk)
        self._lock = threading.Lock()
        self._settings = self._understand()

    @property
    def warnings(self) -> list[str]:
        return self._file.warnings

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def unused(self) -> Mapping[str, Any]:
        """A1111's options that change nothing here, as the file has them or as A1111 begins."""
        return {key: self._file.raw.get(key, usual) for key, usual in UNUSED.items()}

    def change(self, changes: dict[str, Any]) -> Settings:
        """Changes options by their flat names, those of A1111 that change nothing too, and writes the file.

        BadRequest, and nothing changed, for an unknown name or a refused value. DiskTrouble where the file cannot be
        written; the change then holds until the program ends.
        """
        with self._lock:
            unused = {key: value for key, value in changes.items() if key in UNUSED}
            for key, value in unused.items():
                check_unused(key, value)
            changed = self._settings.with_options({k: v for k, v in changes.items() if k not in unused})
            self._settings = changed
            ours = {key: changed.option(key) for key in changes if key not in unused}
            try:
                self._file.write({**self._file.raw, **unused, **ours})
            except DiskTrouble as error:
                raise DiskTrouble(f"{error.message} The change holds until Easel is closed.") from error
            return changed

    def _understand(self) -> Settings:
        """Settings from what was read; a value that cannot be costs itself only."""
        ours = {key: value for key, value in self._file.raw.items() if key in SECTION_OF}
        settings, refused = Settings(), []
        while ours:
            try:
                settings = settings.with_options(ours)
                break
            except BadRequest as error:
                key = error.field if error.field in ours else next(iter(ours))
                refused.append(key)
                del ours[key]
        if refused:
            self._file.drop(refused)
        return settings


def _rescuable(key: str, value: Any) -> bool:
    return key not in SECTION_OF or _fits(key, value)


def _fits(key: str, value: Any) -> bool:
    try:
        Settings().with_options({key: value})
    except (BadRequest, RecursionError):
        return False
    return True
