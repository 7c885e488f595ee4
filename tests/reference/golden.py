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

from modules.imaging import inputs
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest, Hires, Mask, Refiner, Soft, Source, Tiles
from modules.schema.scripts import SCRIPT_OF

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
    for path in (source / "Stable-diffusion").glob("*.safetensors"):
        if not path.name.endswith(".delta.safetensors"):
            shutil.copy(path, checkpoints)
    for path in (source / "Stable-diffusion").glob("*.yaml"):
        shutil.copy(path, checkpoints)
    folders = Folders.under(target)
    for name, folder in (
        ("Lora", folders.lora),
        ("embeddings", folders.embeddings),
        ("hypernetworks", folders.models / "hypernetworks"),
    ):
        if (source / name).exists():
            shutil.copytree(source / name, folder)
    return folders


def request_of(body: dict[str, Any], folders: Folders) -> GenerationRequest:
    """An /sdapi/v1/txt2img or img2img body as our request; its pictures are kept in the folders' inputs."""
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
    scripts = {**body.pop("alwayson_scripts", {})}
    named = body.pop("script_name", None), body.pop("script_args", [])
    source, hires, refiner = _source(body, folders), _hires(body), _refiner(body)
    if source is not None:
        source = _scripted(source, *named, scripts)
    script: Any = None
    if named[0] and SCRIPT_OF[named[0]].part == "script":
        row = SCRIPT_OF[named[0]]
        script = row.values(row.by_place(named[1]))
    return GenerationRequest(
        checkpoint=checkpoint, sampler=sampler, override_settings=override,
        source=source, hires=hires, refiner=refiner, script=script, **body,
    )  # fmt: skip


def _kept(name: str, folders: Folders) -> str:
    return inputs.keep(folders.inputs, (golden_folder() / "inputs" / name).read_bytes())


def _taken(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """What the body says of these fields, removed from it."""
    return {name: body.pop(name) for name in names if name in body}


def _source(body: dict[str, Any], folders: Folders) -> Source | None:
    """The API's defaults differ from the page's: masked content "fill", only masked without padding."""
    images, mask = body.pop("init_images", ()), body.pop("mask", None)
    fields = _taken(body, "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding", "mask_round")
    fields = {"inpainting_fill": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 0} | fields
    fields["inpainting_mask_invert"] = bool(body.pop("inpainting_mask_invert", 0))
    blur = body.pop("mask_blur", 4)
    fields |= {"mask_blur_x": blur, "mask_blur_y": blur}
    if not images:
        return None
    return Source(
        images=tuple(_kept(name, folders) for name in images),
        mask=Mask(image=_kept(mask, folders), **fields) if mask else None,
        **_taken(body, "denoising_strength", "resize_mode", "image_cfg_scale", "initial_noise_multiplier"),
    )


def _scripted(source: Source, script: str | None, args: list[Any], always: dict[str, Any]) -> Source:
    """What A1111 asks scripts for."""
    if script == "sd upscale":
        return source.model_copy(update={"tiles": Tiles(overlap=args[1], upscaler=args[2], scale_factor=args[3])})
    if "soft inpainting" in always and source.mask is not None:
        values = dict(zip(Soft.model_fields, always["soft inpainting"]["args"][1:]))
        return source.model_copy(update={"mask": source.mask.model_copy(update={"soft": Soft(**values)})})
    return source


def _hires(body: dict[str, Any]) -> Hires | None:
    fields = _taken(body, *(name for name in Hires.model_fields if name != "denoising_strength"))
    fields |= _taken(body, "denoising_strength")
    return Hires(**fields) if body.pop("enable_hr", False) else None


def _refiner(body: dict[str, Any]) -> Refiner | None:
    fields = _taken(body, *Refiner.model_fields)
    return Refiner(**fields) if fields else None
