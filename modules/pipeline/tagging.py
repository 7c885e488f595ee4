"""Tags for a picture, as A1111's DeepBooru writes them into a prompt."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modules.imaging.colour import flatten
from modules.imaging.resize import resize
from modules.nets.danbooru import SIDE, TagNet
from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.schema.settings import Interrogating, Settings
from modules.weights.danbooru import load_tagger
from modules.weights.library import tagger_file

MISSING = (
    "No DeepDanbooru model is there that could tag pictures; put model-resnet_custom_v3.pt into "
    "models/torch_deepdanbooru."
)
_BRACKETS = re.compile(r"([\\()])")


class Tagger:
    """Keeps the net until another file lies there."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self._net: tuple[tuple[Path, int], TagNet, tuple[str, ...]] | None = None

    def describe(self, image: Image.Image, settings: Settings) -> str:
        """The tags that are likely enough, joined by commas. NotFound where there is no file, BadFile."""
        path = tagger_file(self.folders)
        if path is None:
            raise NotFound(MISSING, field="model")
        key = path, path.stat().st_mtime_ns
        if self._net is None or self._net[0] != key:
            self._net = None
            self._net = (key, *load_tagger(path))
        _, net, tags = self._net
        picture = resize(flatten(image, settings.drawing.img2img_background_color), "fit", (SIDE, SIDE))
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)[None]
        with torch.inference_mode():
            sure = net(pixels)[0].tolist()
        return written(dict(zip(tags, sure)), settings.interrogating)


def written(sure: dict[str, float], asked: Interrogating) -> str:
    """Tags with how sure the net is of each, as they go into a prompt. What it says of decency is left out."""
    unwanted = {tag.strip().replace(" ", "_") for tag in asked.deepbooru_filter_tags.split(",")}
    least = asked.interrogate_deepbooru_score_threshold
    likely = {
        tag: share for tag, share in sure.items()
        if share >= least and tag not in unwanted and not tag.startswith("rating:")
    }  # fmt: skip
    words = []
    for tag in sorted(likely) if asked.deepbooru_sort_alpha else sorted(likely, key=lambda tag: -likely[tag]):
        text = tag.replace("_", " ") if asked.deepbooru_use_spaces else tag
        text = _BRACKETS.sub(r"\\\1", text) if asked.deepbooru_escape else text
        words.append(f"({text}:{likely[tag]:.3f})" if asked.interrogate_return_ranks else text)
    return ", ".join(words)
