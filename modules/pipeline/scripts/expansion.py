"""What a script makes of a request: plain requests to be drawn, and the grids that their pictures become."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from pydantic import BaseModel, ValidationError

from modules.imaging.legend import Look, Words, annotated, rows_for, sheet
from modules.schema.errors import BadRequest
from modules.schema.request import GenerationRequest
from modules.schema.settings import Saving

SEED_RANGE = 4294967294
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Made:
    """A grid, what its infotext tells besides that of the first picture, and what its file is called."""

    image: Image.Image
    told: Mapping[str, Any] = field(default_factory=dict)
    basename: str = "grid"


Cells = Sequence[Sequence[Image.Image]]
"""The pictures of each request; none where it could not be drawn."""


@dataclass(frozen=True)
class Expansion:
    """`requests` in the order of their pictures, drawn in that of `order`. Of their pictures `compose` makes `grids`
    grids; they come first. `shown`: the single pictures are part of the result, and not only of its grids."""

    title: str
    requests: tuple[GenerationRequest, ...]
    order: tuple[int, ...] = ()
    grids: int = 0
    compose: Callable[[Cells, Look], list[Made]] = lambda cells, look: []
    shown: bool = True

    def __post_init__(self) -> None:
        if not self.requests:
            raise BadRequest(f"{self.title} has nothing to draw; fill in its fields.", field="script")
        if len(self.requests) > MOST_CELLS:
            raise BadRequest(
                f"{self.title} would draw {len(self.requests):,} pictures; {MOST_CELLS:,} are the most.",
                field="script",
            )

    @property
    def drawn(self) -> tuple[int, ...]:
        return self.order or tuple(range(len(self.requests)))


def look_of(saving: Saving) -> Look:
    return Look(
        saving.grid_background_color, saving.grid_text_active_color, saving.grid_text_inactive_color, font=saving.font
    )


def own_seed(seed: int, what: object) -> int:
    """A seed drawn from another one, the same at every attempt."""
    return random.Random(f"{seed}/{what}").randrange(SEED_RANGE)


def changed(part: BaseModel, name: str, value: Any, said: str) -> Any:
    """A part of a request with one field changed and checked; `said`: what the user calls it."""
    try:
        return type(part).model_validate({**dict(part), name: value})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].replace("Input", "it")
        raise BadRequest(f"{said} cannot be {str(value)[:60]!r}: {reason}.", field="script") from None


def one_of(images: Sequence[Image.Image], look: Look) -> Image.Image | None:
    """One picture of a place: the only one, or all of them side by side."""
    if len(images) < 2:
        return images[0] if images else None
    return sheet(images, rows_for(len(images)), look)


def laid_out(
    images: Sequence[Image.Image | None],
    above: Sequence[Sequence[Words]],
    beside: Sequence[Sequence[Words]],
    margin: int,
    look: Look,
) -> Image.Image:
    """A grid with its words."""
    there = [image for image in images if image is not None]
    cell = max(image.width for image in there), max(image.height for image in there)
    return annotated(sheet(images, len(beside), look, cell), cell, above, beside, margin, look)
