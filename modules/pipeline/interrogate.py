"""Interrogate: words for a picture, chosen by CLIP from lists of what it might be.

Lists are the user's own, one thing to a line in `interrogate/*.txt` of the data folder as A1111 keeps them, else those
of `vocabulary`. From each list the likeliest is taken, from those called flavors, styles … several. CLIP alone writes
no sentences; A1111 lets another model (BLIP) begin with one.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.imaging.colour import flatten
from modules.memory.devices import is_memory
from modules.nets.clip_pair import ClipPair, hugging_face
from modules.pipeline import vocabulary
from modules.prompt.tokens import CLIP, END, START
from modules.schema.errors import BadFile, NotFound
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights.library import clip_pair_file
from modules.weights.reading import open_model

MISSING = (
    "No CLIP model is there that could describe pictures; put one with both towers (ViT-L-14 in Hugging Face's or "
    "open_clip's layout, .safetensors) into models/CLIP."
)
SEVERAL = 4  # taken of lists that hold more than one fitting thing
AT_ONCE = 64
_TOP = re.compile(r"\.top(\d+)")
_MANY = re.compile(r"flavou?rs|styles", re.IGNORECASE)


class Interrogator:
    """Keeps the net, and the vectors of the lists' lines, until another file lies there."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self._net: tuple[tuple[Path, int], ClipPair] | None = None
        self._known: dict[tuple[str, ...], Tensor] = {}

    def describe(self, image: Image.Image, settings: Settings) -> str:
        """What is on the picture, the likeliest first, joined by commas. NotFound where there is no CLIP, BadFile."""
        path = clip_pair_file(self.folders)
        if path is None:
            raise NotFound(MISSING, field="model")
        net = self._loaded(path)
        seen = net.pictures(prepared(flatten(image, settings.drawing.img2img_background_color), net.side))
        words: list[str] = []
        for lines, many in lists(self.folders, settings):
            likeness = (seen @ self._vectors(net, lines).T)[0]
            shares = (100 * likeness).softmax(0).tolist()
            chosen = likeness.topk(min(many, len(lines))).indices.tolist()
            ranked = settings.interrogating.interrogate_return_ranks
            words += [f"({lines[k]}:{shares[k]:.3f})" if ranked else lines[k] for k in chosen]
        return ", ".join(dict.fromkeys(words))

    def _loaded(self, path: Path) -> ClipPair:
        key = path, path.stat().st_mtime_ns
        if self._net is None or self._net[0] != key:
            self._net, self._known = None, {}
            self._net = key, load(path)
        return self._net[1]

    def _vectors(self, net: ClipPair, lines: tuple[str, ...]) -> Tensor:
        if lines not in self._known:
            rows = [tokens_of(line, net.longest) for line in lines]
            parts = [net.texts(torch.tensor(rows[k : k + AT_ONCE])) for k in range(0, len(rows), AT_ONCE)]
            self._known[lines] = torch.cat(parts)
        return self._known[lines]


def load(path: Path) -> ClipPair:
    """BadFile where it is damaged or no CLIP with both towers."""
    with open_model(path) as file:
        weights = hugging_face(dict(file.tensors()))
    # Nothing in the weights tells: OpenAI's have one activation, OpenCLIP's (and all wider ones) the other.
    wide = weights.get("text_model.final_layer_norm.weight", torch.empty(0)).shape[0] > 768
    laion = wide or any(name in path.stem.lower() for name in ("laion", "open_clip", "openclip", "datacomp"))
    try:
        return ClipPair(weights, "gelu" if laion else "quick_gelu")
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        if is_memory(error):
            raise
        reason = " ".join(str(error).split())[:80]
        raise BadFile(f"{path.name} is no CLIP with both towers ({reason}); put another file in its place.") from None


def lists(folders: Folders, settings: Settings) -> list[tuple[tuple[str, ...], int]]:
    """Each list of lines and how many are taken of it."""
    limit = settings.interrogating.interrogate_clip_dict_limit
    skipped = settings.interrogating.interrogate_clip_skip_categories
    found = []
    for path in sorted((folders.data / "interrogate").glob("*.txt")):
        if not path.is_file():
            continue
        name = path.stem.partition(".")[0]
        lines = tuple(dict.fromkeys(filter(None, map(str.strip, path.read_text("utf-8", "replace").splitlines()))))
        top = _TOP.search(path.stem)
        many = int(top[1]) if top else SEVERAL if _MANY.search(name) else 1
        if lines and name not in skipped:
            found.append((lines[: limit or None], many))
    return found or [(vocabulary.SUBJECTS, 1), (vocabulary.MEDIUMS, 1), (vocabulary.STYLES, SEVERAL)]


def tokens_of(text: str, longest: int) -> list[int]:
    """The numbers of one line, cut where it is too long, filled up with the end's."""
    inside = list(CLIP.encode(text))[: longest - 2]
    return [START, *inside, *[END] * (longest - 1 - len(inside))]


def prepared(image: Image.Image, side: int) -> Tensor:
    """[1, 3, side, side] in 0…1: the shorter side brought to that length, the middle cut out, as CLIP was trained."""
    scale = side / min(image.size)
    size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    small = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)[None].contiguous()
