"""What a run is given: everything it may know or touch arrives here, so nothing is global."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from PIL import Image
from torch import Tensor

from modules.memory.devices import DeviceFacts
from modules.memory.gauge import Gauge
from modules.pipeline.extensions import Hooks
from modules.pipeline.faces import Faces
from modules.pipeline.latents import Start
from modules.pipeline.text import ConditioningCache
from modules.pipeline.upscalers import Upscalers
from modules.schema.errors import Cancelled
from modules.schema.events import Event, Warned
from modules.schema.folders import Folders
from modules.schema.plan import Plan
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency


class Control(Protocol):
    """The user's hand on a running job, read at every step. `finished`: pictures an earlier attempt has saved."""

    finished: frozenset[int]

    @property
    def cancelled(self) -> bool: ...

    def take_skip(self) -> bool:
        """True once after the user asked for the next picture."""
        ...


@dataclass
class Share:
    """The user's hand on a share of a job: on one request of many, or on what an earlier attempt has left."""

    control: Control
    finished: frozenset[int]

    @property
    def cancelled(self) -> bool:
        return self.control.cancelled

    def take_skip(self) -> bool:
        return self.control.take_skip()


class Kept(NamedTuple):
    """A finished picture: number k of its plan."""

    plan: Plan
    k: int
    image: Image.Image


class Skipped(Exception):
    """The user asked for the next picture; ends one batch, not the job."""


class BrokenOff(Exception):
    """A batch ended, by the `cause`, before its pictures were finished; `latents` [B, C, h, w] are what they were to
    become when last judged, `size` is theirs in pixels, and `start` what they began from."""

    def __init__(
        self, latents: Tensor, size: tuple[int, int], cause: Cancelled | Skipped, start: Start | None = None
    ) -> None:
        super().__init__()
        self.latents, self.size, self.cause, self.start = latents, size, cause, start


@dataclass(frozen=True)
class RunContext:
    """`emit` takes events as they happen; `conditionings` outlives jobs (its keys hold all that matters). `kept`: what
    a script holds on to for its grids, by number of the picture; it outlives an attempt that ran out of memory.
    `hooks`: of the extensions that take part, None where none does."""

    job: str
    emit: Callable[[Event], None]
    control: Control
    folders: Folders
    settings: Settings
    catalogue: Catalogue
    residency: Residency
    facts: DeviceFacts
    conditionings: ConditioningCache
    upscalers: Upscalers
    faces: Faces
    gauge: Gauge
    said: set[str] = field(default_factory=set)
    kept: dict[int, Kept] = field(default_factory=dict)
    hooks: Hooks | None = None

    def warn(self, message: str) -> None:
        """Tell the user something, once in a job."""
        if message not in self.said:
            self.said.add(message)
            self.emit(Warned(message=message))

    def check(self) -> None:
        """Raises Cancelled or Skipped if the user asked for it."""
        if self.control.cancelled:
            raise Cancelled("The job was interrupted.")
        if self.control.take_skip():
            raise Skipped
