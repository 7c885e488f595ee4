"""Weights that pass through a device too small for all of them, copied in while earlier layers compute.

    stream = Stream(CardLink(device), budget=300_000_000)
    stream.add("layer 1", (weight, bias))           # they stay where they are, in RAM
    weight, bias = stream.take("layer 1")           # on the device, as late as this call lets it be

It learns the order in which layers are asked for. With that known, what is dropped for want of room is always what is
needed last (Belady 1966), so of a net that is walked again and again as much stays as fits, and only the rest is
copied each time. A budget as large as a net thus parks it whole; a small one streams it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
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

    def release(self, fetched: Any) -> None:
        """The copies are let go of: what is computed with them so far comes before whatever takes their memory."""
        ...


class CardLink:
    """Copies on a stream of its own; only pinned memory is copied while the card computes.

    The memory of copies is that stream's, so what is let go of is filled again by the next copies at once, however far
    the program is ahead of the card; that the card has done with it by then, the stream waits for.
    """

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
        self._module.current_stream(self.device).wait_event(done)  # the card waits, not the program
        return copies

    def release(self, fetched: Any) -> None:
        used = self._module.Event()
        used.record(self._module.current_stream(self.device))
        self._stream.wait_event(used)


@dataclass
class _Entry:
    tensors: tuple[Tensor, ...]
    bytes: int
    budget: int | None
    fetched: Any = None
    copies: tuple[Tensor, ...] | None = None
    """Those that have been waited for."""
    follower: Key | None = None
    """What was asked for next the last time."""


@dataclass
class _Walk:
    """What follows a layer, in order, each once; `closed`: after the last the first comes again."""

    order: list[Key]
    places: dict[Key, int]
    closed: bool
    strangers: list[Key]
    """What is on the device and not known to be asked for again."""


class Stream:
    """Keeps at most `budget` bytes on the device, and what is in use just now besides. For one thread."""

    def __init__(self, link: Link, budget: int) -> None:
        self.budget = budget
        self.on_device = 0
        self._link = link
        self._entries: dict[Key, _Entry] = {}
        self._last: Key | None = None
        self._walk: _Walk | None = None

    def add(self, key: Key, tensors: Sequence[Tensor], budget: int | None = None) -> None:
        """Make a layer's tensors known, or others under a known key. `budget`: while this one is in use, where it is
        smaller."""
        if key in self._entries:
            self._drop(key)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._entries[key] = _Entry(tuple(tensors), size, budget)
        self._walk = None

    def take(self, key: Key) -> tuple[Tensor, ...]:
        """A layer's tensors on the device. What will follow is begun to be copied."""
        entry = self._entries[key]
        if self._last is not None and self._entries[self._last].follower != key:
            self._entries[self._last].follower = key
            self._walk = None
        self._last = key
        walk = self._walk
        if walk is None or not walk.closed or key not in walk.places:
            walk = self._walk = self._learnt(key)
        if entry.fetched is None:
            self._fetch(key, 0, walk)
        else:
            self._make_room(0, 0, walk)
        if entry.copies is None:
            entry.copies = self._link.wait(entry.fetched)
        place, length = walk.places[key], len(walk.order)
        for distance in range(1, min(IN_FLIGHT, length - 1) + 1):
            other = walk.order[(place + distance) % length]
            if self._entries[other].fetched is None and not self._fetch(other, distance, walk):
                break
        return entry.copies

    def remove(self, keys: Iterable[Key]) -> None:
        """Forget layers, and in which order they were asked for."""
        gone = set(keys)
        for key in gone & self._entries.keys():
            self._drop(key)
            del self._entries[key]
        for entry in self._entries.values():
            if entry.follower in gone:
                entry.follower = None
        if self._last in gone:
            self._last = None
        self._walk = None

    def clear(self) -> None:
        """Leave nothing on the device."""
        for key in self._entries:
            self._drop(key)
        self._walk = None

    def _learnt(self, key: Key) -> _Walk:
        """What followed the last time, from this one on."""
        order, places = [key], {key: 0}
        follower = self._entries[key].follower
        while follower is not None and follower not in places:
            places[follower] = len(order)
            order.append(follower)
            follower = self._entries[follower].follower
        strangers = [k for k, entry in self._entries.items() if entry.fetched is not None and k not in places]
        return _Walk(order, places, follower == key, strangers)

    def _fetch(self, key: Key, distance: int, walk: _Walk) -> bool:
        """Begin to copy a layer needed after `distance` others, if all that must go for it is needed later still."""
        entry = self._entries[key]
        if not self._make_room(entry.bytes, distance, walk) and distance:
            return False
        entry.fetched = self._link.fetch(entry.tensors)
        self.on_device += entry.bytes
        return True

    def _make_room(self, size: int, distance: int, walk: _Walk) -> bool:
        """Drop what is needed last until there is room for so many bytes; whether there is."""
        assert self._last is not None
        own = self._entries[self._last].budget
        budget = self.budget if own is None else min(own, self.budget)
        while self.on_device + size > budget and walk.strangers:
            self._drop(walk.strangers.pop())
        place, length = walk.places[self._last], len(walk.order)
        # The one used last but one is needed again last of all, and so on backwards.
        for latest in range(length - 1, distance, -1):
            if self.on_device + size <= budget:
                return True
            self._drop(walk.order[(place + latest) % length])
        return self.on_device + size <= budget

    def _drop(self, key: Key) -> None:
        entry = self._entries[key]
        if entry.fetched is not None:
            self._link.release(entry.fetched)
            entry.fetched = entry.copies = None
            self.on_device -= entry.bytes
