"""In which pages the system hands over memory (Linux)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SET_THP_DISABLE, GET_THP_DISABLE = 41, 42  # prctl(2)


@contextmanager
def small_pages() -> Iterator[None]:
    """New memory comes in pages of 4 KB meanwhile, in all the process, whatever `THP_MEM_ALLOC_ENABLE` asks of torch.

    Pages of 2 MB help feature maps, which are handed over anew for each layer. Weights are handed over once, and where
    a virtual machine gives its memory back to the host, each large page of theirs is fetched from there again.
    """
    if sys.platform != "linux":
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    before = prctl(GET_THP_DISABLE, 0, 0, 0, 0)
    prctl(SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(SET_THP_DISABLE, max(before, 0), 0, 0, 0)
