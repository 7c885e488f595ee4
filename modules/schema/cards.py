"""Model files as cards: what the page shows of a LoRA, an embedding, a hypernetwork, a checkpoint."""

from __future__ import annotations

from pydantic import Field

from modules.schema.fields import Frozen
from modules.schema.record import ModelView

LONGEST = 65_536


class CardNotes(Frozen):
    """What a user writes down about a model, under A1111's names of it. A weight of 0 is none."""

    description: str = Field(default="", max_length=LONGEST)
    notes: str = Field(default="", max_length=LONGEST)
    activation: str = Field(default="", max_length=LONGEST)
    preferred_weight: float = Field(default=0.0, ge=-100, le=100)
    negative: str = Field(default="", max_length=LONGEST)
    sd_version: str = Field(default="", max_length=32)
    vae: str = Field(default="", max_length=512)


class Card(Frozen):
    """All of one card. `word`: how a prompt names it. `fits` the checkpoint it was asked for; None where nobody knows.

    `tags`: what it was trained on, by frequency. `facts`: lines for people. `metadata`: every text of its header, long
    ones shortened, pictures left out. `vae`: of a checkpoint's notes. `writable`: whoever asked may write
    notes and previews.
    """

    model: ModelView
    word: str
    fits: bool | None = None
    vae: str = ""
    writable: bool = True
    tags: tuple[tuple[str, int], ...] = ()
    facts: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
