"""Prompts from file or textbox: every line is a prompt to be drawn, or has options of its own."""

from __future__ import annotations

from typing import Any

from modules.pipeline.scripts.expansion import Expansion, changed, own_seed
from modules.prompt.lines import lines, options
from modules.sampling.table import SAMPLER_NAMES
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.scripts import PromptsFromFile

PLAIN = (
    "seed", "subseed", "subseed_strength", "seed_resize_from_w", "seed_resize_from_h", "batch_size", "n_iter", "steps",
    "cfg_scale", "width", "height",
)  # fmt: skip


def expand(request: GenerationRequest, asked: PromptsFromFile, folders: Folders) -> Expansion:
    """One request for each line. Without "iterate" and "same", a seed left open is drawn anew for every line."""
    found = []
    seed = request.seed
    own_seeds = asked.seed_drawn and not (asked.checkbox_iterate or asked.checkbox_iterate_batch)
    for number, line in enumerate(lines(asked.prompt_txt)):
        made = request.model_copy(
            update={"script": None, "seed": own_seed(request.seed, number) if own_seeds else seed}
        )
        found.append(_with(made, options(line), asked.prompt_position == "start", line))
        if asked.checkbox_iterate:
            seed += request.batch_size * request.n_iter
    return Expansion("Prompts from file or textbox", tuple(found))


def _with(request: GenerationRequest, said: dict[str, Any], before: bool, line: str) -> GenerationRequest:
    """The request as a line wants it; its prompts go before or behind those of the form."""
    changes: dict[str, Any] = {name: said[name] for name in PLAIN if name in said}
    for name in ("prompt", "negative_prompt"):
        if name in said:
            both = (said[name], getattr(request, name)) if before else (getattr(request, name), said[name])
            changes[name] = " ".join(text for text in both if text)
    if "styles" in said:
        changes["styles"] = tuple(part.strip() for part in said["styles"].split(",") if part.strip())
    if "sd_model" in said:
        changes["checkpoint"] = said["sd_model"]
    if "sampler_name" in said:
        changes["sampler"] = said["sampler_name"]
    elif "sampler_index" in said:
        index = said["sampler_index"]
        if not 0 <= index < len(SAMPLER_NAMES):
            raise BadRequest(f"In the line {line[:60]!r}: there is no sampler number {index}.", field="script")
        changes["sampler"] = SAMPLER_NAMES[index]
    override: dict[str, Any] = {}
    if "tiling" in said:
        override["tiling"] = said["tiling"]
    if said.get("do_not_save_samples"):
        override["samples_save"] = False
    if override:
        changes["override_settings"] = {**request.override_settings, **override}
    for name, value in changes.items():
        request = changed(request, name, value, f"In the line {line[:60]!r}: {name}")
    return request
