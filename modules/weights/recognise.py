"""A model on disk to its header and facts, with everything that belongs to it: side-car, notes, VAE, companions.

One function for the list in the server and for the loader in the worker, so both say the same. Torch-free.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modules.schema.folders import Folders
from modules.weights import assembly
from modules.weights.detect import detect
from modules.weights.facts import ModelFacts
from modules.weights.headers import Header, read_header
from modules.weights.notes import read_notes
from modules.weights.sidecar import read_sidecar
from modules.weights.vaes import ENDINGS, list_vaes

ENCODER_FOLDERS = ("text_encoder", "text_encoders", "CLIP", "clip")


def recognise(path: Path, folders: Folders | None = None, vae: Path | None = None) -> tuple[Header, ModelFacts]:
    """What a file or folder holds, and which model it is. `vae`: takes the place of its own VAE.

    A U-Net alone is completed with VAE and text encoders from `folders`.

    Raises:
        BadFile: it is no model that can be drawn with; the sentence says why.
    """
    header = read_header(path)
    notes = read_notes(path)
    if notes.ema:
        header = assembly.ema_tensors(header)
    other = read_header(vae) if vae else None
    if assembly.is_unet_only(header):
        vaes = [vae] if vae else list(list_vaes(folders).values()) if folders else []
        header = assembly.complete(header, read_header, vaes, encoder_files(folders) if folders else [])
    elif other:
        header = assembly.with_vae(header, other)
    sidecar = read_sidecar(path)
    if notes.prediction:
        sidecar = replace(sidecar, prediction=notes.prediction)
    return header, detect(header, sidecar)


def encoder_files(folders: Folders) -> list[Path]:
    """Files that may be text encoders."""
    places = [folders.models / name for name in ENCODER_FOLDERS]
    places += [folders.extra[name] for name in ("clip_models_path", "text_encoder_dir") if name in folders.extra]
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    return files
