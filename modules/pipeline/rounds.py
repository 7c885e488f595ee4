"""Pictures that take several drawings each: an enlarged one drawn over tile by tile, and one drawn again and again.

Here is what each round draws, as a plan of its own; `generate` draws them one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from modules.imaging import grid
from modules.imaging.resize import Upscale
from modules.pipeline.source import Pictures, Prepared
from modules.schema.errors import BadRequest
from modules.schema.plan import Plan
from modules.schema.request import Source
from modules.schema.rounds import Loopback, Tiles

MAX_PIXELS = 16384 * 16384
# How far from the first strength to the last a round is, by its share of the way.
CURVES: dict[str, Callable[[float], float]] = {
    "Aggressive": lambda way: math.sin(way * math.pi / 2),
    "Linear": lambda way: way,
    "Lazy": lambda way: 1 - math.cos(way * math.pi / 2),
}


def check(source: Source, width: int, height: int) -> None:
    """Raises BadRequest where the parts of a source do not go together."""
    several = [name for name in ("outpaint", "tiles", "loopback") if getattr(source, name) is not None]
    if len(several) > 1:
        raise BadRequest(f"{' and '.join(several)} cannot be combined; choose one.", field=several[1])
    if source.mask is not None and (source.tiles or source.outpaint):
        raise BadRequest(f"{several[0]} takes no mask; leave the mask out.", field="mask")
    if source.outpaint is not None:
        asked = source.outpaint
        if not (asked.left or asked.right or asked.up or asked.down):
            raise BadRequest("Outpainting needs at least one direction with some pixels.", field="outpaint")
    if source.inversion is not None and source.mask is not None:
        raise BadRequest("The noise of a source is found for the whole picture; leave the mask out.", field="mask")
    if source.tiles is not None and source.tiles.overlap >= min(width, height):
        raise BadRequest(
            f"The overlap of {source.tiles.overlap} leaves nothing of tiles of {width}x{height}; make it smaller.",
            field="overlap",
        )
    if source.loopback is not None and source.loopback.denoising_curve not in CURVES:
        raise BadRequest(f"The curve of the strengths is one of {', '.join(CURVES)}.", field="denoising_curve")


@dataclass(frozen=True)
class Cut:
    """One picture's tiles as a job of their own: draw `plan` out of `prepared`, give the results to `joined`."""

    plan: Plan
    prepared: Prepared
    tiles: grid.Tiles

    def joined(self, images: Sequence[Image.Image]) -> Image.Image:
        return self.tiles.joined(images)


def cut(plan: Plan, k: int, given: Pictures, tiles: Tiles, upscale: Upscale | None) -> Cut:
    """Picture k, enlarged, in tiles of the asked size; each batch of tiles has the next seed."""
    source, request = given.sources[k % len(given.sources)], plan.request
    if upscale is not None:
        source = upscale(source, tiles.scale_factor)
    spread = grid.Tiles.over(source.size, (request.width, request.height), tiles.overlap)
    parts = tuple(part.resize((request.width, request.height)) if part.size != (request.width, request.height) else part
                  for part in spread.cut(source))  # fmt: skip
    varied, size = request.subseed_strength > 0, request.batch_size
    places = range(len(parts))
    own = plan.model_copy(
        update={
            "prompts": (plan.prompts[k],) * len(parts),
            "negative_prompts": (plan.negative_prompts[k],) * len(parts),
            "draws": (),
            "seeds": tuple(plan.seeds[k] + i // size + (0 if varied else i % size) for i in places),
            "subseeds": tuple(plan.subseeds[k] + i % size for i in places),
        }
    )
    return Cut(own, Prepared(parts), spread)


def tiles_of(plan: Plan, given: Pictures, tiles: Tiles, upscale: Upscale | None) -> int:
    """How many tiles each picture will have."""
    width, height = given.sources[0].size
    if upscale is not None:
        width, height = (int(side * tiles.scale_factor // 8 * 8) for side in (width, height))
    if width * height > MAX_PIXELS:
        raise BadRequest(f"SD upscale would draw {width}x{height}, which is too large; scale less.", field="tiles")
    spread = grid.Tiles.over((width, height), (plan.request.width, plan.request.height), tiles.overlap)
    return len(spread.starts)


def again(plan: Plan, loop: int, loopback: Loopback) -> Plan:
    """The plan of one loop: its strength, and after the first nothing is put in for the masked part."""
    source = plan.request.source
    assert source is not None
    strength = source.denoising_strength
    if loopback.loops > 1:
        share = CURVES[loopback.denoising_curve](loop / (loopback.loops - 1))
        strength += (loopback.final_denoising_strength - strength) * share
    changes: dict[str, object] = {"denoising_strength": strength}
    if loop and source.mask is not None:
        changes["mask"] = source.mask.model_copy(update={"inpainting_fill": 1})
    request = plan.request.model_copy(update={"source": source.model_copy(update=changes)})
    return plan.model_copy(update={"request": request})
