"""What a user asks for: one type for every way of generating; which task it is follows from its parts."""

from __future__ import annotations

from typing import Any

from modules.schema.fields import Frozen, fact

MAX_SEED = 2**64 - 1


class GenerationRequest(Frozen):
    """A request as the user wrote it: names not yet looked up, seed -1 not yet drawn.

    Names, ranges and defaults are A1111's. Sizes are in pixels; any size from 64 to 16384 is accepted and worked at the
    next multiple of 8.
    """

    prompt: str = fact("", label="Prompt")
    negative_prompt: str = fact("", label="Negative prompt", infotext="Negative prompt")
    styles: tuple[str, ...] = fact((), label="Styles", infotext="Styles array")
    checkpoint: str | None = fact(None, label="Checkpoint", infotext="Model", hint="None is the one in the settings.")

    sampler: str = fact("DPM++ 2M", label="Sampling method", infotext="Sampler", api=("sampler_name", "sampler_index"))
    scheduler: str = fact("Automatic", label="Schedule type", infotext="Schedule type")
    steps: int = fact(20, label="Sampling steps", ge=1, le=150, step=1, infotext="Steps")
    cfg_scale: int | float = fact(7.0, label="CFG Scale", ge=0, le=1000, soft_le=30, step=0.5, infotext="CFG scale")

    width: int = fact(512, label="Width", ge=64, le=16384, soft_le=2048, step=8, infotext="Size-1")
    height: int = fact(512, label="Height", ge=64, le=16384, soft_le=2048, step=8, infotext="Size-2")
    n_iter: int = fact(1, label="Batch count", ge=1, le=10000, soft_le=100, step=1)
    batch_size: int = fact(1, label="Batch size", ge=1, le=64, soft_le=8, step=1, infotext="Batch size")

    seed: int = fact(-1, label="Seed", ge=-1, le=MAX_SEED, infotext="Seed", hint="-1 draws a new one.")
    subseed: int = fact(-1, label="Variation seed", ge=-1, le=MAX_SEED, infotext="Variation seed")
    subseed_strength: float = fact(
        0.0, label="Variation strength", ge=0, le=1, step=0.01, infotext="Variation seed strength"
    )
    seed_resize_from_w: int = fact(0, label="Resize seed from width", ge=-1, le=16384, soft_le=2048, step=8)
    seed_resize_from_h: int = fact(0, label="Resize seed from height", ge=-1, le=16384, soft_le=2048, step=8)

    override_settings: dict[str, Any] = fact({}, label="Override settings")
