"""A process that saves pictures as fast as it can, for being killed: tells each name once it is acknowledged.

python -m tests.service.writer <data folder> <first seed>
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from PIL import Image

from modules.imaging.naming import NameFields
from modules.imaging.save import save_named
from modules.schema.settings import Saving


def main() -> None:
    data, first = Path(sys.argv[1]), int(sys.argv[2])
    for seed in itertools.count(first):
        image = Image.effect_noise((64, 64), seed % 100 + 1).convert("RGB")
        print(seed, save_named(image, f"Seed: {seed}", NameFields(seed=seed), Saving(), data), flush=True)


if __name__ == "__main__":
    main()
