"""The whole story of one request, from plan to saved pictures."""

from __future__ import annotations

import time
import uuid

import torch
from PIL import Image
from torch import Tensor

from modules.imaging.save import encode_png, save_beside, save_picture
from modules.memory import budget, policy
from modules.pipeline import decode, hires, latents, networks, passes, source
from modules.pipeline.context import RunContext, Skipped
from modules.pipeline.infotext import infotext_of
from modules.pipeline.models import Models
from modules.pipeline.plan import make_plan
from modules.pipeline.progress import Meter
from modules.pipeline.source import Prepared
from modules.prompt import styles, wildcards
from modules.schema.errors import DiskTrouble
from modules.schema.events import ImageReady, Warned
from modules.schema.plan import Plan
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest
from modules.weights.residency import LoadedModel
from modules.weights.sizes import sizes_of

FULL_SIZE_CHANNELS = 320  # of every published Stable Diffusion denoiser, at least


@torch.inference_mode()
def generate(request: GenerationRequest, ctx: RunContext) -> list[SavedRecord]:
    """Draw a request. Pictures are announced as they are finished; those of an interrupted job stay.

    Raises EaselError: BadRequest or NotFound while planning, BadFile while loading, Cancelled when interrupted.
    """
    known_styles, problems = styles.load_styles(ctx.folders.styles_files)
    places = wildcards.places(ctx.folders.wildcards, ctx.folders.data / "extensions")
    plan = make_plan(request, ctx.settings, ctx.catalogue, known_styles, wildcards.folder_lookup(*places))
    for message in (*(problems if request.styles else ()), *plan.warnings):
        ctx.emit(Warned(message=message))
    plan, prepared = source.prepare(plan, ctx.folders)
    for message in prepared.warnings if prepared else ():
        ctx.emit(Warned(message=message))
    meter = Meter(ctx, plan, sum(run.steps_run for run in passes.passes(plan)))
    meter.say("Loading the model")
    width, height = passes.passes(plan)[-1].size
    chosen = policy.choose(
        ctx.facts, plan.settings, sizes_of(plan.checkpoint, ctx.folders),
        budget.Shape(width, height, plan.request.batch_size),
    )  # fmt: skip
    records: list[SavedRecord] = []
    with Models(ctx.residency, chosen, passes.tiling(plan)) as models:
        plan = met(plan, models.use(plan.checkpoint, networks.at_start(plan, 0)), ctx)
        for number, batch in enumerate(plan.batches()):
            if ctx.control.finished.issuperset(batch):
                continue
            try:
                model = models.use(plan.checkpoint, networks.at_start(plan, batch.start))
                plan = networks.settled(plan, batch, model, ctx)
                meter.start_batch(number)
                drawn = draw(plan, batch, prepared, models, ctx, meter)
                for k, latent in zip(batch, drawn):
                    if k in ctx.control.finished:
                        continue
                    meter.say("Decoding")
                    image = decode.decode(
                        models.current, latent, passes.passes(plan)[-1].size, plan.settings.model.sd_vae_decode_method
                    )
                    finished = prepared.finish(image, k) if prepared else image
                    strip = meter.film.strip(k - batch.start) if meter.film else None
                    records.append(publish(finished, strip, plan, k, ctx))
            except Skipped:
                continue
    return records


def met(plan: Plan, model: LoadedModel, ctx: RunContext) -> Plan:
    """The plan with what only the opened checkpoint could tell; warns of what will be slow, refuses what cannot fit."""
    for message in (*model.warnings, *slowness(model)):
        ctx.emit(Warned(message=message))
    width, height = passes.passes(plan)[-1].size
    chosen = model.policy
    budget.check_decode(
        ctx.facts, model.vae.config.ch, width, height, chosen.vae_dtype.itemsize, chosen.vae_tile
    )
    checkpoint = ctx.catalogue.with_hashes(plan.checkpoint)
    refiner = plan.refiner and ctx.catalogue.with_hashes(plan.refiner)
    second = plan.second
    if second is not None and second.checkpoint is not None:
        second = second.model_copy(update={"checkpoint": ctx.catalogue.with_hashes(second.checkpoint)})
    told = {"checkpoint": checkpoint, "refiner": refiner, "second": second, "concat": model.facts.concat}
    return plan.model_copy(update=told)


def draw(plan: Plan, batch: range, prepared: Prepared | None, models: Models, ctx: RunContext, meter: Meter) -> Tensor:
    """The latents of one batch [B, C, h, w], through all passes."""
    model, (first, *further) = models.current, passes.passes(plan)
    start = latents.start(model, prepared, plan, batch) if prepared else None
    extra = latents.net_input(model, prepared, plan, batch, first.size)
    del model
    drawn = passes.sample(plan, first, batch, models, ctx, meter, start, extra)
    for second in further:
        meter.start_pass("Enlarging", first.steps_run)
        larger, goal = hires.enlarged(plan, batch, drawn, models.current)
        own = plan.second and plan.second.checkpoint
        begun, extra = hires.start(plan, batch, larger, goal, models.use(own or plan.checkpoint))
        meter.say("Drawing the second pass")
        drawn = passes.sample(plan, second, batch, models, ctx, meter, begun, extra)
    return drawn


def slowness(model: LoadedModel) -> tuple[str, ...]:
    """What to say of a device that is slow for this model."""
    if model.device.type != "cpu" or model.unet.config.model_channels < FULL_SIZE_CHANNELS:
        return ()
    return ("No graphics card was found, so the processor draws; a full-size model takes minutes for each picture.",)


def publish(image: Image.Image, strip: Image.Image | None, plan: Plan, k: int, ctx: RunContext) -> SavedRecord:
    """Save one picture, its filmstrip beside it, and announce it.

    One that cannot be saved is handed over in memory, with the reason.
    """
    infotext = infotext_of(plan, k)
    path, beside, problem, data = None, None, None, None
    if plan.settings.saving.samples_save:
        try:
            path = save_picture(image, infotext, plan, k, ctx.folders.data)
            beside = save_beside(strip, infotext, path, "steps", ctx.folders.data) if strip else None
        except DiskTrouble as error:
            problem = error.message
    if path is None:
        data = encode_png(image, infotext)
    record = SavedRecord(
        id=uuid.uuid4().hex, job=ctx.job, index=k, path=path, width=image.width, height=image.height,
        seed=plan.seeds[k], infotext=infotext, created=time.time(), problem=problem, filmstrip=beside,
    )  # fmt: skip
    ctx.emit(ImageReady(record=record, data=data))
    return record
