"""Pages of memory, as the system tells of them."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from modules.memory.pages import small_pages

SIZE = 8 * 2**20
STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_pages() -> int:
    """Bytes in pages of 2 MB, of new memory that asks for them."""
    with mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = b"x" * (SIZE // mmap.PAGESIZE)
        lines = Path("/proc/self/smaps").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages:"))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_new_memory_comes_in_small_pages_meanwhile_and_in_large_ones_again_later() -> None:
    if not STATE.exists() or "[never]" in STATE.read_text() or not (before := large_pages()):
        pytest.skip("this system has no pages of 2 MB to give")
    with small_pages():
        with small_pages():
            pass
        assert large_pages() < before
    assert large_pages() >= before
