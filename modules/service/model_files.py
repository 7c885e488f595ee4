"""What lies in the folders of the smaller model files, for lists: names and what their headers tell, no weights.

ModelFiles(folders).loras()   # [ModelFile("add_detail", Path(…), {"ss_output_name": "add_detail", …})]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.schema.errors import EaselError
from modules.schema.folders import Folders
from modules.weights.headers import read_header

EXTENSIONS = (".safetensors", ".pt", ".ckpt", ".bin")
MOST = 20_000  # files of one kind that are listed


@dataclass(frozen=True)
class ModelFile:
    """`metadata` is empty where the file could not be read."""

    name: str
    path: Path
    metadata: Mapping[str, str] = field(default_factory=dict)


class ModelFiles:
    """Looks anew each time; headers are read once for each state of a file."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._known: dict[tuple[Path, int, int], ModelFile] = {}

    def vaes(self) -> list[ModelFile]:
        return [ModelFile(path.name, path) for path in _files(self._folders.vae_dirs, EXTENSIONS)]

    def loras(self) -> list[ModelFile]:
        return [self._read(path) for path in _files([self._folders.lora], EXTENSIONS)]

    def hypernetworks(self) -> list[ModelFile]:
        folder = self._folders.extra.get("hypernetworks", self._folders.models / "hypernetworks")
        return [ModelFile(path.stem, path) for path in _files([folder], (".pt", ".safetensors"))]

    def _read(self, path: Path) -> ModelFile:
        try:
            status = path.stat()
        except OSError:
            return ModelFile(path.stem, path)
        stamp = (path, status.st_size, status.st_mtime_ns)
        if stamp not in self._known:
            found = ModelFile(path.stem, path)
            with contextlib.suppress(EaselError):
                found = ModelFile(path.stem, path, dict(read_header(path).metadata))
            self._known[stamp] = found
        return self._known[stamp]


def _files(folders: Iterable[Path], extensions: tuple[str, ...]) -> list[Path]:
    found: dict[Path, None] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in sorted(folder.rglob("*"), key=lambda path: str(path).lower()):
                if path.suffix.lower() in extensions and path.is_file() and len(found) < MOST:
                    found[path] = None
    return list(found)
