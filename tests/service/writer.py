"""A process that saves pictures as fast as it can, for being killed: tells each name once it is acknowledged."""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from modules.imaging.naming import NameFields
from modules.imaging.save import save_named
from modules.schema.settings import Saving


def forked(told: Connection, data: Path, first: int) -> None:
    for seed in itertools.count(first):
        image = Image.effect_noise((64, 64), seed % 100 + 1).convert("RGB")
        told.send((seed, save_named(image, f"Seed: {seed}", NameFields(seed=seed), Saving(), data)))
