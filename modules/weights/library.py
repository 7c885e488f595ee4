"""Every model file on this machine, of every kind, found in the folders of A1111's layout and told apart by content.

    library = Library(folders, folders.database)
    library.start()                       # looks around in the background, again and again
    library.files("lora")                 # what is known now; never waits for a disk

What was once found out about a file is kept in SQLite while its size and time stay the same, so that ten thousand
unchanged files are listed again within a second. Torch-free.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.schema.errors import BadRequest, Cancelled, EaselError, NotFound
from modules.schema.folders import Folders
from modules.schema.record import ModelView
from modules.weights import hashing
from modules.weights.glance import FACTS, PICTURES, Glance, ReadPicture, look_at
from modules.weights.headers import read_header
from modules.weights.notes import DESCRIPTIONS, NO_NOTES, PREVIEWS, read_notes
from modules.weights.store import FileStore, Stamp
from modules.weights.walk import Found, walk

FRESH_SECONDS = 5.0
"""So often the folders are looked through while somebody asks."""
_Kept = tuple[Stamp, str]
UPSCALER_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt")
_WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Place:
    """A folder of models: `name` is what A1111 calls it, `kind` what it is meant for."""

    name: str
    kind: str
    folder: Path
    endings: tuple[str, ...] = _WEIGHTS


def places(folders: Folders) -> list[Place]:
    """The folders of A1111's layout, moved by its flags, and those of Forge that are usual beside them."""
    models, extra = folders.models, folders.extra

    def at(flag: str, name: str) -> Path:
        return extra.get(flag, models / name)

    found = [Place("Stable-diffusion", "checkpoint", folder) for folder in folders.checkpoint_dirs]
    found += [Place("VAE", "vae", folder) for folder in folders.vae_dirs]
    found += [
        Place("Lora", "lora", folders.lora),
        Place("LyCORIS", "lora", at("lyco_dir_backcompat", "LyCORIS")),
        Place("embeddings", "embedding", folders.embeddings, (*_WEIGHTS, *PICTURES)),
        Place("hypernetworks", "hypernetwork", at("hypernetworks", "hypernetworks")),
        *(Place("ControlNet", "controlnet", folder) for folder in control_folders(folders)),
        Place("VAE-approx", "vae-approx", models / "VAE-approx"),
        Place("VAE-taesd", "taesd", models / "VAE-taesd"),
    ]
    found += [Place(name, "text encoder", models / name) for name in ("text_encoder", "text_encoders", "clip")]
    found.append(Place("CLIP", "text encoder", at("clip_models_path", "CLIP")))
    for name in ("ESRGAN", "RealESRGAN", "BSRGAN", "DAT", "HAT", "SwinIR", "ScuNET", "LDSR"):
        found.append(Place(name, "upscaler", at(f"{name.lower()}_models_path", name)))
    for name in ("GFPGAN", "Codeformer"):
        found.append(Place(name, "face restorer", at(f"{name.lower()}_models_path", name)))
    if "gfpgan_dir" in extra:
        found.append(Place("GFPGAN", "face restorer", extra["gfpgan_dir"]))
    return found


def control_folders(folders: Folders) -> list[Path]:
    """Where ControlNets lie: A1111's folder, its extension's own, and the one of --controlnet-dir."""
    found = [folders.models / "ControlNet"]
    if folders.extensions is not None:
        found.append(folders.extensions / "sd-webui-controlnet" / "models")
    if "controlnet_dir" in folders.extra:
        found.append(folders.extra["controlnet_dir"])
    return list(dict.fromkeys(found))


def clip_pair_file(folders: Folders) -> Path | None:
    """A CLIP with both towers, by its keys, where text encoders lie; None where there is none."""
    for place in places(folders):
        if place.kind != "text encoder":
            continue
        for file in walk(place.folder, place.endings):
            try:
                keys = read_header(Path(file.path)).tensors
            except EaselError:
                continue
            if "visual.proj" in keys or {"visual_projection.weight", "text_projection.weight"} <= set(keys):
                return Path(file.path)
    return None


def tagger_file(folders: Folders) -> Path | None:
    """DeepDanbooru's file, where A1111 keeps it; None where there is none."""
    return next(iter(sorted((folders.models / "torch_deepdanbooru").glob("*.pt"))), None)


def upscaler_files(folders: Folders) -> dict[str, Path]:
    """Upscaler files by name (the file's without its ending); where two share one, the first folder's."""
    found: dict[str, Path] = {}
    for place in places(folders):
        if place.kind == "upscaler":
            for file in walk(place.folder, UPSCALER_ENDINGS):
                found.setdefault(Path(file.path).stem, Path(file.path))
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def find_file(name: str, files: dict[str, Path]) -> Path | None:
    """The file of that name, or of that name in other capitals."""
    return files.get(name) or next((path for stem, path in files.items() if stem.lower() == name.lower()), None)


def restorer_names(files: Iterable[Path], chosen: Path | None = None) -> dict[str, Path]:
    """Face restorers by the names A1111 has for them; of several GFPGANs the one that is called as `chosen` has it
    (--gfpgan-model), else the newest, the rest their files'."""
    found: dict[str, Path] = {}
    first = chosen.stem.lower() if chosen else None
    for path in sorted(files, key=lambda path: (path.stem.lower() == first, path.stem.lower()), reverse=True):
        known = next((name for name in ("CodeFormer", "GFPGAN") if name.lower() in path.stem.lower()), path.stem)
        found[path.stem if known in found else known] = path
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


class Library:
    """Thread-safe. One thread looks through the folders, another takes hashes when they are asked for."""

    def __init__(self, folders: Folders, database: Path, read_picture: ReadPicture | None = None) -> None:
        """`read_picture`: tells embeddings in pictures from pictures; without it every picture counts as one."""
        self.folders = folders
        self.store = FileStore(database)
        self.version = 0
        """Another number whenever the list has changed."""
        self._read_picture = read_picture
        self._lock = threading.Lock()
        self._wake = threading.Condition()
        self._views: dict[str, ModelView] = {}
        self._seen: dict[str, tuple[Any, ModelView]] = {}
        self._places: dict[str, tuple[Place, Found]] = {}
        self._asked, self._urgent, self._scanning = False, False, False
        self._rounds = 0
        self._closed = False
        self._hashing: list[str] = []
        self._threads: list[threading.Thread] = []

    # ---- for everybody ----

    def start(self) -> None:
        """Begin to look around in the background."""
        for name, work in (("library", self._look_around), ("hashes", self._take_hashes)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def files(self, kind: str | None = None) -> list[ModelView]:
        """What is known now: of one kind (by content), or all. What was added since is there a few seconds later."""
        with self._wake:
            self._asked = True
            self._wake.notify_all()
        views = list(self._views.values())
        return [view for view in views if kind in (None, view.kind)]

    def get(self, path: str) -> ModelView:
        """NotFound for a file that is not in one of the folders."""
        view = self._views.get(path)
        if view is None:
            raise NotFound("That file is in none of the model folders, or was not found yet; look again in a moment.")
        return view

    def ask_hash(self, path: str) -> None:
        """Take a file's hashes in the background."""
        view = self.get(path)
        if view.problem:
            raise BadRequest(view.problem)
        with self._wake:
            if path not in self._hashing:
                self._hashing.append(path)
                self._wake.notify_all()

    def preview(self, path: str) -> Path:
        """The picture beside a model. NotFound where there is none."""
        found = self.get(path).preview
        if not found:
            raise NotFound("That model has no preview picture.")
        return Path(found)

    def wait(self, timeout: float = 60.0) -> None:
        """Until the folders have been looked through once more, from the first to the last."""
        with self._wake:
            last = self._rounds + (2 if self._scanning else 1)
            while self._rounds < last and not self._closed:
                self._urgent = True
                self._wake.notify_all()
                if not self._wake.wait(timeout):
                    return

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def scan(self) -> None:
        """Look through all folders now; what is new is entered while it is found."""
        with self._lock:
            kept, hashes = self.store.all(FACTS), _imported(self.folders) | self.store.all("sha256")
            v3 = self.store.all("autov3")
            fresh: list[tuple[str, tuple[int, int], str]] = []
            views: dict[str, ModelView] = {}
            known_places: dict[str, tuple[Place, Found]] = {}
            for place, found in self._found():
                if self._closed:
                    return
                if found.path in views:
                    continue
                known = kept.get(found.path)
                if known and known[0] == found.stamp:
                    facts = known[1]
                else:
                    facts = look_at(Path(found.path), place.kind, self.folders, self._read_picture).to_json()
                    if self._read_picture or not found.path.lower().endswith(PICTURES):
                        fresh.append((found.path, found.stamp, facts))
                    if len(fresh) >= 200:
                        self.store.put_many(FACTS, fresh)
                        fresh = []
                        self._show(self._views | views)  # what there is already
                view = self._viewed(place, found, facts, hashes.get(found.path), v3.get(found.path))
                known_places[found.path] = place, found
                if view.kind != "picture":
                    views[found.path] = view
            self.store.put_many(FACTS, fresh)
            self._show(views)
            self._seen = {path: self._seen[path] for path in known_places}
            self._places = known_places

    def notice(self, path: str) -> ModelView:
        """Look again at what lies beside one file, and at its hashes, at once; the file itself is not opened."""
        with self._lock:
            self.get(path)
            place, found = self._places[path]
            _, facts, sha, v3, _ = self._seen[path][0]
            with contextlib.suppress(OSError):
                found = replace(found, beside=frozenset(os.listdir(os.path.dirname(path))))
                status = os.stat(path)
                if (status.st_size, status.st_mtime_ns) == found.stamp:
                    taken = [self.store.get(kind, Path(path), status) for kind in ("sha256", "autov3")]
                    sha, v3 = [(found.stamp, new) if new else old for new, old in zip(taken, (sha, v3))]
            self._places[path] = place, found
            view = self._viewed(place, found, facts, sha, v3)
            self._show(self._views | {path: view})
            return view

    def _viewed(self, place: Place, found: Found, facts: str, sha: _Kept | None, v3: _Kept | None) -> ModelView:
        """What is shown of a file; the same object while nothing about it has changed."""
        key = (found.stamp, facts, sha, v3, _beside(found))
        old = self._seen.get(found.path)
        if old is None or old[0] != key:
            view = _view(place, found, Glance.from_json(facts), _valid(sha, found), _valid(v3, found))
            old = self._seen[found.path] = (key, view)
        return old[1]

    def _show(self, views: dict[str, ModelView]) -> None:
        if len(views) != len(self._views) or any(self._views.get(path) is not view for path, view in views.items()):
            self.version += 1
        self._views = views

    # ---- the threads ----

    def _look_around(self) -> None:
        while not self._closed:
            with self._wake:
                self._scanning, self._asked, self._urgent = True, False, False
            self.scan()
            with self._wake:
                self._scanning = False
                self._rounds += 1
                self._wake.notify_all()
                # However often somebody asks, a while passes between two looks, unless one waits for the next.
                self._wake.wait_for(lambda: self._urgent or self._closed, FRESH_SECONDS)
                self._wake.wait_for(lambda: self._asked or self._urgent or self._closed)

    def _take_hashes(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._hashing or self._closed)
                if self._closed:
                    return
                path = self._hashing[0]
            try:
                hashing.sha256_of(Path(path), self.store, cancelled=lambda: self._closed)
                if Path(path).suffix.lower() in (".safetensors", ".sft"):
                    hashing.autov3_of(Path(path), self.store, cancelled=lambda: self._closed)
                self.notice(path)
            except (EaselError, Cancelled):
                pass  # it went away or changed; the next look finds out
            with self._wake:
                self._hashing.remove(path)

    def _found(self) -> Iterator[tuple[Place, Found]]:
        for place in places(self.folders):
            for found in walk(place.folder, place.endings, whole=place.kind == "checkpoint"):
                stem, ending = os.path.splitext(found.relative.lower())
                if ending in PICTURES and _is_preview(stem, found.beside):
                    continue
                yield place, found


def _is_preview(stem: str, beside: frozenset[str]) -> bool:
    name = stem.rpartition("/")[2]
    lower = {other.lower() for other in beside}
    return name.endswith(".preview") or any(f"{name}{ending}" in lower for ending in _WEIGHTS)


def _beside(found: Found) -> tuple[str, ...]:
    """Preview and notes of a file, with their times: what may change while the file does not."""
    folder, name = os.path.split(found.path)
    stem = os.path.splitext(name)[0]
    previews = [stem + ending for ending in PREVIEWS if stem + ending in found.beside]
    texts = [stem + ending for ending in (".json", *DESCRIPTIONS) if stem + ending in found.beside]
    return tuple(f"{name}:{_time(os.path.join(folder, name))}" for name in (*previews[:1], *texts))


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _valid(kept: tuple[tuple[int, int], str] | None, found: Found) -> str | None:
    return kept[1] if kept and kept[0] == found.stamp else None


def _view(place: Place, found: Found, seen: Glance, sha256: str | None, v3: str | None) -> ModelView:
    path = Path(found.path)
    stem = os.path.splitext(path.name)[0]
    preview = next((path.with_name(stem + ending) for ending in PREVIEWS if stem + ending in found.beside), None)
    shown = str(preview) if preview else found.path if path.suffix.lower() in PICTURES else None
    noted = any(f"{stem}{ending}" in found.beside for ending in (".json", *DESCRIPTIONS))
    notes = read_notes(path) if noted else NO_NOTES
    name = os.path.splitext(found.relative)[0] if path.suffix.lower() in place.endings else found.relative
    if seen.word and seen.word != stem:
        name = f"{name.rpartition('/')[0]}/{seen.word}".lstrip("/")
    return ModelView(
        kind=seen.kind,
        name=name,
        path=found.path,
        place=place.name,
        misplaced=seen.kind not in (place.kind, "unknown", "unet"),
        size=found.stamp[0],
        modified=found.stamp[1] / 1e9,
        created=found.created,
        family=seen.family,
        sha256=sha256,
        autov3=v3,
        hash=_short_hash(seen, path, sha256, v3),
        alias=seen.alias,
        widths=seen.widths,
        vectors=seen.vectors,
        problem=seen.problem,
        metadata=seen.metadata,
        cover=seen.cover,
        preview=shown,
        preview_time=_time(shown) // 1_000_000 if shown else 0,
        description=notes.description,
        notes=notes.notes,
        activation=notes.activation or seen.trigger,
        preferred_weight=notes.preferred_weight,
        negative=notes.negative,
        sd_version=notes.sd_version,
    )


def _short_hash(seen: Glance, path: Path, sha256: str | None, v3: str | None) -> str | None:
    """As `networks.Shelf.short_hash` says it, where it is known without reading the file."""
    if seen.kind != "lora":
        return sha256[:12] if sha256 else None
    found = seen.hash or (v3 if path.suffix.lower() in (".safetensors", ".sft") else sha256)
    return found[:12] if found else None


def _imported(folders: Folders) -> dict[str, tuple[tuple[int, int], str]]:
    """SHA-256s that A1111 before 1.8 kept in cache.json: taken over for files that have not changed since."""
    path = folders.data / "cache.json"
    try:
        if path.stat().st_size > 64 * 2**20:
            return {}
        known = json.loads(path.read_text("utf-8")).get("hashes", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    found: dict[str, tuple[tuple[int, int], str]] = {}
    for title, entry in known.items() if isinstance(known, dict) else ():
        kind, _, name = str(title).partition("/")
        roots = {"checkpoint": folders.checkpoint_dirs, "lora": (folders.lora,), "vae": folders.vae_dirs}.get(kind, ())
        sha = entry.get("sha256") if isinstance(entry, dict) else None
        for root in roots:
            file = root / name
            try:
                status = os.stat(file)
            except (OSError, ValueError):
                continue
            if isinstance(sha, str) and len(sha) == 64 and status.st_mtime <= float(entry.get("mtime") or 0) + 1e-3:
                found[str(file)] = ((status.st_size, status.st_mtime_ns), sha)
    return found
