"""How long the parts of a start take, in seconds from the moment the operating system made the process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def process_age() -> float:
    """Seconds since this process was started."""
    try:
        started = int(Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        # Elsewhere than on Linux; there it would be off by up to a second, the boot time being a whole number.
        return time.time() - psutil.Process().create_time()


class Startup:
    """Parts in their order, each from the end of the one before; `say` is told of each as it ends."""

    def __init__(self, say: Callable[[str], None] | None = None, age: Callable[[], float] = process_age) -> None:
        self.records: dict[str, float] = {}
        self._say, self._age, self._last = say, age, 0.0

    @property
    def total(self) -> float:
        return self._last

    def done(self, part: str) -> None:
        """What happened since the part before is called `part`."""
        now = self._age()
        self.records[part] = now - self._last
        self._last = now
        if self._say:
            self._say(f"{now:7.2f} s: {part} took {self.records[part]:.2f} s")
