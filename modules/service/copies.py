"""The last good copies of a file that users and other programs edit too: kept aside, the newest first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from modules.imaging.save import DISK, Disk, safe_write
from modules.schema.errors import DiskTrouble

COUNT = 5


class Copies:
    """`<name>.good-1` … `good-5` in a folder of our own. A missing copy costs nothing today: nothing here raises."""

    def __init__(self, folder: Path, name: str, disk: Disk = DISK) -> None:
        self.folder, self.name, self._disk = folder, name, disk

    def keep(self, data: bytes) -> None:
        """A file that is known to be good becomes copy 1, the one before it copy 2, and so on."""
        with contextlib.suppress(OSError, DiskTrouble):
            newest = self._path(1)
            if newest.exists() and newest.read_bytes() == data:
                return
            for number in range(COUNT - 1, 0, -1):
                with contextlib.suppress(OSError):
                    self._disk.replace(self._path(number), self._path(number + 1))
            safe_write(newest, data, overwrite=True, disk=self._disk)

    def newest_first(self) -> Iterator[bytes]:
        """The copies that can be read."""
        for number in range(1, COUNT + 1):
            with contextlib.suppress(OSError):
                yield self._path(number).read_bytes()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.name}.good-{number}"
