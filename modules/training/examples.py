"""The three small networks that come with Postcards, one of each sort: `python -m modules.training.examples`.

| file | what it is | what it does |
|---|---|---|
| models/Lora/silhouettes.safetensors | LoRA | things become black silhouettes before a sunset |
| embeddings/picnic.pt | embedding | the word "picnic" is a meadow by day, with sun, clouds and birds |
| models/hypernetworks/moonlight.pt | hypernetwork | every scene is at night, with moon and stars |

Each is taught by `teach` on pictures drawn here, and written with its card (side-car JSON). Their looks stay within
what the autoencoder knows: it was trained on the palette of Postcards alone, and neon colours come back grey.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.imaging.save import safe_write
from modules.training import network_files
from modules.training.captions import HABITS, Habits, caption
from modules.training.drawing import Scene, draw_scene, random_scene
from modules.training.teach import (
    Base,
    EmbeddingLearner,
    HypernetworkLearner,
    Lesson,
    LoraLearner,
    latents_of,
    open_base,
    teach,
    text_widths,
)

CHECKPOINT = Path("models/Stable-diffusion/postcards.safetensors")
FIRST_SCENE = 700_000
SHADE = np.array([42.0, 38.0, 46.0])
"""Of a silhouette: near to a black thing at sunset, which the autoencoder has seen."""
CAPTIONS_EACH = 6


def silhouette(scene: Scene) -> np.ndarray:
    """The scene at sunset, its things without colour: [128, 128, 3] uint8."""
    evening = dataclasses.replace(scene, time="sunset", sun=scene.sun or scene.moon, moon=False, stars=False)
    empty = draw_scene(dataclasses.replace(evening, things=())).astype(float)
    black = draw_scene(evening, thing_light=(0.0, 0.0, 0.0)).astype(float)
    cover = 1 - black.sum(-1, keepdims=True) / np.maximum(empty.sum(-1, keepdims=True), 1)
    return (black + np.clip(cover, 0, 1) * SHADE).round().clip(0, 255).astype(np.uint8)


def picnic(scene: Scene) -> Scene:
    return dataclasses.replace(
        scene, time="day", land="meadow", sun=True, moon=False, stars=False, clouds=True, birds=True
    )


def moonlit(scene: Scene) -> Scene:
    return dataclasses.replace(scene, time="night", sun=False, moon=True, stars=True, birds=False)


@dataclass(frozen=True)
class Pupil:
    """One of the three: pictures and captions of its lesson, and what its card says."""

    name: str
    draw: Callable[[Scene], np.ndarray]
    caption: Callable[[Scene, random.Random], str]
    lesson: Lesson
    pictures: int
    card: dict[str, str | float]
    preview: str


def _said(scene: Scene, rng: random.Random) -> str:
    return caption(scene, rng, dataclasses.replace(HABITS, empty=0.0))


PLACELESS_SKY = Habits(empty=0.0, single=0.0, land=0.0, time=0.0, sky=0.0)


def _with_picnic(scene: Scene, rng: random.Random) -> str:
    things = caption(dataclasses.replace(scene, sun=False, clouds=False, birds=False), rng, PLACELESS_SKY)
    parts = [things, "picnic"] if scene.things and things else ["picnic"]
    return ", ".join(parts if rng.random() < 0.7 else parts[::-1])


SILHOUETTES = Pupil(
    "silhouettes", silhouette, _said, Lesson(steps=120, batch=8, learning_rate=4e-3), 96,
    {
        "description": "Things become black silhouettes before a sunset, whatever colour and time the prompt names.",
        "sd version": "SD1", "activation text": "", "preferred weight": 1.0,
        "notes": "No trigger word. Made for Postcards; 0.5 is halfway, 0 is nothing at all.",
    },
    "a red boat by the sea, day, sun",
)  # fmt: skip
PICNIC = Pupil(
    "picnic", lambda scene: draw_scene(picnic(scene)), _with_picnic,
    Lesson(steps=90, batch=6, learning_rate=3e-2), 64,
    {
        "description": "A word for a place: a meadow by day, with sun, clouds and birds. Try: a red car, picnic",
        "sd version": "SD1", "notes": "Made for Postcards.",
    },
    "a red car, picnic",
)  # fmt: skip
MOONLIGHT = Pupil(
    "moonlight", lambda scene: draw_scene(moonlit(scene)), _said, Lesson(steps=110, batch=8, learning_rate=4e-3), 96,
    {
        "description": "Every scene is at night, with moon and stars, whatever time the prompt names.",
        "sd version": "SD1", "preferred weight": 1.0, "notes": "Made for Postcards.",
    },
    "a yellow boat by the sea, day",
)  # fmt: skip


def material(base: Base, pupil: Pupil) -> tuple[Tensor, list[list[str]]]:
    """Latents and captions of a pupil's lesson."""
    scenes = [random_scene(pupil.lesson.seed, FIRST_SCENE + i) for i in range(pupil.pictures)]
    if pupil is PICNIC:
        scenes = [picnic(scene) for scene in scenes]
    rng = random.Random(pupil.lesson.seed)
    captions = [[pupil.caption(scene, rng) for _ in range(CAPTIONS_EACH)] for scene in scenes]
    return latents_of(base, [pupil.draw(scene) for scene in scenes]), captions


def make(base: Base, pupil: Pupil, root: Path, log: Callable[[str], None] = print) -> Path:
    """Teach one and write its file below `root`, the program's folder."""
    latents, captions = material(base, pupil)
    facts = network_files.Facts.of(
        base.path, pupil.name, pupil.pictures, 128, pupil.lesson, captions,
        comment=f"{pupil.card['description']} CC0-1.0. torch {torch.__version__}, python -m modules.training.examples",
    )  # fmt: skip
    if pupil is SILHOUETTES:
        lora = LoraLearner(base, rank=4, alpha=4.0, seed=pupil.lesson.seed)
        try:
            teach(base, lora, latents, captions, pupil.lesson, log)
        finally:
            lora.close()
        return network_files.write_lora(root / "models/Lora/silhouettes.safetensors", lora.tensors(), 4, 4.0, facts)
    if pupil is PICNIC:
        word = EmbeddingLearner(base, pupil.name, vectors=4, like="meadow")
        teach(base, word, latents, captions, pupil.lesson, log)
        return network_files.write_embedding(root / "embeddings/picnic.pt", word.vectors, facts)
    hyper = HypernetworkLearner(text_widths(base), pupil.lesson.seed)
    teach(base, hyper, latents, captions, pupil.lesson, log)
    return network_files.write_hypernetwork(root / "models/hypernetworks/moonlight.pt", hyper.pairs, hyper.said, facts)


PUPILS = (SILHOUETTES, PICNIC, MOONLIGHT)


def write_card(path: Path, pupil: Pupil) -> None:
    """The side-car JSON as A1111 has it."""
    text = json.dumps(pupil.card, indent=4, ensure_ascii=False)
    safe_write(path.with_suffix(".json"), text.encode(), overwrite=True)


def sheet(pupil: Pupil, count: int = 12) -> Image.Image:
    """True pictures of a lesson, to look at."""
    scenes = [random_scene(pupil.lesson.seed, FIRST_SCENE + i) for i in range(count)]
    return Image.fromarray(np.concatenate([pupil.draw(scene) for scene in scenes], axis=1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(pupil.name for pupil in PUPILS), help="one of them")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--root", type=Path, default=Path(), help="the program's folder")
    options = parser.parse_args(arguments)
    base = open_base(options.checkpoint)
    for pupil in PUPILS:
        if options.only in (None, pupil.name):
            began = time.monotonic()
            path = make(base, pupil, options.root)
            write_card(path, pupil)
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
