"""Weights that pass through a device too small for all of them, copied in while earlier layers compute.

    stream = Stream(CardLink(device), budget=300_000_000)
    stream.add("layer 1", (weight, bias))           # they stay where they are, in RAM
    weight, bias = stream.take("layer 1")           # on the device, as late as this call lets it be

It learns the order in which layers are asked for. With that known, what is dropped for want of room is always what is
needed last (Belady 1966), so of a net that is walked again and again as much stays as fits, and only the rest is
copied each time. A budget as large as a net thus parks it whole; a small one streams it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Key = Hashable
IN_FLIGHT = 4
"""Layers copied ahead at most: enough to hide a copy behind the layers before it, little enough to keep room."""


class Link(Protocol):
    """The way to a device."""

    def fetch(self, tensors: Sequence[Tensor]) -> Any:
        """Begin to copy; what is returned is handed to `wait`."""
        ...

    def wait(self, fetched: Any) -> tuple[Tensor, ...]:
        """The copies. What is computed from now on sees them whole."""
        ...


class CardLink:
    """Copies on a stream of its own; only pinned memory is copied while the card computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)  # torch.cuda, torch.xpu
        self._stream = self._module.Stream(device)

    def fetch(self, tensors: Sequence[Tensor]) -> Any:
        with self._module.stream(self._stream):
            copies = tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)
            done = self._module.Event()
            done.record(self._stream)
        return copies, done

    def wait(self, fetched: Any) -> tuple[Tensor, ...]:
        copies, done = fetched
        computing = self._module.current_stream(self.device)
        computing.wait_event(done)  # the card waits, not the program
        for copy in copies:
            copy.record_stream(computing)  # its memory is given away only once the computing is done
        return copies


@dataclass
class _Entry:
    tensors: tuple[Tensor, ...]
    bytes: int
    fetched: Any = None
    follower: Key | None = None
    """What was asked for next the last time."""


class Stream:
    """Keeps at most `budget` bytes on the device, and what is in use just now besides. For one thread."""

    def __init__(self, link: Link, budget: int) -> None:
        self.budget = budget
        self.on_device = 0
        self._link = link
        self._entries: dict[Key, _Entry] = {}
        self._last: Key | None = None

    def add(self, key: Key, tensors: Sequence[Tensor]) -> None:
        """Make a layer's tensors known, or others under a known key."""
        if key in self._entries:
            self._drop(key)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._entries[key] = _Entry(tuple(tensors), size)

    def take(self, key: Key) -> tuple[Tensor, ...]:
        """A layer's tensors on the device. What will follow is begun to be copied."""
        entry = self._entries[key]
        if self._last is not None:
            self._entries[self._last].follower = key
        self._last = key
        coming = self._coming(key)
        if entry.fetched is None:
            self._fetch(key, 0, coming)
        tensors = self._link.wait(entry.fetched)
        for distance, other in enumerate(coming[:IN_FLIGHT], 1):
            if self._entries[other].fetched is None and not self._fetch(other, distance, coming):
                break
        return tensors

    def clear(self) -> None:
        """Leave nothing on the device."""
        for key in self._entries:
            self._drop(key)

    def _coming(self, key: Key) -> list[Key]:
        """What followed the last time, in order, each once."""
        coming: list[Key] = []
        seen = {key}
        follower = self._entries[key].follower
        while follower is not None and follower not in seen:
            coming.append(follower)
            seen.add(follower)
            follower = self._entries[follower].follower
        return coming

    def _fetch(self, key: Key, distance: int, coming: list[Key]) -> bool:
        """Begin to copy a layer needed after `distance` others, if all that must go for it is needed later still."""
        entry = self._entries[key]
        if self.on_device + entry.bytes > self.budget:
            never = len(coming) + 1
            when = {other: number for number, other in enumerate(coming, 1)}
            here = [
                (when.get(k, never), k) for k, e in self._entries.items() if e.fetched is not None and k != self._last
            ]
            here.sort(key=lambda pair: pair[0])
            while here and self.on_device + entry.bytes > self.budget:
                latest, victim = here.pop()
                if distance and latest <= distance:
                    return False
                self._drop(victim)
            if distance and self.on_device + entry.bytes > self.budget:
                return False
        entry.fetched = self._link.fetch(entry.tensors)
        self.on_device += entry.bytes
        return True

    def _drop(self, key: Key) -> None:
        entry = self._entries[key]
        if entry.fetched is not None:
            entry.fetched = None
            self.on_device -= entry.bytes
