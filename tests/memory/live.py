"""Memory counted by tensors: how much a net holds while it answers, on the meta device too, and a device that is full.

with Live() as live: net(x)                      # live.peak
with Live(limit=10_000_000): engine.run(…)       # raises OutOfMemoryError where a card of that size would
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(TorchDispatchMode):
    """Within it `peak` becomes the most bytes that were held at once by what was made within it; beyond `limit` torch's
    error for a full card is raised, `full` counts how often."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit, self.full = limit, 0
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in tree_iter((args, kwargs)) if torch.is_tensor(tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if torch.is_tensor(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in before | self._known:
                    self._meet(storage)
        if self.limit is not None and self.now > self.limit:
            self.full += 1
            raise torch.OutOfMemoryError(f"{self.now} bytes are more than {self.limit}")
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)
