"""The extra networks on this machine: LoRA and kin, hypernetworks, embeddings; found and called by any of their names.

No tensor library is needed here. For example:

    shelf = Shelf(folders, store)
    shelf.find("lora", "ink")          # by file name, by path below its folder, or by the name its trainer gave it
    shelf.short_hash(file)             # the 12 digits of an infotext
"""

from __future__ import annotations

import difflib
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.weights import hashing
from modules.weights.glance import FACTS, PICTURES, Glance, ReadPicture, look_at
from modules.weights.store import FileStore, Stamp

Kind = Literal["lora", "hypernet", "embedding"]

EXTENSIONS: dict[Kind, tuple[str, ...]] = {
    "lora": (".safetensors", ".pt", ".ckpt"),
    "hypernet": (".pt",),
    "embedding": (".safetensors", ".pt", ".bin", *PICTURES),
}
CALLED: dict[Kind, str] = {"lora": "LoRA", "hypernet": "hypernetwork", "embedding": "embedding"}
MEANT: dict[Kind, str] = {"lora": "lora", "hypernet": "hypernetwork", "embedding": "embedding"}
NO_ALIASES = frozenset({"none", "addams"})
"""Names trainers give when nobody named the network; in lower case."""
FRESH_SECONDS = 2.0
_FACTS = "network 1"  # raise the number whenever what is kept, or how it is found out, changes


@dataclass(frozen=True)
class NetworkFile:
    """`name` is the file's without its ending; `relative` its path below its folder, with "/", without the ending."""

    kind: Kind
    name: str
    relative: str
    path: Path
    size: int
    mtime_ns: int


class Shelf:
    """Networks in the folders of each kind; what headers say is kept in the store. Thread-safe, torch-free."""

    def __init__(self, folders: Folders, store: FileStore) -> None:
        self.folders = folders
        self.store = store
        self._lock = threading.RLock()
        self._files: dict[Kind, list[NetworkFile]] = {}
        self._scanned: dict[Kind, float] = {}
        self._looked: dict[str, tuple[Stamp, str]] = {}  # as the store had it at the first asking
        self._glances: dict[str, tuple[Stamp, Glance]] = {}

    def folder(self, kind: Kind) -> Path:
        """Where the files of a kind belong."""
        if kind == "lora":
            return self.folders.lora
        if kind == "embedding":
            return self.folders.embeddings
        return self.folders.extra.get("hypernetworks", self.folders.models / "hypernetworks")

    def folders_of(self, kind: Kind) -> list[Path]:
        """Where they are looked for: LoRAs in the LyCORIS folder of older versions too."""
        if kind != "lora":
            return [self.folder(kind)]
        return [self.folder(kind), self.folders.extra.get("lyco_dir_backcompat", self.folders.models / "LyCORIS")]

    def files(self, kind: Kind, refresh: bool = False) -> list[NetworkFile]:
        """All files of a kind, by path; looked for again after two seconds, or at once with `refresh`."""
        with self._lock:
            if refresh or time.monotonic() - self._scanned.get(kind, float("-inf")) > FRESH_SECONDS:
                found = {file.path: file for folder in self.folders_of(kind) for file in _walk(kind, folder)}
                self._files[kind] = sorted(found.values(), key=lambda file: file.relative.lower())
                self._scanned[kind] = time.monotonic()
            return list(self._files[kind])

    def find(self, kind: Kind, name: str) -> NetworkFile:
        """A network by file name (of two the later in the list), path below its folder, or trainer's name.

        A trainer's name that several files share, or that means nothing, is not looked up.

        Raises:
            NotFound: with the nearest names.
        """
        for refresh in (False, True):
            files = self.files(kind, refresh)
            if found := self._called(name, kind, files):
                return found
        near = difflib.get_close_matches(name, [file.name for file in files], n=3, cutoff=0.3)
        tip = f"Nearest: {', '.join(near)}." if near else f"They lie in {self.folder(kind)}."
        raise NotFound(f"No {CALLED[kind]} is called {name!r}. {tip}")

    def has(self, kind: Kind, name: str) -> bool:
        """Whether `find` would find it, among files that were there two seconds ago."""
        return self._called(name, kind, self.files(kind)) is not None

    def _called(self, name: str, kind: Kind, files: list[NetworkFile]) -> NetworkFile | None:
        found = [file for file in files if name == file.name] or [file for file in files if name == file.relative]
        if not found and kind == "lora" and name.lower() not in NO_ALIASES:
            found = [file for file in files if self.facts(file).alias == name]
            found = found if len(found) == 1 else []
        return found[-1] if found else None

    def facts(self, file: NetworkFile, read_picture: ReadPicture | None = None) -> Glance:
        """What the file's header tells; never raises for a file. `read_picture`: for embeddings in pictures."""
        stamp, path = (file.size, file.mtime_ns), str(file.path)
        with self._lock:
            if not self._looked:
                self._looked = self.store.all(FACTS)
            known = self._glances.get(path)
            if known is None and path in self._looked:
                known = self._glances[path] = (self._looked[path][0], Glance.from_json(self._looked[path][1]))
        if known and known[0] == stamp:
            return known[1]
        try:
            status = os.stat(file.path)
        except OSError:
            return Glance(MEANT[file.kind], problem=f"{file.path.name} is gone.")
        told = self.store.get(FACTS, file.path, status)
        glance = Glance.from_json(told) if told else look_at(file.path, MEANT[file.kind], self.folders, read_picture)
        if not told and (read_picture or file.path.suffix.lower() not in PICTURES):
            self.store.put(FACTS, file.path, status, glance.to_json())
        with self._lock:
            self._glances[path] = ((status.st_size, status.st_mtime_ns), glance)
        return glance

    def short_hash(self, file: NetworkFile) -> str:
        """12 digits: of a LoRA its trainer's hash, or that of its tensors (what follows the header of a safetensors
        file, so that edited metadata changes nothing); of others the file's.

        Raises:
            BadFile: it cannot be read.
        """
        if file.kind != "lora":
            return hashing.sha256_of(file.path, self.store)[:12]
        said = self.facts(file).hash
        if said:
            return said[:12]
        if file.path.suffix.lower() != ".safetensors":
            return hashing.sha256_of(file.path, self.store)[:12]
        return hashing.autov3_of(file.path, self.store)[:12]


def _walk(kind: Kind, root: Path) -> Iterator[NetworkFile]:
    """Files below a folder, links followed; what cannot be read is passed over."""
    seen: set[tuple[int, int]] = set()
    waiting = [(str(root), "")]
    while waiting:
        folder, above = waiting.pop()
        try:
            here = os.stat(folder)
            entries = list(os.scandir(folder))
        except OSError:
            continue
        if (here.st_dev, here.st_ino) in seen:
            continue
        seen.add((here.st_dev, here.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                entry.name.encode("utf-8")
                if entry.is_dir():
                    waiting.append((entry.path, f"{above}{entry.name}/"))
                    continue
                stem, extension = os.path.splitext(entry.name)
                if extension.lower() not in EXTENSIONS[kind]:
                    continue
                if extension.lower() in PICTURES and os.path.splitext(stem)[1].lower() == ".preview":
                    continue  # the picture of a card
                status = entry.stat()
                if stat.S_ISREG(status.st_mode) and status.st_size:
                    path = Path(entry.path)
                    yield NetworkFile(kind, stem, above + stem, path, status.st_size, status.st_mtime_ns)
            except (OSError, UnicodeEncodeError):
                continue
