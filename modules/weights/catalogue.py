"""The checkpoints on this machine: found, looked at by their headers only, and called by any of their names.

For example:

    catalogue = Catalogue(folders, folders.database)
    catalogue.checkpoints()                    # every file, damaged ones too, with what is wrong in `problem`
    catalogue.find("v1-5-pruned [e1441589a6]") # by title, name, stem or hash, as A1111 looks them up
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modules.schema.errors import EaselError, NotFound
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.weights import hashing
from modules.weights.detect import detect
from modules.weights.headers import read_header
from modules.weights.store import FileStore, Stamp

EXTENSIONS = (".safetensors", ".ckpt")
NOT_CHECKPOINTS = (".vae.safetensors", ".vae.ckpt")
FRESH_SECONDS = 2.0
"""A list younger than this is not made again unless asked."""
_FACTS = "checkpoint 2"  # raise the number whenever what is kept, or how it is found out, changes

SHIPPED = "postcards"  # the model that comes with the program


class Catalogue:
    """Checkpoints of `folders.checkpoint_dirs`; what headers say is kept in `database`. Thread-safe, torch-free."""

    def __init__(self, folders: Folders, database: Path) -> None:
        self.folders = folders
        self.store = FileStore(database)
        self._lock = threading.RLock()
        self._views: list[CheckpointView] = []
        self._old_hashes: dict[str, str] = {}
        self._scanned = float("-inf")

    def checkpoints(self, refresh: bool = False) -> list[CheckpointView]:
        """All checkpoints, in natural order by folder and file. Never raises for a file: `problem` tells.

        The folders are looked through again when the list is older than two seconds, or at once with `refresh`.
        """
        with self._lock:
            if refresh or time.monotonic() - self._scanned > FRESH_SECONDS:
                self._scan()
            return list(self._views)

    def find(self, name: str) -> CheckpointView:
        """A checkpoint by name, in A1111's order: any exact alias (hash of 8, 10, 64 digits, name, title, path, stem),
        then a part of a title (the shortest wins), then the same without a trailing "[…]".

        Raises:
            NotFound: with the nearest names.
        """
        with self._lock:
            for fresh in (False, True):
                views = self.checkpoints(refresh=fresh)
                found = self._look_up(name, views)
                if found:
                    return found
            folder = self.folders.checkpoint_dirs[0]
            if not views:
                raise NotFound(f"No checkpoint is called {name!r}: there is none in {folder}; put one there.")
            near = difflib.get_close_matches(name, [v.name for v in views], n=3, cutoff=0.3) or [views[0].name]
            raise NotFound(f"No checkpoint is called {name!r}. Nearest: {', '.join(near)}. They lie in {folder}.")

    def default(self, preferred: str | None = None) -> CheckpointView:
        """The checkpoint to use when a request names none: the preferred one (the settings') if there, else the first
        sound one; the shipped model ("postcards") only where there is no other.

        Raises:
            NotFound: there is no checkpoint at all.
        """
        if preferred:
            try:
                return self.find(preferred)
            except NotFound:
                pass  # the file behind a setting may have been removed; the program must still draw
        views = self.checkpoints()
        if not views:
            raise NotFound(
                f"There is no checkpoint in {self.folders.checkpoint_dirs[0]}; put an SD 1.x .safetensors file there."
            )
        return min(views, key=lambda view: (view.problem is not None, view.name == SHIPPED))

    def hash_of(
        self,
        view: CheckpointView,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        """The SHA-256 of a checkpoint's file, computed where it is not known (raises as `hashing.sha256_of`)."""
        digest = hashing.sha256_of(Path(view.path), self.store, progress=progress, cancelled=cancelled)
        with self._lock:
            self._views = [_hashed(v, digest) if v.path == view.path else v for v in self._views]
        return digest

    def _look_up(self, name: str, views: list[CheckpointView]) -> CheckpointView | None:
        if not name.strip():
            return None
        for view in views:
            if name in self._aliases(view):
                return view
        for part in (name, re.sub(r"\s*\[[^\[\]]*\]\s*$", "", name)):
            if part:
                for view in views:
                    if part in self._aliases(view):
                        return view
                titles = [view for view in views if part in view.title]
                if titles:
                    return min(titles, key=lambda view: len(view.title))
        return None

    def _aliases(self, view: CheckpointView) -> set[str]:
        relative = view.title.removesuffix(f" [{view.short_hash}]") if view.short_hash else view.title
        stem = Path(view.path).stem
        old = self._old_hashes.get(view.path, "")
        names = {old, view.name, view.title, view.path, relative, Path(view.path).name, stem, f"{relative} [{old}]"}
        if view.sha256 and view.short_hash:
            names |= {view.sha256, view.short_hash, f"{stem} [{view.short_hash}]", f"{view.name} [{view.short_hash}]"}
        return names - {""}

    def _scan(self) -> None:
        kept = self.store.all(_FACTS)
        hashes = self.store.all("sha256")
        views, fresh = [], []
        self._old_hashes = {}
        for relative, path, stamp in self._files():
            old = kept.get(str(path))
            if old and old[0] == stamp:
                facts = json.loads(old[1])
            else:
                facts = _look_at(path)
                fresh.append((str(path), stamp, json.dumps(facts)))
            known = hashes.get(str(path))
            view = _view(relative, path, stamp[0], facts)
            views.append(_hashed(view, known[1]) if known and known[0] == stamp else view)
            self._old_hashes[str(path)] = facts["old_hash"]
        self.store.put_many(_FACTS, fresh)
        self._views = views
        self._scanned = time.monotonic()

    def _files(self) -> Iterator[tuple[str, Path, Stamp]]:
        """(path relative to its folder, path, stamp) in natural order; each file once."""
        seen: set[str] = set()
        for folder in self.folders.checkpoint_dirs:
            found = []
            for path, stamp in _walk(str(folder)):
                if path not in seen:
                    seen.add(path)
                    found.append((os.path.relpath(path, folder).replace(os.sep, "/"), Path(path), stamp))
            yield from sorted(found, key=lambda item: _natural(item[0]))


def _walk(folder: str, depth: int = 0, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, Stamp]]:
    """Model files below a folder. Links are followed, but never into a folder that is being walked."""
    try:
        here = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError:
        return  # missing or unreadable folders are empty
    identity = (here.st_dev, here.st_ino)
    if identity in above or depth > 32 or any(entry.name == "model_index.json" for entry in entries):
        return  # the last is a model in the diffusers layout: its parts are no checkpoints
    for entry in entries:
        try:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    yield from _walk(entry.path, depth + 1, above | {identity})
                continue
            name = entry.name.lower()
            if not name.endswith(EXTENSIONS) or name.endswith(NOT_CHECKPOINTS) or name.startswith("."):
                continue
            entry.name.encode("utf-8")  # a name that is not text could be neither shown nor written to infotext
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                yield entry.path, (status.st_size, status.st_mtime_ns)
        except (OSError, UnicodeEncodeError):
            continue  # a broken link, or gone since


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key: folders before files at each level, numbers by value, case ignored."""
    *folders, file = os.path.splitext(name.lower())[0].split("/")
    key: list[tuple[int, int | str]] = []
    for rank, part in (*((0, f) for f in folders), (9, file)):
        key.append((rank, 0))
        key += [(1, int(p)) if p.isdecimal() and len(p) < 19 else (2, p) for p in re.split(r"(\d+)", part) if p]
    return key


def _look_at(path: Path) -> dict[str, Any]:
    """What a file's first bytes tell; must not raise, whatever it holds."""
    try:
        header = read_header(path)
        facts = detect(header)
    except EaselError as error:
        return {"family": "unknown", "resolution": (512, 512), "cfg": None, "problem": error.message} | _old(path)
    return {
        "family": facts.family, "resolution": facts.resolution, "cfg": facts.cfg_scale, "problem": None
    } | _old(path)  # fmt: skip


def _old(path: Path) -> dict[str, str]:
    try:
        return {"old_hash": hashing.old_hash(path)}
    except OSError:
        return {"old_hash": ""}


def _view(relative: str, path: Path, size: int, facts: dict[str, Any]) -> CheckpointView:
    return CheckpointView(
        name=os.path.splitext(relative)[0].replace("/", "_"),
        title=relative,
        path=str(path),
        size=size,
        family=facts["family"],
        resolution=tuple(facts["resolution"]),
        cfg_scale=facts["cfg"],
        problem=facts["problem"],
    )


def _hashed(view: CheckpointView, sha256: str) -> CheckpointView:
    if view.sha256 == sha256:
        return view
    relative = view.title.removesuffix(f" [{view.short_hash}]") if view.short_hash else view.title
    return view.model_copy(update={"sha256": sha256, "title": f"{relative} [{hashing.short(sha256)}]"})
