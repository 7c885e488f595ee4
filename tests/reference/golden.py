"""Golden runs of the original engine: their requests as ours, their models unpacked once.

The folder is $GOLDEN_RUNS, or ../shared/golden beside the repository where that exists, or the small subset in
golden_subset/. Its README describes data and tolerances.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
BASE_FOR_DELTA = "tiny-r"


def golden_folder() -> Path:
    given = os.environ.get("GOLDEN_RUNS")
    if given:
        return Path(given)
    beside = REPOSITORY.parent / "shared" / "golden"
    return beside if beside.exists() else HERE / "golden_subset"


@cache
def golden_cases() -> tuple[dict[str, Any], ...]:
    path = golden_folder() / "cases.json"
    return tuple(json.loads(path.read_text("utf-8"))) if path.exists() else ()


def unpack_models(target: Path) -> Folders:
    """The golden checkpoints under A1111's folders, beside their yaml files."""
    source = golden_folder() / "models"
    checkpoints = target / "models" / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    for path in sorted((source / "Stable-diffusion").glob("*.xz")):
        with lzma.open(path) as packed, (checkpoints / path.stem).open("wb") as out:
            shutil.copyfileobj(packed, out)
    trained = golden_folder().parent / "prototype" / "tiny-sd.safetensors"
    if trained.exists():
        shutil.copy(trained, checkpoints / "tiny-t.safetensors")
    base = checkpoints / f"{BASE_FOR_DELTA}.safetensors"
    if base.exists():
        shutil.copy(base, checkpoints / "tiny-v.safetensors")
        for delta in sorted((source / "Stable-diffusion").glob("*.delta.safetensors")):
            name = delta.name.removesuffix(".delta.safetensors")
            save_file(load_file(base) | load_file(delta), checkpoints / f"{name}.safetensors")
    for path in (source / "Stable-diffusion").glob("*.yaml"):
        shutil.copy(path, checkpoints)
    return Folders.under(target)


def request_of(body: dict[str, Any]) -> GenerationRequest:
    """An /sdapi/v1/txt2img body as our request."""
    body = dict(body)
    override = dict(body.pop("override_settings", {}))
    checkpoint = override.pop("sd_model_checkpoint", None)
    sampler = body.pop("sampler_name", "DPM++ 2M")
    body["cfg_scale"] = float(body.get("cfg_scale", 7.0))  # the API declares it a float, and so it is written
    if body.get("scheduler") is None:
        body.pop("scheduler", None)
    eta = body.pop("eta", None)
    if eta is not None:
        override.setdefault("eta_ddim" if sampler.startswith("DDIM") else "eta_ancestral", eta)
    for key in ("s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise", "tiling"):
        if key in body:
            override.setdefault(key, body.pop(key))
    return GenerationRequest(checkpoint=checkpoint, sampler=sampler, override_settings=override, **body)
