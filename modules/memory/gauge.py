"""What memory is held, and how much a phase of a job took at most, so that predictions can be put right.

    gauge = Gauge(detect())
    with gauge.phase("denoising"):
        ...
    gauge.measured()            # {"weights": …, "denoising": …}: bytes

On a card the allocator is asked; on a processor the system, where it tells of peaks (Linux). Elsewhere nothing is
measured. For one job at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from modules.memory.budget import Need
from modules.memory.machine import DeviceFacts

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Gauge:
    """`fixed`: what was taken of the device before anything was loaded, by us or others."""

    def __init__(self, facts: DeviceFacts) -> None:
        self.facts = facts
        self._process = psutil.Process()
        self._module: Any = torch.get_device_module(facts.kind) if facts.is_card else None
        self.fixed = self._taken()
        self._most: dict[str, int] = {}
        self._held = 0
        self.expected: tuple[str, Need] | None = None

    def begin(self) -> None:
        """Another job: forget what was measured."""
        self._most, self._held, self.expected = {}, 0, None

    def expect(self, kind: str, need: Need) -> None:
        """What is predicted of this job, uncorrected."""
        self.expected = kind, need

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is held within it beyond what is left behind counts as what it took. An error measures nothing."""
        can = self._reset()
        yield
        if can:
            peak, after = self._peak(), self.now()
            self._most[name] = max(self._most.get(name, 0), peak - after)
            self._held = max(self._held, after)

    def measured(self) -> dict[str, int]:
        """Bytes per part, those that were measured."""
        if not self._most:
            return {}
        own = self._held - (0 if self.facts.is_card else self.fixed)
        return {"weights": max(0, own), **self._most}

    def now(self) -> int:
        """Bytes held on the device; on a processor by this process."""
        if self.facts.is_card:
            return self._module.memory_allocated(self.facts.device)
        return self._process.memory_info().rss

    def card(self) -> dict[str, Any]:
        """What A1111's API tells of a card; empty where there is none."""
        if not self.facts.is_card:
            return {}
        free, total = self._module.mem_get_info(self.facts.device)
        stats = self._module.memory_stats(self.facts.device)

        def both(name: str) -> dict[str, int]:
            return {when: stats.get(f"{name}_bytes.all.{when}", 0) for when in ("current", "peak")}

        return {
            "system": {"free": free, "used": total - free, "total": total},
            "active": both("active"),
            "allocated": both("allocated"),
            "reserved": both("reserved"),
            "inactive": both("inactive_split"),
            "events": {"retries": stats.get("num_alloc_retries", 0), "oom": stats.get("num_ooms", 0)},
        }

    def _taken(self) -> int:
        if not self.facts.is_card:
            return self._process.memory_info().rss
        free, total = self._module.mem_get_info(self.facts.device)
        return total - free

    def _reset(self) -> bool:
        if self.facts.is_card:
            self._module.reset_peak_memory_stats(self.facts.device)
            return True
        try:
            RESET.write_text("5")  # the peak of the resident set
        except OSError:
            return False
        return True

    def _peak(self) -> int:
        if self.facts.is_card:
            return self._module.max_memory_allocated(self.facts.device)
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


def give_back() -> None:
    """Let the system have what was freed: C libraries keep it otherwise (glibc; others do it by themselves)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
