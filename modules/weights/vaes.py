"""Which VAE a checkpoint is drawn with: its own, the one beside it, or the one the user chose (A1111's rule).

Torch-free.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.schema.folders import Folders

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
AUTOMATIC = ("Automatic", "auto", "")


@dataclass(frozen=True)
class Choice:
    """`path` None is the checkpoint's own VAE. `warning` is a sentence for the user."""

    path: Path | None = None
    warning: str | None = None


def list_vaes(folders: Folders) -> dict[str, Path]:
    """File name → path of every VAE: in the VAE folders, and `*.vae.*` in those of checkpoints; the later one wins."""
    found: dict[str, Path] = {}
    for folder in folders.checkpoint_dirs:
        found |= {p.name: p for p in _files(folder) if p.stem.lower().endswith(".vae")}
    for folder in folders.vae_dirs:
        found |= {p.name: p for p in _files(folder)}
    forced = folders.extra.get("vae_path")  # one file, from the command line
    if forced:
        found[forced.name] = forced
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def choose(
    checkpoint: Path, setting: str, noted: str | None, vaes: Mapping[str, Path], setting_wins: bool = True
) -> Choice:
    """The VAE for a checkpoint. `setting`: "Automatic", "None" or a file name; `noted`: the one in the checkpoint's
    notes.

    A setting other than Automatic comes first where `setting_wins`; then the notes, then `<checkpoint>.vae.<ending>`
    or a VAE named like the checkpoint, then the setting, then the checkpoint's own.
    """
    automatic = setting in AUTOMATIC
    if not automatic and setting_wins:
        return _named(setting, vaes)
    if noted and noted not in AUTOMATIC:
        return _named(noted, vaes)
    stem = checkpoint.stem if checkpoint.suffix else checkpoint.name
    for wanted in (f"{stem}.vae", stem):
        for path in (
            p for ending in ENDINGS for p in (checkpoint.with_name(wanted + ending), vaes.get(wanted + ending))
        ):
            if path and path != checkpoint and path.name in vaes and path.is_file():
                return Choice(path)
    return Choice() if automatic else _named(setting, vaes)


def _named(name: str, vaes: Mapping[str, Path]) -> Choice:
    if name == "None":
        return Choice()
    path = vaes.get(name) or next((p for n, p in vaes.items() if os.path.splitext(n)[0] == name), None)
    if path and path.is_file():
        return Choice(path)
    near = difflib.get_close_matches(name, list(vaes), n=3, cutoff=0.3)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return Choice(warning=f"No VAE is called {name!r}; the checkpoint's own was used.{hint}")


def _files(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < 8 else []
        if "model_index.json" in names:
            folders[:] = []
            continue
        found += [Path(root) / n for n in sorted(names) if n.lower().endswith(ENDINGS) and not n.startswith(".")]
    return found
