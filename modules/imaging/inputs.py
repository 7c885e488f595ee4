"""Pictures that a request starts from, kept by content until the job is done: a request only names them.

    name = keep(folders.inputs, uploaded_bytes)     # in the server, before the job is written down
    image = load(folders.inputs, name)              # in the worker

A name is the SHA-256 of the file, so the same picture sent twice lies there once, and a name cannot lead elsewhere.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection
from pathlib import Path

from PIL import Image, ImageOps

from modules.imaging.metadata import MAX_BYTES, open_bounded
from modules.imaging.save import safe_write
from modules.schema.errors import BadRequest, NotFound

_NAME = re.compile("[0-9a-f]{64}")


def keep(folder: Path, data: bytes) -> str:
    """Store the bytes of a picture file and return its name.

    Raises BadFile where it is no picture (or too large), DiskTrouble where it cannot be written.
    """
    open_bounded(data)
    name = hashlib.sha256(data).hexdigest()
    # Written again even if it is there: `sweep` goes by age, and a fresh job must find it.
    safe_write(folder / name, data, overwrite=True)
    return name


def load(folder: Path, name: str) -> Image.Image:
    """The picture of that name, turned as its EXIF says. NotFound where it is gone, BadFile where it is damaged."""
    if not _NAME.fullmatch(name):
        raise BadRequest("A source picture is named by 64 hexadecimal digits; send the picture again.", field="source")
    path = folder / name
    if not path.is_file():
        raise NotFound("A source picture of this job is no longer kept; send it again.", field="source")
    image = open_bounded(path, max_bytes=MAX_BYTES, name="The source picture")
    return ImageOps.exif_transpose(image) or image


def read(folder: Path, name: str) -> bytes | None:
    """The file of that name as it came; None where it is no longer kept."""
    path = folder / name
    try:
        return path.read_bytes() if _NAME.fullmatch(name) else None
    except OSError:
        return None


def sweep(folder: Path, wanted: Collection[str], older_than: float = 86400.0) -> int:
    """Remove kept pictures that no job wants and that were written more than `older_than` seconds ago; how many."""
    removed, now = 0, time.time()
    if not folder.is_dir():
        return 0
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) and path.name not in wanted and now - path.stat().st_mtime > older_than:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
