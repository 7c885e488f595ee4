"""Small copies of pictures: made when first asked for, kept in a folder of ours up to a size; the oldest go first."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from modules.imaging.metadata import open_bounded
from modules.imaging.save import safe_write
from modules.schema.errors import EaselError

SIDE = 384  # pixels, longest side
QUALITY = 85
MOST_BYTES = 512 * 2**20
_ID = re.compile(r"[0-9A-Za-z]{8,64}\Z")


def small(source: bytes | Path, name: str = "", side: int = SIDE) -> bytes:
    """A WebP of at most `side` pixels. BadFile where the source is no picture."""
    image = open_bounded(source, name=name)
    image.thumbnail((side, side))
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY)
    return out.getvalue()


class Thumbnails:
    """Kept by the id of a picture, whose pixels never change. Thread-safe; a folder that cannot be written costs speed
    alone."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most = folder, most_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None  # of all files; None: not counted yet

    def get(self, id: str, make: Callable[[], bytes]) -> bytes:
        """The thumbnail of a picture, from the folder or from `make`, whose errors rise."""
        if not _ID.match(id):
            return make()
        path = self._path(id)
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if data:
                return data
        data = make()
        with contextlib.suppress(EaselError, OSError):
            safe_write(path, data, overwrite=True)
            self._grown(len(data))
        return data

    def drop(self, id: str) -> None:
        with contextlib.suppress(OSError):
            self._path(id).unlink()

    def _path(self, id: str) -> Path:
        return self._folder / id[:2] / f"{id}.webp"

    def _grown(self, by: int) -> None:
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._files())
            else:
                self._bytes += by
            if self._bytes > self._most:
                self._bytes = self._pruned()

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for place, _, names in os.walk(self._folder):
            for name in names:
                path = Path(place, name)
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _pruned(self) -> int:
        """Down to four fifths, so that it is not done again at once; what is left."""
        files = sorted(self._files(), reverse=True)
        left = 0
        for _, size, path in files:
            if left + size > self._most * 4 // 5:
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                left += size
        return left
