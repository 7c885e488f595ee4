"""What a user wrote down about a model: the `<name>.json` beside it, as A1111 keeps it, with three keys of our own.

A1111's: `description`, `notes`, `vae` (of a checkpoint), `activation text`, `preferred weight`, `negative text`,
`sd version` (of a LoRA). Ours: `prediction type` ("eps" or "v"), `clip skip`, `ema` (draw with the averaged weights).
Files of other programs under that name are no error: what is not understood says nothing. Where it has no description,
that of `<name>.txt` or `<name>.description.txt` counts.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.schema.errors import BadFile

MAX_BYTES = 2**20
PREVIEWS = tuple(f"{dot}{ending}" for dot in (".preview.", ".") for ending in ("png", "jpg", "jpeg", "webp", "gif"))
DESCRIPTIONS = (".txt", ".description.txt")


@dataclass(frozen=True)
class Notes:
    """Empty or None where nothing is said."""

    description: str = ""
    notes: str = ""
    vae: str | None = None
    prediction: str | None = None
    clip_skip: int | None = None
    ema: bool = False
    activation: str = ""
    preferred_weight: float = 0.0
    negative: str = ""
    sd_version: str = ""


NO_NOTES = Notes()


def notes_path(model: Path) -> Path:
    return model.with_suffix(".json")


def read_notes(model: Path) -> Notes:
    """The notes beside a model; nothing is said by a missing, foreign or damaged file."""
    raw = read_raw(model)
    vae, clip_skip, prediction = raw.get("vae"), raw.get("clip skip"), raw.get("prediction type")
    weight, version = raw.get("preferred weight"), raw.get("sd version")
    return Notes(
        description=_text(raw.get("description")) or _description(model),
        notes=_text(raw.get("notes")),
        vae=vae if isinstance(vae, str) and vae not in ("", "Unknown") else None,
        prediction=prediction if prediction in ("eps", "v") else None,
        clip_skip=clip_skip if type(clip_skip) is int and 1 <= clip_skip <= 12 else None,
        ema=raw.get("ema") is True,
        activation=_text(raw.get("activation text")),
        preferred_weight=float(weight) if isinstance(weight, int | float) and abs(weight) <= 100 else 0.0,
        negative=_text(raw.get("negative text")),
        sd_version=version if isinstance(version, str) and version != "Unknown" else "",
    )


def read_raw(model: Path) -> dict[str, Any]:
    """Everything in the file, so that keys of others survive when ours are written; {} where there is no object."""
    try:
        return read_for_writing(model)
    except BadFile:
        return {}


def read_for_writing(model: Path) -> dict[str, Any]:
    """As `read_raw`, but {} only where there is no file.

    Raises:
        BadFile: there is one that cannot be understood, and must not be written over.
    """
    path = notes_path(model)
    try:
        if is_file(path):
            found = json.loads(path.read_text("utf-8-sig"))
            if isinstance(found, dict):
                return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        pass
    raise BadFile(f"{path.name} beside the model holds no notes that can be read; move it away, then save again.")


def _description(model: Path) -> str:
    for ending in DESCRIPTIONS:
        path = model.with_suffix(ending)
        try:
            if is_file(path):
                return _text(path.read_text("utf-8-sig", "replace").strip())
        except OSError:
            continue
    return ""


def is_file(path: Path) -> bool:
    """Whether it is short, and a file: what is read of a pipe or device never ends. OSError where there is nothing."""
    found = path.stat()
    return stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES


def _text(value: Any) -> str:
    return value[:65_536] if isinstance(value, str) else ""
