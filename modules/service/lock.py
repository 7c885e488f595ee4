"""One program per data folder: a lock that the system releases with the process, however that ends."""

from __future__ import annotations

import os
from pathlib import Path

from modules.schema.errors import InUse


class FolderLock:
    """Holds `<folder>/lock` until `close`. InUse where another process holds it; OSError where it cannot be made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._handle)
        except OSError:
            os.close(self._handle)
            raise InUse(
                f"Easel already runs on the data in {folder.parent}; use that one, or start with another --data-dir."
            ) from None

    def close(self) -> None:
        os.close(self._handle)


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt  # there on Windows only

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl  # there on all but Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
