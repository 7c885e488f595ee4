"""Cards of model files: the list for a browser, all about one, and what a user writes or draws beside it.

    cards = Cards(library, state, lambda: settings)
    cards.listing("lora", checkpoint)              # JSON of every card of a kind, ready to be sent
    cards.card(path)                               # one of them with its metadata
    cards.write_notes(path, CardNotes(notes="…"))  # <name>.json beside the model, as A1111 keeps it

A model file is never touched: notes go to `<name>.json`, previews to `<name>.preview.png`. Ten thousand cards are put
together from texts that are made once for each state of a file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from modules.imaging.metadata import encode, open_bounded, read_infotext
from modules.imaging.save import safe_write
from modules.schema.cards import Card, CardNotes
from modules.schema.errors import BadRequest, EaselError, NotFound
from modules.schema.record import CheckpointView, ModelView
from modules.schema.settings import Settings
from modules.service.thumbnails import Thumbnails, small
from modules.weights.headers import read_header
from modules.weights.library import Library
from modules.weights.networks import NO_ALIASES
from modules.weights.notes import notes_path, read_for_writing, read_notes

KINDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "lora": (("lora",), "Lora"),
    "embedding": (("embedding",), "embeddings"),
    "hypernetwork": (("hypernetwork",), "hypernetworks"),
    "checkpoint": (("checkpoint", "unet"), "Stable-diffusion"),
}
"""Kind of card -> kinds of files, and the folder they belong into."""
THUMBNAIL = 448
"""Pixels of the longer side: a card on a sharp screen."""
PICTURE_BYTES = 256 * 2**20
"""Small pictures are kept up to this size."""
LISTS_KEPT = 8
LONGEST_TEXT = 100_000
MOST_TAGS = 200
HIDDEN_WIDTHS = frozenset({320, 640, 1280})
"""Contexts of self-attention, which hypernetworks have nets for besides the text's."""
VERSIONS = {"SD1": "sd1", "SD2": "sd2", "SDXL": "sdxl", "SD3": "sd3", "Flux": "flux"}
"""What A1111's `sd version` says, as our families."""


class Cards:
    """Thread-safe. `state`: our own folder, for small pictures."""

    def __init__(self, library: Library, state: Path, settings: Callable[[], Settings]) -> None:
        self._library, self._settings = library, settings
        self._pictures = Thumbnails(state / "card-pictures", PICTURE_BYTES)
        self._texts: dict[str, tuple[ModelView, str, str]] = {}
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def stamp(self, kind: str, checkpoint: CheckpointView | None) -> str:
        """Another text whenever `listing` would answer something else."""
        chosen = (checkpoint.path, checkpoint.family, checkpoint.towers) if checkpoint else None
        said = repr((self._library.version, kind, chosen, self._settings().networks.lora_preferred_name))
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    def listing(self, kind: str, checkpoint: CheckpointView | None = None) -> bytes:
        """JSON: a list of objects in order of their paths; what is empty is left out.

        path, name (with its folders), word (how a prompt names it), kind, family, size, created, modified, hash,
        alias, weight, words (to write with it), negative, about, picture (a number that changes with it), problem,
        fits (false where it does not fit the checkpoint).
        """
        stamp = self.stamp(kind, checkpoint)
        if kept := self._bodies.get(stamp):
            return kept
        views = self._views(kind)
        words = self._words(kind, views)
        entries = []
        for view in views:
            word = words[view.path]
            text = self._texts.get(view.path)
            if text is None or text[0] is not view or text[1] != word:
                text = self._texts[view.path] = (view, word, _entry(view, word))
            wrong = checkpoint is not None and fits(view, checkpoint) is False
            entries.append(text[2] + (',"fits":false}' if wrong else "}"))
        body = self._bodies[stamp] = f"[{','.join(entries)}]".encode()
        for _ in range(len(self._bodies) - LISTS_KEPT):
            self._bodies.popitem(last=False)
        return body

    def card(self, path: str, checkpoint: CheckpointView | None = None) -> Card:
        """All about one file. NotFound where it is in none of the folders."""
        view = self._library.get(path)
        kind = next((kind for kind, (kinds, _) in KINDS.items() if view.kind in kinds), "checkpoint")
        word = self._words(kind, self._views(kind)).get(path, view.name)
        metadata = _metadata(Path(path))
        return Card(
            model=view,
            word=word,
            fits=fits(view, checkpoint) if checkpoint else None,
            vae=read_notes(Path(path)).vae or "",
            tags=tuple(_tags(metadata)),
            facts=_facts(view, metadata),
            metadata={key: _shortened(text) for key, text in metadata.items() if not _is_picture(key)},
        )

    def by_hash(self) -> dict[str, str]:
        """The LoRAs whose 12 digits are known: digits -> how a prompt names it."""
        views = self._views("lora")
        words = self._words("lora", views)
        return {view.hash: words[view.path] for view in views if view.hash}

    # ---- what is written beside a model ----

    def write_notes(self, path: str, notes: CardNotes) -> Card:
        """Keep what the user says; keys that others wrote into the file stay.

        Raises:
            BadFile: the file that is there cannot be read, so it is not written over. DiskTrouble.
        """
        view = self._library.get(path)
        said = read_for_writing(Path(path))
        told: dict[str, Any] = {"description": notes.description, "notes": notes.notes}
        if view.kind == "lora":
            told |= {
                "sd version": notes.sd_version or "Unknown",
                "activation text": notes.activation,
                "preferred weight": notes.preferred_weight,
                "negative text": notes.negative,
            }
        elif view.kind in ("checkpoint", "unet"):
            told["vae"] = notes.vae or "Automatic"
        elif view.kind == "embedding":
            told["negative text"] = notes.negative
        # Nothing said of something nobody had written about is no news.
        empty = ("", 0, "Unknown", "Automatic")
        said |= {key: value for key, value in told.items() if key in said or value not in empty}
        safe_write(notes_path(Path(path)), json.dumps(said, indent=4, ensure_ascii=False).encode(), overwrite=True)
        self._library.notice(path)
        return self.card(path)

    def write_preview(self, path: str, picture: bytes) -> Card:
        """A picture (any file of one) becomes the card's; its infotext stays in it. BadFile, DiskTrouble."""
        self._library.get(path)
        image = open_bounded(picture)
        if image.format != "PNG":
            mode = "RGBA" if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info else "RGB"
            picture = encode(image.convert(mode), read_infotext(image))
        safe_write(Path(path).with_suffix(".preview.png"), picture, overwrite=True)
        self._library.notice(path)
        return self.card(path)

    def thumbnail(self, path: str) -> bytes:
        """The card's picture, small, as WebP: what lies beside the file, else what its metadata carries.

        Raises:
            NotFound: there is none. BadFile: it cannot be read.
        """
        view = self._library.get(path)
        if not view.preview and not view.cover:
            raise NotFound("That model has no preview picture.")
        state = f"{path} {view.preview_time or view.modified}".encode("utf-8", "surrogatepass")
        name = f"The picture of {view.name}"
        return self._pictures.get(
            hashlib.sha256(state).hexdigest()[:32],
            lambda: small(Path(view.preview) if view.preview else _cover(Path(path)), name, THUMBNAIL),
        )

    # ---- the list ----

    def _views(self, kind: str) -> list[ModelView]:
        if kind not in KINDS:
            raise BadRequest(f"There are no cards of the kind {kind!r}; there are {', '.join(KINDS)}.", field="kind")
        kinds, folder = KINDS[kind]
        found = [view for view in self._library.files() if view.kind in kinds]
        return [view for view in found if view.kind != "unet" or view.place == folder]  # other programs keep theirs

    def _words(self, kind: str, views: Iterable[ModelView]) -> dict[str, str]:
        """How a prompt names each file, by path. A trainer's name only where it is the setting and nobody else's; of
        two files of a name the later one has it, the other its folder's besides (`weights.networks.Shelf.find`).
        """
        if kind == "checkpoint":
            return {view.path: view.name.replace("/", "_") for view in views}  # as the list of checkpoints calls it
        views = list(views)
        stems = {view.name.rpartition("/")[2]: view.path for view in sorted(views, key=lambda v: v.name.lower())}
        aliases: Counter[str] = Counter()
        if kind == "lora" and self._settings().networks.lora_preferred_name == "Alias from file":
            aliases.update(view.alias for view in views if view.alias)
        words = {}
        for view in views:
            stem = view.name.rpartition("/")[2]
            words[view.path] = stem if kind == "embedding" or stems[stem] == view.path else view.name
            alias = view.alias or ""
            plain = alias.lower() not in NO_ALIASES and not re.search(r"[<>:]", alias)
            if aliases[alias] == 1 and alias not in stems and plain:
                words[view.path] = alias
        return words


def fits(view: ModelView, checkpoint: CheckpointView) -> bool | None:
    """Whether a file was made for models like this one, as far as its header tells; None where it does not."""
    towers = tuple(sorted(checkpoint.towers))
    context = sum(towers)
    if view.kind == "hypernetwork":
        text = set(view.widths) - HIDDEN_WIDTHS
        return None if not text or not context else context in text
    if view.kind == "embedding" and view.widths and towers:
        return view.widths == towers
    if view.kind == "lora":
        if view.widths and context:
            return context in view.widths
        family = view.family or VERSIONS.get(view.sd_version)
        return None if family is None or checkpoint.family == "unknown" else family == checkpoint.family
    return None


def _entry(view: ModelView, word: str) -> str:
    """A card as JSON, without its closing brace."""
    problem = view.problem
    if problem is None and view.misplaced:
        folder = next((folder for kinds, folder in KINDS.values() if view.kind in kinds), view.place)
        problem = f"It lies in {view.place}; move it to {folder} to use it."
    said = {
        "path": view.path,
        "name": view.name,
        "word": word,
        "kind": view.kind,
        "family": view.family,
        "size": view.size,
        "created": round(view.created, 3),
        "modified": round(view.modified, 3),
        "hash": view.hash,
        "alias": view.alias,
        "weight": view.preferred_weight,
        "words": view.activation,
        "negative": view.negative,
        "about": view.description[:300],
        "picture": view.preview_time or (int(view.modified * 1000) if view.cover else 0),
        "problem": problem,
    }
    return json.dumps({key: value for key, value in said.items() if value}, ensure_ascii=False)[:-1]


# ------------------------------------------------------------------------------------------------ metadata


def _metadata(path: Path) -> dict[str, str]:
    try:
        return dict(read_header(path).metadata)
    except EaselError:
        return {}


def _is_picture(key: str) -> bool:
    return key.endswith(("thumbnail", "cover_images"))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _json(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        said = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _tags(metadata: Mapping[str, str]) -> list[tuple[str, int]]:
    """What the training pictures were tagged with, the most frequent first; words where whole captions stand there."""
    found: Counter[str] = Counter()
    for counts in _json(metadata, "ss_tag_frequency").values():
        for tag, count in counts.items() if isinstance(counts, dict) else ():
            if isinstance(count, int):
                found[str(tag).strip()] += count
    found.pop("", None)
    if found and sum(map(len, found)) / len(found) >= 16:
        words: Counter[str] = Counter()
        for caption, count in found.items():
            for word in re.findall(r"[^\W\d_]{3,}", caption.lower()):
                words[word] += count
        found = words
    return found.most_common(MOST_TAGS)


def _facts(view: ModelView, metadata: Mapping[str, str]) -> dict[str, str]:
    """Lines on how it was made."""
    pictures = sum(
        int(part.get("img_count", 0)) for part in _json(metadata, "ss_dataset_dirs").values()
        if isinstance(part, dict) and isinstance(part.get("img_count"), int)
    )  # fmt: skip
    sizes: Counter[str] = Counter()
    buckets = _json(metadata, "ss_bucket_info").get("buckets")
    for bucket in buckets.values() if isinstance(buckets, dict) else ():
        side = bucket.get("resolution") if isinstance(bucket, dict) else None
        if isinstance(side, list) and len(side) == 2 and isinstance(bucket.get("count"), int):
            sizes[f"{side[0]}×{side[1]}"] += bucket["count"]
    rank, alpha = metadata.get("ss_network_dim"), metadata.get("ss_network_alpha")
    said = {
        "Trained as": view.alias,
        "Base model": metadata.get("ss_sd_model_name"),
        "Rank": f"{rank} (alpha {alpha})" if rank and alpha else rank,
        "Vectors": str(view.vectors) if view.vectors else None,
        "Pictures": str(pictures or metadata.get("ss_num_train_images") or ""),
        "Sizes": ", ".join(f"{size} ({count})" for size, count in sizes.most_common(4)),
        "Clip skip": metadata.get("ss_clip_skip"),
        "Author": metadata.get("modelspec.author"),
        "Licence": metadata.get("modelspec.license"),
        "Comment": metadata.get("ss_training_comment"),
    }
    return {key: _shortened(str(value)) for key, value in said.items() if value and value != "None"}


def _cover(path: Path) -> bytes:
    """The picture in a file's metadata."""
    metadata = _metadata(path)
    thumbnail = metadata.get("modelspec.thumbnail", "").partition("base64,")[2]
    try:
        covers = json.loads(metadata.get("ssmd_cover_images") or "[]")
        coded = thumbnail or next((c for c in covers if isinstance(c, str) and c), "")
        return base64.b64decode(coded, validate=False)
    except (ValueError, TypeError, RecursionError):
        return b""
