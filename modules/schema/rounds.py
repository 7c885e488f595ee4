"""Parts of a request that are drawn in several rounds: tile by tile, or again and again."""

from __future__ import annotations

from modules.schema.fields import Frozen, fact

CURVES = ("Aggressive", "Linear", "Lazy")


class Tiles(Frozen):
    """The source enlarged, then drawn over in overlapping tiles of the asked size (A1111's SD upscale)."""

    scale_factor: int | float = fact(2.0, label="Scale Factor", ge=1, le=16, soft_le=4, step=0.05)
    upscaler: str = fact("None", label="Upscaler", infotext="SD upscale upscaler")
    overlap: int = fact(
        64, label="Tile overlap", ge=0, le=2048, soft_le=256, step=16, infotext="SD upscale overlap", hint="in pixels"
    )


class Loopback(Frozen):
    """Each result is the next one's source. The strength goes from the source's to the final one along a curve."""

    loops: int = fact(4, label="Loops", ge=1, le=1000, soft_le=32, step=1)
    final_denoising_strength: int | float = fact(
        0.5, label="Final denoising strength", ge=0, le=1, step=0.01, infotext="Final denoising strength"
    )
    denoising_curve: str = fact("Linear", label="Denoising strength curve", choices=CURVES, infotext="Denoising curve")
