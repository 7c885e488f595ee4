"""ui-config.json: what the page's controls begin with, and between which ends, by A1111's keys.

    {"txt2img/Sampling steps/value": 25, "txt2img/Width/maximum": 4096, "img2img/Seed/visible": false}

The file is read, and written only when the owner makes the present values the defaults.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.imaging.save import DISK, Disk
from modules.service.flat_file import FlatFile


class UiConfig:
    """Thread-safe. What the values mean, and whether they fit, is for the page to say."""

    def __init__(self, path: Path, copies: Path, disk: Disk = DISK) -> None:
        self._file = FlatFile(path, copies, "the page's defaults", disk=disk)
        self._lock = threading.Lock()

    @property
    def warnings(self) -> list[str]:
        return self._file.warnings

    @property
    def known(self) -> Mapping[str, Any]:
        return MappingProxyType(self._file.raw)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Write these keys; None takes one out. DiskTrouble: what was changed then holds until the program ends."""
        with self._lock:
            both = {**self._file.raw, **changes}
            self._file.write({key: value for key, value in both.items() if value is not None})
