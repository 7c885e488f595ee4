"""What one look at a model file tells, for lists and for finding networks by name: its header alone, no weights.

Kept in the store under FACTS while the file is unchanged, so that the list in the server and the search in the worker
look at each file once between them. Torch-free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modules.schema.errors import EaselError
from modules.schema.folders import Folders
from modules.weights.adapters.family import family_of, text_width
from modules.weights.headers import Header, read_header
from modules.weights.kinds import kind_of
from modules.weights.recognise import recognise

FACTS = "glance 1"
"""Raise the number whenever what is kept, or how it is found out, changes."""
PICTURES = (".png", ".webp", ".jxl", ".avif")
MAX_VALUE = 1024
MAX_METADATA = 8 * 1024
"""Characters of one metadata text, and of all, that lists carry."""
PAIR = {"clip_l", "clip_g"}

ReadPicture = Callable[[Path], Mapping[str, Any] | None]
"""What an embedding picture carries, None where it is just a picture (`imaging.embedded.read_picture`)."""


@dataclass(frozen=True)
class Glance:
    """`kind` is told by content (`weights.kinds`; "picture": one without an embedding).

    `alias`: the name given while training; `hash`: the trainer's; `trigger`: words to write, as the trainer says.
    `widths`, ascending: of an embedding its rows', of a LoRA the text it reads, of a hypernetwork its contexts';
    empty where nothing tells. `vectors`: rows of an embedding. `word`: what an embedding in a picture is called.
    `cover`: a picture for the list is in the metadata. `metadata`: the short ones of its texts.
    """

    kind: str
    family: str | None = None
    problem: str | None = None
    alias: str | None = None
    hash: str | None = None
    trigger: str = ""
    widths: tuple[int, ...] = ()
    vectors: int = 0
    word: str | None = None
    cover: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Glance:
        said = json.loads(text)
        return cls(**(said | {"widths": tuple(said["widths"])}))


def look_at(path: Path, meant: str, folders: Folders, read_picture: ReadPicture | None = None) -> Glance:
    """Never raises for a file: `problem` tells. `meant`: the kind its folder is for, which a damaged file counts as."""
    if path.suffix.lower() in PICTURES:
        return _picture(path, read_picture) if read_picture else Glance("embedding")
    try:
        header = read_header(path)
    except EaselError as error:
        return Glance(meant, problem=error.message)
    kind = "checkpoint" if path.is_dir() else kind_of(header)
    said = header.metadata
    shapes = {key: info.shape for key, info in header.tensors.items()}
    family, widths, vectors, problem = said.get("modelspec.architecture"), (), 0, None
    if kind in ("checkpoint", "unet"):
        try:
            family = recognise(path, folders)[1].label
        except EaselError as error:
            problem = error.message
    elif kind == "lora":
        family, width = family_of(shapes, said), text_width(shapes)
        widths = (width,) if width else ()
    elif kind == "embedding" or meant == "embedding":
        vectors, widths = rows_of(header)
        kind = "embedding" if vectors else kind
        family = _embedding_family(widths)
    elif kind == "hypernetwork":
        widths = tuple(sorted({int(key.split(".")[0]) for key in shapes}))
    return Glance(
        kind,
        family,
        problem,
        alias=said.get("ss_output_name") or None,
        hash=said.get("sshs_model_hash") or None,
        trigger=said.get("modelspec.trigger_phrase", "")[:MAX_VALUE],
        widths=widths,
        vectors=vectors,
        cover=bool(said.get("modelspec.thumbnail") or said.get("ssmd_cover_images")),
        metadata=_short(said),
    )


def rows_of(header: Header) -> tuple[int, tuple[int, ...]]:
    """How many rows an embedding file gives a word, and their widths (`weights.embeddings` reads the rows themselves).

    (0, ()) where it is none: several tensors that belong to no list and no pair of text encoders.
    """
    tensors = {key: info.shape for key, info in header.tensors.items() if info.dtype.startswith(("F", "BF"))}
    params = {key: shape for key, shape in tensors.items() if key.startswith("string_to_param.")}
    found = params or {key: shape for key, shape in tensors.items() if not key.startswith("string_to_token")}
    rows = {key: (1, *shape) if len(shape) == 1 else shape for key, shape in found.items()}
    rows = {key: shape for key, shape in rows.items() if key.rpartition(".")[2] != "t5xxl"}
    if not rows or any(len(shape) != 2 or not shape[0] for shape in rows.values()):
        return 0, ()
    pair = [shape for key, shape in rows.items() if key.rpartition(".")[2] in PAIR]
    if pair:
        return min(shape[0] for shape in pair), tuple(sorted(shape[1] for shape in pair))
    widths = {shape[1] for shape in rows.values()}
    in_list = all(key.split(".")[0].isdigit() for key in rows)
    if len(rows) > 1 and not (in_list and len(widths) == 1):
        return 0, ()
    return sum(shape[0] for shape in rows.values()), tuple(widths)


def _picture(path: Path, read_picture: ReadPicture) -> Glance:
    try:
        said = read_picture(path)
    except EaselError as error:
        return Glance("embedding", problem=error.message)
    if said is None:
        return Glance("picture")
    params = said.get("string_to_param")
    rows = next(iter(params.values())) if isinstance(params, dict) and len(params) == 1 else None
    rows = rows.get("TORCHTENSOR") if isinstance(rows, dict) else None
    word = str(said.get("name") or path.stem)
    if not isinstance(rows, list) or not rows:
        return Glance("embedding", problem=f"{path.name} carries no readable embedding.", word=word)
    first = rows[0]
    vectors, width = (len(rows), len(first)) if isinstance(first, list) else (1, len(rows))
    return Glance("embedding", _embedding_family((width,)), widths=(width,), vectors=vectors, word=word)


def _embedding_family(widths: tuple[int, ...]) -> str | None:
    return {(768,): "sd1", (1024,): "sd2", (1280,): "sdxl-refiner", (768, 1280): "sdxl"}.get(widths)


def _short(metadata: Mapping[str, str]) -> dict[str, str]:
    """The texts of a header that are short enough for a list."""
    shown, size = {}, 0
    for key, text in metadata.items():
        size += len(key) + len(text)
        if len(text) > MAX_VALUE or size > MAX_METADATA or re.search(r"thumbnail|cover_images", key):
            size -= len(key) + len(text)
            continue
        shown[key[:200]] = text
    return shown
