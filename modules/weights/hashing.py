"""Names a file has by its content: SHA-256 (and its first 10 digits), and the old 8-digit hash of A1111.

A whole-file hash of gigabytes takes seconds to minutes, so it can report progress, be cancelled, and is kept in SQLite
by (path, size, mtime): an unchanged file is hashed once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from modules.schema.errors import BadFile, Cancelled
from modules.weights import assembly
from modules.weights.store import FileStore

CHUNK = 8 * 1024 * 1024


def sha256_of(
    path: Path,
    store: FileStore | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> str:
    """The file's SHA-256 in 64 hex digits. `progress(bytes done, bytes in all)` is called for each 8 MB.

    Raises:
        BadFile: it cannot be read, or changed while it was read.
        Cancelled: `cancelled()` answered True.
    """
    if path.is_dir():
        return _folder_sha256(path, store, progress, cancelled)
    try:
        before = os.stat(path)
        known = store.get("sha256", path, before) if store else None
        if known:
            return known
        digest, done = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                if cancelled and cancelled():
                    raise Cancelled(f"Hashing of {path.name} was cancelled.")
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done, before.st_size)
        after = os.stat(path)
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read: {error.strerror or error}.") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BadFile(f"{path.name} changed while its hash was taken; try again when it is complete.")
    if store:
        store.put("sha256", path, after, digest.hexdigest())
    return digest.hexdigest()


def _folder_sha256(
    path: Path,
    store: FileStore | None,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
) -> str:
    """Of a diffusers folder: the SHA-256 of its weight files' SHA-256, in order. Nobody else has a hash for these."""
    hashes = (sha256_of(file, store, progress=progress, cancelled=cancelled) for file in assembly.files_of(path))
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def autov3_of(path: Path, store: FileStore | None = None, *, cancelled: Callable[[], bool] | None = None) -> str:
    """SHA-256 of a safetensors file behind its header (of other files: of all), 64 hex digits; it survives a change of
    metadata. A LoRA is called by its first 12.

    Raises as `sha256_of`.
    """
    try:
        status = os.stat(path)
        known = store.get("autov3", path, status) if store else None
        if known:
            return known
        digest = hashlib.sha256()
        with path.open("rb") as file:
            if path.suffix.lower() in (".safetensors", ".sft"):
                file.seek(8 + int.from_bytes(file.read(8), "little"))
            while chunk := file.read(CHUNK):
                if cancelled and cancelled():
                    raise Cancelled(f"Hashing of {path.name} was cancelled.")
                digest.update(chunk)
    except (OSError, OverflowError, ValueError) as error:
        raise BadFile(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if store:
        store.put("autov3", path, status, digest.hexdigest())
    return digest.hexdigest()


def short(sha256: str) -> str:
    """The 10 digits that titles and infotexts show."""
    return sha256[:10]


def old_hash(path: Path) -> str:
    """A1111's first hash: SHA-256 of the 64 KiB at 1 MiB, 8 hex digits. Files below 1 MiB all have e3b0c442.

    OSError where there is no such file, as for a folder.
    """
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
