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
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from modules.schema.errors import BadFile, EaselError, NotFound
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.schema.settings import Model, Settings
from modules.weights import assembly, hashing, vaes
from modules.weights.networks import Shelf
from modules.weights.notes import read_notes
from modules.weights.recognise import recognise
from modules.weights.store import FileStore
from modules.weights.walk import Found, walk

EXTENSIONS = (".safetensors", ".ckpt", ".sft")
NOT_CHECKPOINTS = (".vae.safetensors", ".vae.ckpt")
FRESH_SECONDS = 2.0
"""A list younger than this is not made again unless asked."""
PATIENCE_SECONDS = 1.0
"""So long a list waits for files that were never looked at; the rest follows in the background."""
_FACTS = "checkpoint 5"  # raise the number whenever what is kept, or how it is found out, changes

SHIPPED = "postcards"  # the model that comes with the program


class Catalogue:
    """Checkpoints of `folders.checkpoint_dirs`; what headers say is kept in `database`. Thread-safe, torch-free."""

    def __init__(self, folders: Folders, database: Path) -> None:
        self.folders = folders
        self.store = FileStore(database)
        self.networks = Shelf(folders, self.store)
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

    def dressed(self, view: CheckpointView, settings: Model) -> tuple[CheckpointView, tuple[str, ...]]:
        """The checkpoint with the VAE that settings, notes and files beside it give it; and warnings for the user."""
        chosen = vaes.choose(
            Path(view.path), settings.sd_vae, read_notes(Path(view.path)).vae, vaes.list_vaes(self.folders),
            settings.sd_vae_overrides_per_model_preferences,
        )  # fmt: skip
        warnings = (chosen.warning,) if chosen.warning else ()
        return view.model_copy(update={"vae": str(chosen.path) if chosen.path else None}), warnings

    def noted(self, view: CheckpointView, settings: Settings, asked: Collection[str]) -> Settings:
        """The settings with what the checkpoint's notes say about clip skip, unless the request asked for its own."""
        skip = read_notes(Path(view.path)).clip_skip
        if skip is None or "CLIP_stop_at_last_layers" in asked:
            return settings
        return settings.with_options({"CLIP_stop_at_last_layers": skip})

    def with_hashes(self, view: CheckpointView) -> CheckpointView:
        """The checkpoint with its SHA-256 and its VAE's, computed where they are not known."""
        vae = hashing.short(hashing.sha256_of(Path(view.vae), self.store)) if view.vae else None
        return view.model_copy(update={"sha256": self.hash_of(view), "vae_hash": vae})

    def vae_names(self) -> list[str]:
        """File names of all VAEs, for the setting that chooses one."""
        return list(vaes.list_vaes(self.folders))

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
        views, fresh, later = [], [], False
        self._old_hashes = {}
        until = time.monotonic() + PATIENCE_SECONDS
        for found in self._files():
            old = kept.get(found.path)
            if old and old[0] == found.stamp:
                facts = json.loads(old[1])
            elif time.monotonic() > until:
                facts, later = _NOT_LOOKED_AT, True
            else:
                facts = _look_at(Path(found.path), self.folders)
                if not facts["alone"]:  # what such a file lacks may be put beside it at any time
                    fresh.append((found.path, found.stamp, json.dumps(facts)))
            known = hashes.get(found.path)
            view = _view(found.relative, found.path, found.stamp[0], facts)
            views.append(_hashed(view, known[1]) if known and known[0] == found.stamp else view)
            self._old_hashes[found.path] = facts["old_hash"]
        self.store.put_many(_FACTS, fresh)
        self._views = views
        self._scanned = time.monotonic()
        if later:
            threading.Thread(target=self._finish, name="catalogue", daemon=True).start()

    def _finish(self) -> None:
        """Look at what the last scan had no time for, a while at a time, so that nobody waits for long."""
        with self._lock:
            self._scan()

    def _files(self) -> Iterator[Found]:
        """Checkpoints in natural order, folder by folder; each file once. The one from the command line comes first."""
        seen: set[str] = set()
        lists = [walk(folder, EXTENSIONS, whole=True) for folder in self.folders.checkpoint_dirs]
        if self.folders.checkpoint:
            lists.insert(0, _single(self.folders.checkpoint))
        for found in (file for files in lists for file in files):
            if found.path not in seen and not found.relative.lower().endswith(NOT_CHECKPOINTS):
                seen.add(found.path)
                yield found


def _single(path: Path) -> list[Found]:
    try:
        return [Found(path.name, str(path), assembly.stamp_of(path), frozenset())]
    except (OSError, BadFile):
        return []


_NOT_LOOKED_AT: dict[str, Any] = {
    "family": "unknown", "resolution": (512, 512), "cfg": None, "problem": None, "alone": False, "old_hash": "",
    "towers": (), "concat": "",
}  # fmt: skip


def _look_at(path: Path, folders: Folders) -> dict[str, Any]:
    """What a file's first bytes tell; must not raise, whatever it holds."""
    seen = dict(_NOT_LOOKED_AT)
    try:
        header, facts = recognise(path, folders)
    except EaselError as error:
        seen |= {"problem": error.message, "alone": "holds a U-Net alone" in error.message}
    else:
        elsewhere = any(info.file not in (None, path) and path not in info.file.parents
                        for info in header.tensors.values() if info.file)  # fmt: skip
        seen |= {
            "family": facts.family, "resolution": facts.resolution, "cfg": facts.cfg_scale, "alone": elsewhere,
            "towers": tuple(tower.component.config["width"] for tower in facts.towers), "concat": facts.concat,
        }  # fmt: skip
    return seen | _old(path)


def _old(path: Path) -> dict[str, str]:
    try:
        return {"old_hash": hashing.old_hash(path)}
    except OSError:
        return {"old_hash": ""}


def _view(relative: str, path: str, size: int, facts: dict[str, Any]) -> CheckpointView:
    return CheckpointView(
        name=(os.path.splitext(relative)[0] if relative.lower().endswith(EXTENSIONS) else relative).replace("/", "_"),
        title=relative,
        path=path,
        size=size,
        family=facts["family"],
        resolution=tuple(facts["resolution"]),
        cfg_scale=facts["cfg"],
        problem=facts["problem"],
        towers=tuple(facts["towers"]),
        concat=facts["concat"],
    )


def _hashed(view: CheckpointView, sha256: str) -> CheckpointView:
    if view.sha256 == sha256:
        return view
    relative = view.title.removesuffix(f" [{view.short_hash}]") if view.short_hash else view.title
    return view.model_copy(update={"sha256": sha256, "title": f"{relative} [{hashing.short(sha256)}]"})
