"""The trained nets as one file in Stable Diffusion 1's checkpoint layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from modules.nets.autoencoder import Autoencoder
from modules.training.denoiser_loop import POSITIONS, TEXT, UNET, Denoiser, Vocabulary

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."
DESCRIPTION = (
    "Easel's own small text-to-image model: flat postcards of 128 x 128 pixels. Trained from nothing by "
    "modules/training on pictures its own code draws."
)
RECIPE_FILES = (
    "drawing.py", "captions.py", "emphasis.py", "autoencoder_loop.py", "denoiser_loop.py", "refine_loop.py",
    "places.py", "optim.py", "progress.py", "fused.py",
)  # fmt: skip


def checkpoint_tensors(denoiser: Denoiser, autoencoder: Autoencoder, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """All tensors under Stable Diffusion 1's keys, float16; the token table in CLIP's full size."""
    tensors: dict[str, Tensor] = {}
    for key, value in denoiser.unet.state_dict().items():
        tensors[UNET_PREFIX + key] = value
    for key, value in autoencoder.state_dict().items():
        tensors[AUTOENCODER_PREFIX + key] = value
    for key, value in denoiser.text.state_dict().items():
        if key.endswith("token_embedding.weight"):
            value = vocabulary.full_table(value)
        tensors[TEXT_PREFIX + key] = value
    tensors = {key: value.detach().to(torch.float16).contiguous() for key, value in tensors.items()}
    tensors[TEXT_PREFIX + "embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    return tensors


def recipe_hash(*recipes: Any) -> str:
    """SHA-256 over the source files that decide the weights and over the recipes' numbers."""
    digest = hashlib.sha256()
    for name in RECIPE_FILES:
        digest.update((Path(__file__).parent / name).read_bytes())
    digest.update(json.dumps([asdict(recipe) for recipe in recipes], sort_keys=True).encode())
    return digest.hexdigest()


def metadata(recipe_sha256: str, date: str, refined_from: str | None = None) -> dict[str, str]:
    """What the header says (Stability AI's ModelSpec 1.0.0, and what weights alone do not tell).

    `refined_from`: SHA-256 of the file the training went on from.
    """
    assert UNET.head_dim is not None
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": "Postcards",
        "modelspec.description": DESCRIPTION,
        "modelspec.author": "Easel",
        "modelspec.date": date,
        "modelspec.license": "CC0-1.0",
        "modelspec.resolution": "128x128",
        "modelspec.prediction_type": "epsilon",
        "easel.unet_head_dim": str(UNET.head_dim),
        "easel.text_heads": str(TEXT.heads),
        "easel.default_cfg_scale": "5",
        "easel.recipe_sha256": recipe_sha256,
        **({"easel.refined_from_sha256": refined_from} if refined_from else {}),
    }


def write_checkpoint(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> None:
    """Write beside the target, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    save_file(dict(tensors), str(temporary), metadata=dict(header))
    temporary.replace(path)
