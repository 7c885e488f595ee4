"""img2img alternative test: a picture drawn from the noise that its source would have come from."""

from __future__ import annotations

from typing import Any

from modules.pipeline.scripts.expansion import Expansion
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest, Inversion
from modules.schema.scripts import AlternativeTest


def expand(request: GenerationRequest, asked: AlternativeTest, folders: Folders) -> Expansion:
    if request.source is None:
        raise BadRequest("img2img alternative test needs a picture to start from; add one.", field="source")
    inversion = Inversion(
        prompt=asked.original_prompt, negative_prompt=asked.original_negative_prompt, cfg_scale=asked.cfg,
        steps=asked.st, randomness=asked.randomness, sigma_adjustment=asked.sigma_adjustment,
    )  # fmt: skip
    source: dict[str, Any] = {"inversion": inversion}
    changes: dict[str, Any] = {"script": None}
    if asked.override_sampler:
        changes["sampler"] = "Euler"
    if asked.override_prompt:
        changes |= {"prompt": asked.original_prompt, "negative_prompt": asked.original_negative_prompt}
    if asked.override_steps:
        changes["steps"] = asked.st
    if asked.override_strength:
        source["denoising_strength"] = 1.0
    changes["source"] = request.source.model_copy(update=source)
    return Expansion("img2img alternative test", (request.model_copy(update=changes),))
