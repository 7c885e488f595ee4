"""What a job says while it runs: plain data with encoded pictures; .

Events of a job are numbered from 1 in order. `Preview` events are replaceable: only the newest is kept.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from modules.schema.fields import Frozen
from modules.schema.record import SavedRecord


class Queued(Frozen):
    kind: Literal["queued"] = "queued"


class Started(Frozen):
    kind: Literal["started"] = "started"
    attempt: int = 1


class Progress(Frozen):
    """`step` of `steps` counts denoising steps over the whole job; `eta` in seconds; `text` names the stage."""

    kind: Literal["progress"] = "progress"
    step: int
    steps: int
    eta: float | None = None
    text: str = ""

    @property
    def fraction(self) -> float:
        return self.step / self.steps if self.steps else 0.0


class Preview(Frozen):
    """The picture so far, encoded (`format` as in image/<format>)."""

    kind: Literal["preview"] = "preview"
    step: int
    format: str
    data: bytes


class Warned(Frozen):
    kind: Literal["warned"] = "warned"
    message: str


class ImageReady(Frozen):
    """A finished picture. `data` carries its PNG bytes only where no file holds them."""

    kind: Literal["image"] = "image"
    record: SavedRecord
    data: bytes | None = None


class Done(Frozen):
    kind: Literal["done"] = "done"
    seconds: float = 0.0


class Failed(Frozen):
    kind: Literal["failed"] = "failed"
    code: str
    message: str


class Cancelled(Frozen):
    kind: Literal["cancelled"] = "cancelled"


Event = Annotated[
    Queued | Started | Progress | Preview | Warned | ImageReady | Done | Failed | Cancelled,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
