"""Extras as a job: every source is enlarged, nothing is drawn and no checkpoint is loaded."""

from __future__ import annotations

import time
import uuid

from PIL import Image

from modules.imaging import inputs
from modules.imaging.extras import processed, told, whole
from modules.imaging.metadata import read_infotext
from modules.imaging.naming import NameFields
from modules.imaging.save import encode_png, kept_as, save_named
from modules.pipeline import upscalers
from modules.pipeline.context import RunContext, Skipped
from modules.schema.errors import BadRequest, DiskTrouble
from modules.schema.events import ImageReady, Progress
from modules.schema.record import SavedRecord
from modules.schema.request import Extras, GenerationRequest
from modules.schema.settings import SECTION_OF, Settings


def enlarge(request: GenerationRequest, asked: Extras, ctx: RunContext) -> list[SavedRecord]:
    """Every source picture in turn. BadRequest, NotFound, BadFile; Cancelled within a tile."""
    source = request.source
    assert source is not None
    if not source.images:
        raise BadRequest("A picture to enlarge is missing; add one.", field="source")
    known = {key: value for key, value in request.override_settings.items() if key in SECTION_OF}
    settings = ctx.settings.with_options(known)
    for name in (asked.upscaler_1, asked.upscaler_2):
        upscalers.check(name, ctx.folders)
    records: list[SavedRecord] = []
    for k, name in enumerate(source.images):
        if k in ctx.control.finished:
            continue
        ctx.emit(Progress(step=k, steps=len(source.images), text="Enlarging"))
        try:
            ctx.check()
            image = inputs.load(ctx.folders.inputs, name)
            before = read_infotext(image)
            image = processed(
                whole(image), asked, lambda name: ctx.upscalers.find(name, settings.drawing, ctx.check)
            )  # fmt: skip
        except Skipped:
            continue
        records.append(_published(image, k, _infotext(before, asked), settings, request, ctx))
    ctx.emit(Progress(step=len(source.images), steps=len(source.images), text="Enlarging"))
    return records


def _infotext(before: str | None, asked: Extras) -> str:
    """How the picture was drawn, where it says so, and what became of it."""
    fields = ", ".join(f"{key}: {value}" for key, value in told(asked).items())
    return ", ".join(text for text in (before, fields) if text)


def _published(
    image: Image.Image, k: int, infotext: str, settings: Settings, request: GenerationRequest, ctx: RunContext
) -> SavedRecord:
    path, problem, data = None, None, None
    if settings.saving.samples_save:
        saving = settings.saving.model_copy(
            update={
                "outdir_img2img_samples": settings.saving.outdir_extras_samples,
                "samples_filename_pattern": "large",
            }
        )
        fields = NameFields(width=image.width, height=image.height, from_picture=True)
        try:
            path = kept_as(save_named(image, infotext, fields, saving, ctx.folders.data), ctx.folders.data)
        except DiskTrouble as error:
            problem = error.message
    if path is None:
        data = encode_png(image, infotext)
    record = SavedRecord(
        id=uuid.uuid4().hex, job=ctx.job, index=k, path=path, width=image.width, height=image.height,
        seed=max(request.seed, 0), infotext=infotext, created=time.time(), problem=problem,
        parents=request.source.images[k : k + 1] if request.source else (),
    )  # fmt: skip
    ctx.emit(ImageReady(record=record, data=data))
    return record
