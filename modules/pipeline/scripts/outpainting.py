"""A1111's two outpainting scripts, by our own outpainting: all chosen sides in one drawing, seams included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.imaging import inputs
from modules.pipeline.scripts.expansion import Expansion
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest, Outpaint
from modules.schema.scripts import OutpaintingMk2, PoorMansOutpainting

ROUND_TO = 64
# Names of A1111's masked contents, as outpainting can begin.
FILLS = ("fill", "edges", "latent noise", "latent nothing")


def expand_mk2(request: GenerationRequest, asked: OutpaintingMk2, folders: Folders) -> Expansion:
    more = {
        "fill": "noise", "noise_q": asked.noise_q, "color_variation": asked.color_variation,
    }  # fmt: skip
    return _expand("Outpainting mk2", request, asked.direction, asked.pixels, asked.mask_blur, more, folders)


def expand_poor_man(request: GenerationRequest, asked: PoorMansOutpainting, folders: Folders) -> Expansion:
    more = {"fill": FILLS[asked.inpainting_fill]}
    return _expand("Poor man's outpainting", request, asked.direction, asked.pixels, asked.mask_blur, more, folders)


def _expand(
    title: str, request: GenerationRequest, directions: Sequence[str], pixels: int, blur: int, more: dict[str, Any],
    folders: Folders,
) -> Expansion:  # fmt: skip
    if request.source is None or not request.source.images:
        raise BadRequest(f"{title} needs a picture to start from; add one.", field="source")
    if not directions:
        raise BadRequest(f"{title} needs at least one direction.", field="script")
    width, height = inputs.load(folders.inputs, request.source.images[0]).size
    across = _shares(width, pixels, "left" in directions, "right" in directions)
    down = _shares(height, pixels, "up" in directions, "down" in directions)
    sides = dict(zip(("left", "right", "up", "down"), (*across, *down)))
    asked = Outpaint(mask_blur=blur, **sides, **more)
    source = request.source.model_copy(update={"outpaint": asked, "mask": None})
    return Expansion(title, (request.model_copy(update={"script": None, "source": source}),))


def _shares(side: int, pixels: int, first: bool, last: bool) -> tuple[int, int]:
    """How much is added at both ends of a side, so that it becomes a multiple of 64."""
    if not (first or last):
        return 0, 0
    grown = side + pixels * (first + last)
    target = -(-grown // ROUND_TO) * ROUND_TO
    added = target - side
    if first and last:
        return added // 2, added - added // 2
    return (added, 0) if first else (0, added)
