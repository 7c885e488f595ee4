"""Extra networks a prompt names: LoRA and kin, and hypernetworks, as plain values."""

from __future__ import annotations

from typing import Literal

from modules.schema.fields import Frozen


class NetworkUse(Frozen):
    """One tag. Strengths are as written: a number, or a prompt edit of numbers such as "[0:1:0.5]" (`prompt.networks`).

    `text_encoder` and `unet` multiply the changes of the two kinds of nets; a hypernetwork has `unet` alone. `ranks`:
    how many of a LoRA's are used (None: all). `blocks`: block weights as written in `lbw=`. `start`, `stop`: the step
    (from 1) from which it acts, and the last one. `path`, `hash`: the file once it is found, and the 12 digits an
    infotext shows.
    """

    kind: Literal["lora", "hypernet"]
    name: str
    text_encoder: str = "1.0"
    unet: str = "1.0"
    ranks: int | None = None
    blocks: str = ""
    start: int = 1
    stop: int | None = None
    path: str = ""
    hash: str = ""
