"""How many parameters each net of a checkpoint has, read off its header."""

from __future__ import annotations

from math import prod
from pathlib import Path

from modules.memory.budget import Sizes
from modules.schema.errors import EaselError
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.weights.recognise import recognise


def sizes_of(checkpoint: CheckpointView, folders: Folders | None = None) -> Sizes:
    """Those of SD 1.5 where the file cannot be read; what is wrong with it is told when it is loaded."""
    try:
        header, facts = recognise(Path(checkpoint.path), folders, Path(checkpoint.vae) if checkpoint.vae else None)
    except (EaselError, OSError):
        return Sizes()

    def count(*prefixes: str) -> int:
        return sum(prod(info.shape) for key, info in header.tensors.items() if key.startswith(prefixes))

    return Sizes(
        count(facts.unet.prefix),
        count(facts.vae.prefix),
        count(*(tower.component.prefix for tower in facts.towers)),
        facts.unet.config.get("model_channels", Sizes.denoiser_width),
        facts.vae.config.get("ch", Sizes.vae_width),
        any(facts.unet.config.get("input_depths", (1,))[:1]),
        facts.family,
    )
