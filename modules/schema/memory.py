"""What is said about memory: what a job will take, and what is held now."""

from __future__ import annotations

from modules.schema.fields import Frozen


class MemoryEstimate(Frozen):
    """Bytes that a job is predicted to take of the device that draws, everything else on it included.

    `fixed` was taken before any model was loaded. `peak` is `fixed`, `weights` and `beside` with the larger of
    `denoising` and `decoding`; `beside` are weights that stay while others draw: an upscaler's, and those of further
    checkpoints where several are kept. `measured`: corrected by what such jobs took before. `placement`: "resident",
    "parked" or "streamed" weights; `tiled`, `split`: the VAE in tiles, prompts one by one. `checkpoint`: of several the
    one that takes most.
    """

    device: str
    device_name: str
    checkpoint: str
    total: int
    peak: int
    fixed: int
    weights: int
    denoising: int
    decoding: int
    beside: int = 0
    measured: bool
    placement: str
    tiled: bool
    split: bool
    fits: bool


class MemoryHeld(Frozen):
    """Bytes of one memory: all of it, what is free, what our processes hold, and of that what is known by name."""

    total: int
    free: int
    used: int
    weights: int = 0
    activations: int = 0
    cache: int = 0


class MemoryNow(Frozen):
    """`vram` is None where the processor draws. `checkpoint`: the one that is loaded."""

    device: str
    device_name: str
    checkpoint: str | None
    ram: MemoryHeld
    vram: MemoryHeld | None = None
