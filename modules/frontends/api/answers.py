"""The answers of /sdapi/v1 with A1111's names, and how ours become them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from modules.prompt import infotext
from modules.sampling import table
from modules.schema.record import CheckpointView, JobView
from modules.schema.version import NAME, VERSION


class Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Generated(Answer):
    """Pictures in base64, the request as it was understood, and `info`: JSON in a text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class ExtraImage(Answer):
    html_info: str
    image: str


class ExtraImages(Answer):
    html_info: str
    images: list[str]


class PngInfo(Answer):
    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class State(Answer):
    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressNow(Answer):
    """progress 0 and job_count 0 mean that nothing is being drawn."""

    progress: float
    eta_relative: float
    state: State
    current_image: str | None = None
    textinfo: str | None = None


class SamplerItem(Answer):
    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(Answer):
    name: str
    label: str
    aliases: list[str] | None
    default_rho: float | None
    need_inner_model: bool | None


class UpscalerItem(Answer):
    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float | None = 4


class Named(Answer):
    name: str


class ModelItem(Answer):
    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None = None


class FileItem(Answer):
    model_name: str
    filename: str


class HypernetworkItem(Answer):
    name: str
    path: str | None


class FaceRestorerItem(Answer):
    name: str
    cmd_dir: str | None


class RealesrganItem(Answer):
    name: str
    path: str | None
    scale: int | None


class StyleItem(Answer):
    name: str
    prompt: str | None
    negative_prompt: str | None


class EmbeddingItem(Answer):
    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int
    vectors: int


class Embeddings(Answer):
    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem]


class LoraItem(Answer):
    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class Memory(Answer):
    ram: dict[str, Any]
    cuda: dict[str, Any]


class Scripts(Answer):
    txt2img: list[str]
    img2img: list[str]


class ScriptArgument(Answer):
    """One argument; an empty name is a place that means nothing here."""

    name: str
    label: str
    value: Any
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: list[Any] | None = None


class ScriptItem(Answer):
    name: str
    is_alwayson: bool
    is_img2img: bool
    args: list[ScriptArgument]


class ExtensionItem(Answer):
    name: str
    remote: str
    branch: str
    commit_hash: str
    version: str
    commit_date: str
    enabled: bool


class Info(Answer):
    info: str


class Caption(Answer):
    caption: str


class Empty(Answer):
    pass


# ------------------------------------------------------------------------------------------------------------- lists


def sampler_items() -> list[SamplerItem]:
    return [SamplerItem(name=row.name, aliases=list(row.aliases), options=_options(row)) for row in table.SAMPLERS]


def _options(row: table.Sampler) -> dict[str, str]:
    told = {
        "scheduler": row.scheduler,
        "second_order": row.order == 2,
        "brownian_noise": row.brownian,
        "discard_next_to_last_sigma": row.discard_penultimate,
        "uses_ensd": row.uses_ensd,
        **dict(row.fixed),
    }
    return {name: str(value) for name, value in told.items() if value}


def scheduler_items() -> list[SchedulerItem]:
    return [
        SchedulerItem(
            name=row.name,
            label=row.label,
            aliases=list(row.aliases) or None,
            default_rho=-1.0 if row.default_rho is None else row.default_rho,
            need_inner_model=not row.takes_range,
        )
        for row in (table.AUTOMATIC, *(row for row in table.SCHEDULES if row is not table.AUTOMATIC))
    ]


def model_item(view: CheckpointView) -> ModelItem:
    return ModelItem(
        title=view.title, model_name=view.name, hash=view.short_hash, sha256=view.sha256, filename=view.path
    )


# ---------------------------------------------------------------------------------------------------- what was drawn

# Fields of an infotext that have their own place in `info`.
_OWN_PLACE = {
    "Steps", "Sampler", "CFG scale", "Image CFG scale", "Seed", "Face restoration", "Size", "Model hash", "Model",
    "VAE hash", "VAE", "Variation seed", "Variation seed strength", "Seed resize from", "Denoising strength",
    "Clip skip", "Version", "User",
}  # fmt: skip


def info_of(view: JobView) -> str:
    """A1111's `info` of a finished job: JSON in a text. What the pictures say of themselves decides."""
    request = view.request
    alone = [image for image in view.images if image.role not in ("grid", "mask")]
    told = [infotext.read(image.infotext) for image in alone]
    first: Mapping[str, Any] = told[0].fields if told else {}
    count = request.n_iter * request.batch_size
    varied = request.subseed_strength > 0
    prompts = [each.prompt for each in told] or [request.prompt] * count
    negatives = [each.negative_prompt for each in told] or [request.negative_prompt] * count
    strength = request.source or request.hires
    seeds = [view.seed if varied else view.seed + k for k in range(count)]
    subseeds = [view.subseed + k for k in range(count)]
    if request.script is not None and alone:
        seeds = [image.seed for image in alone]
        subseeds = [view.subseed + k for k in range(len(alone))]
    return json.dumps(
        {
            "prompt": prompts[0],
            "all_prompts": prompts,
            "negative_prompt": negatives[0],
            "all_negative_prompts": negatives,
            "seed": seeds[0],
            "all_seeds": seeds,
            "subseed": view.subseed,
            "all_subseeds": subseeds,
            "subseed_strength": request.subseed_strength,
            "width": request.width,
            "height": request.height,
            "sampler_name": first.get("Sampler", request.sampler),
            "cfg_scale": request.cfg_scale,
            "steps": request.steps,
            "batch_size": request.batch_size,
            "restore_faces": "Face restoration" in first,
            "face_restoration_model": first.get("Face restoration"),
            "sd_model_name": first.get("Model"),
            "sd_model_hash": first.get("Model hash"),
            "sd_vae_name": first.get("VAE"),
            "sd_vae_hash": first.get("VAE hash"),
            "seed_resize_from_w": request.seed_resize_from_w,
            "seed_resize_from_h": request.seed_resize_from_h,
            "denoising_strength": strength.denoising_strength if strength else None,
            "extra_generation_params": {k: v for k, v in first.items() if k not in _OWN_PLACE},
            "index_of_first_image": sum(image.role == "grid" for image in view.images),
            "infotexts": [image.infotext for image in view.images if image.role != "mask"],
            "styles": list(request.styles),
            "job_timestamp": timestamp(view.started or view.created),
            "clip_skip": int(str(first.get("Clip skip", 1))),
            "is_using_inpainting_conditioning": False,
            "version": f"{NAME} {VERSION}",
            "warnings": list(dict.fromkeys((*view.warnings, *(each.problem for each in view.images if each.problem)))),
        },
        ensure_ascii=False,
    )


def timestamp(moment: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(moment))


def state_of(view: JobView) -> State:
    """The job as A1111's shared state: batches are counted, steps are those of one batch."""
    request = view.request
    batches = request.n_iter if request.script is None else max(1, view.steps // request.steps)
    of_batch = max(1, view.steps // batches) if view.steps else request.steps
    # A batch is done when the next one has begun.
    done = min(max(view.step - 1, 0) // of_batch, batches - 1) if view.steps else 0
    return State(
        interrupted=view.cancelling,
        job=f"Batch {done + 1} out of {batches}" if batches > 1 else "scripts_txt2img",
        job_count=batches,
        job_timestamp=timestamp(view.started or view.created),
        job_no=done,
        sampling_step=view.step - done * of_batch if view.steps else 0,
        sampling_steps=of_batch,
    )
