"""The fastest of several ways to compute the same, found by measuring once per size and remembered.

    attention = Fastest({"sdp": sdp, "split": split}, "cpu", known, remember)
    attention(q, k, v)                    # the first call of a size tries them all, later ones take the winner

What was chosen stays chosen within a run, and between runs as long as `known` is kept, so that the same request draws
the same picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

SMALL = 256 * 256
"""Scores per head below which no way is worth a measurement: the first is taken."""
SMALL_ON_CPU = 1024 * 1024
"""There other programs disturb a measurement, and a small picture should not hang on what was measured where."""
TRIES = 3
HOPELESS = 10
BEHIND = 1.5
HEADS_ON_CPU = 2
"""There so many heads of one picture are enough to tell, and the first picture waits an eighth of the time."""


class Fastest:
    """A callable (q, k, v, mask) like those it chooses among; the first of them must always work.

    Args:
        ways: by name. One that raises is not chosen.
        machine: what the figures hold for, such as the card's name.
        known: sizes (text) and the winners of earlier runs.
        remember: told all known winners whenever there is a new one.
    """

    def __init__(
        self,
        ways: Mapping[str, Callable[..., Tensor]],
        machine: str,
        known: Mapping[str, str] | None = None,
        remember: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self.ways = dict(ways)
        self.machine = machine
        self.known = {key: name for key, name in (known or {}).items() if name in self.ways}
        self._remember = remember
        self.without: frozenset[str] = frozenset()
        """Ways not to be taken for now."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        small = q.shape[2] * k.shape[2] < (SMALL_ON_CPU if q.device.type == "cpu" else SMALL)
        if small or len(self.ways) == 1:
            return next(iter(self.ways.values()))(q, k, v, mask)
        key = self._size(q, k, mask)
        if self.known.get(key) in {None, *self.without}:
            self.known[key] = self._measured(q, k, v, mask)
            if self._remember:
                self._remember(dict(self.known))
        return self.ways[self.known[key]](q, k, v, mask)

    def taken(self, number: str) -> str:
        """The ways that were measured best with a number type ("bfloat16") so far, or the first."""
        found = {name for key, name in self.known.items() if f"|torch {torch.__version__}|{number}|" in key}
        return ", ".join(sorted(found)) or next(iter(self.ways))

    def _size(self, q: Tensor, k: Tensor, mask: Tensor | None) -> str:
        """Batch and heads are left out: a picture must be drawn alike alone and among others."""
        n, m = (1 << (length - 1).bit_length() for length in (q.shape[2], k.shape[2]))
        number = str(q.dtype).removeprefix("torch.")
        machine = self.machine if q.device.type != "cpu" else "the processor"
        return f"{machine}|torch {torch.__version__}|{number}|{n}x{m}x{q.shape[3]}|{'mask' * (mask is not None)}"

    def _measured(self, *inputs: Any) -> str:
        seconds: dict[str, float] = {}
        if inputs[0].device.type == "cpu" and inputs[3] is None:
            inputs = tuple(part if part is None else part[:1, :HEADS_ON_CPU] for part in inputs)
        for name, way in self.ways.items():
            if name in self.without:
                continue
            seconds[name] = _seconds(way, inputs, min(seconds.values(), default=float("inf")))
        return min(seconds, key=lambda name: seconds[name])


def _seconds(way: Callable[..., Tensor], inputs: tuple, known: float) -> float:
    """The best of a few calls after one that warms up; infinite where it cannot do it.

    One that warms up ten times slower than the best `known`, or is half slower when warm, is not asked again.
    """
    best = float("inf")
    try:
        for attempt in range(TRIES + 1):
            _finish(inputs[0])
            began = time.perf_counter()
            way(*inputs)
            _finish(inputs[0])
            took = time.perf_counter() - began
            if attempt:
                best = min(best, took)
                if best > BEHIND * known:
                    break
            elif took > HOPELESS * known:
                return took
    except (RuntimeError, ImportError, NotImplementedError, ValueError):  # ValueError: xformers has no kernel for it
        return float("inf")
    return best


def _finish(like: Tensor) -> None:
    """Wait for what the device still does."""
    if like.device.type not in ("cpu", "meta"):
        torch.get_device_module(like.device).synchronize()
