"""Extras as a job: every source is made ready (enlarged, faces restored, cropped …), nothing is drawn and no checkpoint
is loaded. One source may give several pictures; they are counted through."""

from __future__ import annotations

import time
import uuid
from itertools import count

from PIL import Image

from modules.imaging import extras as steps
from modules.imaging import inputs
from modules.imaging.metadata import read_infotext
from modules.imaging.naming import NameFields
from modules.imaging.save import encode_png, kept_as, safe_write, save_named
from modules.pipeline import batch, faces, upscalers
from modules.pipeline.context import RunContext, Skipped
from modules.pipeline.interrogate import MISSING, Interrogator
from modules.schema.errors import BadRequest, Cancelled, DiskTrouble, EaselError, NotFound
from modules.schema.events import ImageReady, Progress
from modules.schema.record import SavedRecord
from modules.schema.request import Batch, Extras, GenerationRequest
from modules.schema.settings import SAVINGS, SECTION_OF, Settings
from modules.weights.library import clip_pair_file


def run(request: GenerationRequest, asked: Extras, ctx: RunContext) -> list[SavedRecord]:
    """Every source picture in turn. BadRequest, NotFound, BadFile; Cancelled within a tile, or between faces.

    From a folder, a picture that cannot be read is passed over with a sentence.
    """
    source = request.source
    assert source is not None
    if not source.images and source.batch is None:
        raise BadRequest("A picture to enlarge is missing; add one.", field="source")
    known = {key: value for key, value in request.override_settings.items() if key in SECTION_OF}
    steps.check(asked)
    for name in (asked.upscaler_1, asked.upscaler_2):
        upscalers.check(name, ctx.folders)
    for name in ("gfpgan", "codeformer"):
        if getattr(asked, f"{name}_visibility") > 0:
            faces.check({"gfpgan": "GFPGAN", "codeformer": "CodeFormer"}[name], ctx.folders, f"{name}_visibility")
    if asked.caption and clip_pair_file(ctx.folders) is None:
        raise NotFound(MISSING, field="caption")
    words = Interrogator(ctx.folders) if asked.caption else None
    many = source.batch or Batch()
    found = batch.items(request, many)
    records: list[SavedRecord] = []
    alone = not (asked.split_oversized or asked.flip or (asked.focal_crop and asked.focal_crop.debug))
    numbers = count()
    for k, item in enumerate(found):
        ctx.emit(Progress(step=k, steps=len(found), text="Enlarging"))
        if alone and k in ctx.control.finished:
            continue
        settings = ctx.settings.with_options(known | batch.saving_of(item, many))
        pattern = item.stem if many.output_dir else "large"
        if source.batch is not None and item.stem and settings.saving.use_original_name_batch:
            pattern, settings = item.stem, settings.with_options({"save_images_add_number": False})
        if settings.saving.use_upscaler_name_as_suffix and asked.upscaler_1 != "None":
            pattern += f"-{asked.upscaler_1}"
        try:
            ctx.check()
            name = item.kept(ctx.folders.inputs)
            image = inputs.load(ctx.folders.inputs, name)
            before = read_infotext(image)
            made = _made(image, asked, settings, ctx)
        except Skipped:
            continue
        except Cancelled:
            raise
        except EaselError as error:
            if source.batch is None or (k == len(found) - 1 and not records):
                raise
            ctx.warn(f"{item.stem or f'Picture {k + 1}'} was passed over: {error.message}")
            continue
        for image in made:
            number = k if alone else next(numbers)
            if number not in ctx.control.finished:
                text = _infotext(before, asked, ctx.settings)
                records.append(_published(image, number, name, text, settings, pattern, request, ctx))
                if words is not None:
                    _caption(records[-1], words.describe(image, settings), ctx)
    ctx.emit(Progress(step=len(found), steps=len(found), text="Enlarging"))
    return records


def _made(image: Image.Image, asked: Extras, settings: Settings, ctx: RunContext) -> list[Image.Image]:
    return steps.processed(
        steps.whole(image), asked, lambda name: ctx.upscalers.find(name, upscalers.sparing(settings), ctx.check),
        lambda picture, name, weight: ctx.faces.restore(picture, name, weight, ctx.warn, ctx.check),
        ctx.faces.find,
    )  # fmt: skip


def _caption(record: SavedRecord, words: str, ctx: RunContext) -> None:
    """The words in a text file beside the picture; one that is there already stays as it is."""
    if record.path is None:
        return ctx.warn("A caption is written beside its picture; this one was not saved.")
    try:
        safe_write((ctx.folders.data / record.path).with_suffix(".txt"), words.encode())
    except DiskTrouble as error:
        ctx.warn(error.message)


def _infotext(before: str | None, asked: Extras, settings: Settings) -> str:
    """How the picture was drawn, where it says so, what became of it, and what was done against too little memory."""
    told = {**steps.told(asked)}
    if settings.performance.memory_saving != SAVINGS[0]:
        told["Memory saving"] = settings.performance.memory_saving
    fields = ", ".join(f"{key}: {value}" for key, value in told.items())
    return ", ".join(text for text in (before, fields) if text)


def _published(
    image: Image.Image, number: int, parent: str, infotext: str, settings: Settings, pattern: str,
    request: GenerationRequest, ctx: RunContext,
) -> SavedRecord:  # fmt: skip
    path, problem, data = None, None, None
    if settings.saving.samples_save:
        saving = settings.saving.model_copy(
            update={
                "outdir_img2img_samples": settings.saving.outdir_extras_samples,
                "samples_filename_pattern": pattern,
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
        id=uuid.uuid4().hex, job=ctx.job, index=number, path=path, width=image.width, height=image.height,
        seed=max(request.seed, 0), infotext=infotext, created=time.time(), problem=problem, parents=(parent,),
    )  # fmt: skip
    ctx.emit(ImageReady(record=record, data=data))
    return record
