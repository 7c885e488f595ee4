"""How many parameters each net of a checkpoint has, read off its header."""

from __future__ import annotations

from math import prod
from pathlib import Path

from modules.memory.budget import WINOGRAD, Sizes, Spread
from modules.schema.errors import EaselError
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.weights.headers import Header
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
        _spread(header, facts.unet.prefix),
        _spread(header, facts.vae.prefix),
    )


def _spread(header: Header, prefix: str) -> Spread:
    """Told by shape and name, in the layout of the original checkpoints and in that of diffusers."""
    found = {"enlarging": 0, "winograd": 0}
    for key, info in header.tensors.items():
        if not key.startswith(prefix) or len(info.shape) != 4 or info.shape[2:] != (3, 3):
            continue
        name = key.removeprefix(prefix)
        if "upsampl" in name or (name.startswith("output_blocks.") and name.endswith(".conv.weight")):
            found["enlarging"] += prod(info.shape)
        elif "downsampl" not in name and ".op." not in name:
            few, many = sorted(info.shape[:2])
            found["winograd"] += prod(info.shape) * (WINOGRAD[0] <= few and many <= WINOGRAD[1])
    return Spread(**found)
