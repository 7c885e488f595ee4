"""A disk whose k-th call fails, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.imaging.save import Disk


class FailingDisk(Disk):
    """Counts the calls; the one numbered `fail_at` (from 1) raises OSError(code)."""

    def __init__(self, fail_at: int = 0, code: int = 0, no_links: bool = False) -> None:
        self.fail_at = fail_at
        self.code = code
        self.no_links = no_links
        self.calls: list[str] = []

    def _call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        self.calls.append(name)
        if len(self.calls) == self.fail_at:
            if name == "close":
                real(*arguments)  # a failing close still lets go of the handle
            raise OSError(self.code, os.strerror(self.code))
        return real(*arguments)

    def create(self, path: Path) -> int:
        return self._call("create", super().create, path)

    def write(self, handle: int, data: memoryview) -> int:
        # Short writes, as a disk that is nearly full makes them.
        return self._call("write", super().write, handle, data[: max(1, len(data) // 2)] if len(data) > 64 else data)

    def sync(self, handle: int) -> None:
        self._call("sync", super().sync, handle)

    def close(self, handle: int) -> None:
        self._call("close", super().close, handle)

    def link(self, source: Path, target: Path) -> None:
        if self.no_links:
            self.calls.append("link")
            raise OSError(1, "Operation not permitted")
        self._call("link", super().link, source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace", super().replace, source, target)

    def remove(self, path: Path) -> None:
        self._call("remove", super().remove, path)

    def make_folder(self, path: Path) -> None:
        self._call("make_folder", super().make_folder, path)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder", super().sync_folder, path)
