"""The whole story of one request, from plan to saved pictures."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from modules.imaging import legend
from modules.imaging.save import encode_picture, save_beside, save_picture
from modules.imaging.upscale import Find
from modules.memory import budget, machine, policy
from modules.pipeline import batch as batches
from modules.pipeline import control, decode, extras, hires, latents, networks, passes, rounds, source, upscalers
from modules.pipeline.context import BrokenOff, Kept, RunContext, Skipped
from modules.pipeline.extensions import Hooks, Listener
from modules.pipeline.infotext import infotext_of, source_of
from modules.pipeline.latents import Start
from modules.pipeline.models import Models
from modules.pipeline.plan import make_plan
from modules.pipeline.progress import Meter
from modules.pipeline.source import Pictures, Prepared
from modules.pipeline.surroundings import surroundings
from modules.prompt import styles, wildcards
from modules.schema.errors import Cancelled, DiskTrouble
from modules.schema.events import ImageReady, Warned
from modules.schema.plan import Plan
from modules.schema.record import Role, SavedRecord
from modules.schema.request import GenerationRequest, Loopback, Tiles
from modules.schema.settings import Saving
from modules.weights.residency import LoadedModel
from modules.weights.sizes import sizes_of

GRID_INDEX = -1
"""A grid of the pictures of a job comes before the first of them."""
MASK_INDEX = 1_000_000
"""Masks that are shown come after the last of them."""
MASKS = (("mask", "save_mask", "return_mask"), ("mask-composite", "save_mask_composite", "return_mask_composite"))
"""What there is of a mask: the word its file ends with, the option that saves it and the one that shows it."""


@torch.inference_mode()
def generate(request: GenerationRequest, ctx: RunContext) -> list[SavedRecord]:
    """Draw a request. Pictures are announced as they are finished; those of an interrupted job stay.

    Raises EaselError: BadRequest or NotFound while planning, BadFile while loading, Cancelled when interrupted.
    """
    if request.source is not None and request.source.extras is not None:
        return extras.run(request, request.source.extras, ctx)
    if request.source is not None and request.source.batch is not None:
        return batches.run(request, request.source.batch, ctx, singles)
    records = singles(request, ctx)
    return [*side_by_side(ctx), *records]


def singles(request: GenerationRequest, ctx: RunContext) -> list[SavedRecord]:
    """The pictures of a request, each published as it is finished."""
    # Closed at once, whatever happens: it holds the lease of the model, which only this thread can give back.
    records = []
    with closing(drawn(request, ctx)) as pictures:
        for made in pictures:
            records.append(
                publish(
                    made.image, made.strip, made.plan, made.k, ctx, beside=made.beside, incomplete=made.incomplete,
                    told=made.told, drawn_with=made.drawn_with,
                )
            )  # fmt: skip
            for number, image in enumerate(made.shown):
                index = MASK_INDEX + len(MASKS) * made.k + number
                records.append(publish(image, None, made.plan, made.k, ctx, index=index, role="mask"))
            if made.plan.settings.saving.return_grid and not made.incomplete:
                ctx.kept[made.k] = Kept(made.plan, made.k, made.image)
    return records


def side_by_side(ctx: RunContext) -> list[SavedRecord]:
    """The grid of a job's pictures, where there are several (or one is enough) and all of them are at hand."""
    if not ctx.kept:
        return []
    alone = ctx.kept[min(ctx.kept)].plan.settings.saving.grid_only_if_multiple
    if len(ctx.kept) < 1 + alone or len(ctx.kept) < ctx.kept[min(ctx.kept)].plan.pictures:
        return []
    first = ctx.kept[min(ctx.kept)]
    saving, count = first.plan.settings.saving, len(ctx.kept)
    size = first.plan.request.batch_size
    rows = legend.rows_for(count, saving.grid_prevent_empty_spots)
    if saving.n_rows >= 0:
        rows = min(saving.n_rows or size, count)
    image = legend.sheet(
        [ctx.kept[k].image for k in sorted(ctx.kept)], rows, legend.Look(background=saving.grid_background_color)
    )
    return [publish(image, None, first.plan, first.k, ctx, index=GRID_INDEX, role="grid", basename="grid")]


def planned(request: GenerationRequest, ctx: RunContext) -> Plan:
    """The plan of a request, with what its styles files have wrong among its warnings."""
    known_styles, problems = styles.load_styles(ctx.folders.styles_files)
    places = wildcards.places(ctx.folders.wildcards, ctx.folders.extensions, ctx.settings.extensions.disables)
    lookup = wildcards.folder_lookup(*places)
    if ctx.hooks is None:
        plan = make_plan(request, ctx.settings, ctx.catalogue, known_styles, lookup)
    else:
        plan = make_plan(request, ctx.settings, ctx.catalogue, known_styles, lookup, ctx.hooks.expand_prompt)
        plan = ctx.hooks.amend_plan(plan)
    if not (problems and request.styles):
        return plan
    return plan.model_copy(update={"warnings": (*problems, *plan.warnings)})


def steps_of(plan: Plan, given: Pictures | None, ctx: RunContext) -> tuple[int, int]:
    """How many steps each batch of a plan takes, and how many batches there are."""
    each = sum(run.steps_run for run in passes.run_of(plan))
    asked = plan.request.source
    each += asked.inversion.steps if asked and asked.inversion else 0
    return each, _drawings(plan, given, finder(ctx, plan)) if given else len(plan.batches())


def drawn(request: GenerationRequest, ctx: RunContext) -> Generator[Made, None, None]:
    """The pictures of a request, one by one as they are finished; raises as `generate`. To be closed by who uses it."""
    if ctx.hooks is not None:
        ctx.hooks.begin("plan")
    plan = planned(request, ctx)
    for message in plan.warnings:
        ctx.emit(Warned(message=message))
    given = source.read(plan, ctx.folders)
    prepared = None
    if given is not None:
        plan, prepared = source.ready(source.put_by(plan, ctx.folders, ctx.warn), given, finder(ctx, plan))
        for message in prepared.warnings:
            ctx.emit(Warned(message=message))
    meter = Meter(ctx, plan, *steps_of(plan, given, ctx))
    meter.say("Loading the model")
    width, height = passes.passes(plan)[-1].size
    sizes = control.with_controls(sizes_of(plan.checkpoint, ctx.folders), plan.controls)
    shape = budget.Shape(width, height, plan.request.batch_size)
    chosen = policy.choose(ctx.facts, plan.settings, sizes, shape)
    need = policy.predict(sizes, shape, chosen)
    budget.check_denoising(ctx.facts, need, shape)
    ctx.gauge.expect(policy.kind_of(ctx.facts, sizes, chosen), need)
    with Models(ctx.residency, chosen, passes.tiling(plan)) as models:
        plan = met(plan, models.use(plan.checkpoint, networks.at_start(plan, 0)), ctx)
        if not plan.controls:
            models.current.controls.clear()  # of an earlier job
        job = Job(models, ctx, meter, control.Maps(ctx.folders.inputs, ctx.warn, ctx.check))
        asked = plan.request.source
        if asked is not None and asked.tiles is not None and given is not None:
            made = in_tiles(plan, given, asked.tiles, job)
        elif asked is not None and asked.loopback is not None and given is not None:
            made = in_loops(plan, given, asked.loopback, job)
        else:
            made = pictures(plan, prepared, job, plan.batches(), ctx.control.finished)
        yield from (_finished(one, job) for one in made)


@dataclass(frozen=True)
class Job:
    """What every picture of a job is drawn with."""

    models: Models
    ctx: RunContext
    meter: Meter
    maps: control.Maps


@dataclass(frozen=True)
class Made:
    """A finished picture: number k of its plan, which is by now complete for it. `beside`: what is kept with it, by the
    word that its name ends with; `shown`: what is shown after it, and not saved. `incomplete`: it was stopped. `parts`:
    extensions that took part, by folder; `told`: what its infotext tells of them; `drawn_with`: see `SavedRecord`."""

    plan: Plan
    k: int
    image: Image.Image
    strip: Image.Image | None = None
    beside: Mapping[str, Image.Image] = field(default_factory=dict)
    shown: Sequence[Image.Image] = ()
    incomplete: bool = False
    parts: Mapping[str, Listener] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    drawn_with: tuple[tuple[str, str], ...] = ()


def _finished(made: Made, job: Job) -> Made:
    """A picture with what it was drawn by, after the last that extensions do to it."""
    current = job.models.current.policy
    attention = job.ctx.residency.attention_name(current)
    made = replace(made, drawn_with=surroundings(current, job.ctx.facts, attention))
    return made if job.ctx.hooks is None else _extended(made, job.ctx.hooks)


def _extended(made: Made, hooks: Hooks) -> Made:
    """A picture after the last that extensions do to it, and what its infotext tells of them."""
    image = made.image if made.incomplete else hooks.before_save(made.image, made.plan, made.k)
    return replace(made, image=image, told=hooks.told({**made.parts, **hooks.parts}))


def pictures(
    plan: Plan, prepared: Prepared | None, job: Job, batches: Sequence[range], finished: frozenset[int], first: int = 0
) -> Iterator[Made]:
    """The pictures of these batches that are not finished, one by one; `first`: how many batches came before."""
    for number, batch in enumerate(batches, first):
        if finished.issuperset(batch):
            continue
        hooks = job.ctx.hooks
        if hooks is not None:
            hooks.begin("batch")
        try:
            model = job.models.use(plan.checkpoint, networks.at_start(plan, batch.start))
            plan = networks.settled(plan, batch, model, job.ctx)
            job.meter.start_batch(number)
            drawn, start, first_pass = draw(plan, batch, prepared, job)
            for i, (k, latent) in enumerate(zip(batch, drawn)):
                if k in finished:
                    continue
                job.meter.say("Decoding")
                method, size = plan.settings.model.sd_vae_decode_method, passes.passes(plan)[-1].size
                with job.ctx.gauge.phase("decoding") if method == "Full" else nullcontext():
                    image = decode.decode(job.models.current, latent, size, method, job.ctx.warn)
                if hooks is not None:
                    hooks.begin("picture")
                    image = image if _is_tile(plan) else hooks.after_decode(image, plan, k)
                beside = {}
                if first_pass is not None and plan.settings.saving.save_images_before_highres_fix:
                    size = passes.passes(plan)[0].size
                    beside["before-highres-fix"] = decode.decode(
                        job.models.current, first_pass[i], size, method, job.ctx.warn
                    )
                if plan.settings.saving.save_images_before_face_restoration and plan.settings.faces.face_restoration:
                    beside["before-face-restoration"] = image
                image = with_faces(image, plan, job)
                if prepared is not None:
                    seen = start.seen(drawn, i) if start else None
                    beside |= _of_source(prepared, image, k, seen, plan.settings.saving)
                    image = prepared.finish(image, k, seen)
                masks = _masks(prepared, image, plan.settings.saving)
                beside |= {
                    word: masks[word] for word, save, _ in MASKS if getattr(plan.settings.saving, save) and masks
                }
                shown = [masks[word] for word, _, show in MASKS if getattr(plan.settings.saving, show) and masks]
                strip, parts = job.meter.film.strip(i) if job.meter.film else None, hooks.parts if hooks else {}
                yield Made(plan, k, image, strip, beside, shown, parts=parts)
        except BrokenOff as stopped:
            yield from _as_far_as(stopped, plan, batch, prepared, job)
            if isinstance(stopped.cause, Cancelled):
                raise stopped.cause from None
        except Skipped:
            continue


def _as_far_as(stopped: BrokenOff, plan: Plan, batch: range, prepared: Prepared | None, job: Job) -> Iterator[Made]:
    """The pictures of a batch that was stopped, as far as they came; nothing is done to them but what puts them in
    their place."""
    method = plan.settings.model.sd_vae_decode_method
    for i, (k, latent) in enumerate(zip(batch, stopped.latents)):
        if k in job.ctx.control.finished:
            continue
        image = decode.decode(job.models.current, latent, stopped.size, method, job.ctx.warn)
        if prepared is not None:
            image = prepared.finish(image, k, stopped.start.seen(stopped.latents, i) if stopped.start else None)
        yield Made(plan, k, image, incomplete=True, parts=job.ctx.hooks.parts if job.ctx.hooks else {})


def _is_tile(plan: Plan) -> bool:
    """Whether a picture of this plan is a part of one."""
    return plan.request.source is not None and plan.request.source.tiles is not None


def _of_source(
    prepared: Prepared, image: Image.Image, k: int, seen: Image.Image | None, saving: Saving
) -> dict[str, Image.Image]:
    """What is kept beside a picture with a source: as it was before its colours were matched."""
    if not prepared.colours or not saving.save_images_before_color_correction:
        return {}
    return {"before-color-correction": replace(prepared, colours=()).finish(image, k, seen)}


def _masks(prepared: Prepared | None, image: Image.Image, saving: Saving) -> dict[str, Image.Image]:
    """Of a finished picture its mask, and the new part alone, the rest transparent, by their words; none where there is
    no mask, or nobody asks."""
    asked = any(getattr(saving, option) for _, *options in MASKS for option in options)
    if prepared is None or prepared.mask is None or not asked:
        return {}
    mask, alone = prepared.placed(prepared.mask, image.size), image.convert("RGBA")
    alone.putalpha(mask)
    return {"mask": mask, "mask-composite": alone}


def with_faces(image: Image.Image, plan: Plan, job: Job) -> Image.Image:
    """A decoded picture with its faces restored, where that is asked for."""
    asked = plan.settings.faces
    if not asked.face_restoration:
        return image
    job.meter.say("Restoring faces")
    faces = job.ctx.faces
    image = faces.restore(image, asked.face_restoration_model, asked.code_former_weight, job.ctx.warn, job.ctx.check)
    if asked.face_restoration_unload:
        faces.close()
    return image


def in_tiles(plan: Plan, given: Pictures, tiles: Tiles, job: Job) -> Iterator[Made]:
    """Every picture enlarged and drawn over tile by tile; one of which a tile was skipped is left out."""
    done = 0
    for k in range(plan.pictures):
        cut = rounds.cut(plan, k, given, tiles, finder(job.ctx, plan)(tiles.upscaler))
        batches = cut.plan.batches()
        done += len(batches)
        if k in job.ctx.control.finished:
            continue
        tiled = pictures(cut.plan, cut.prepared, job, batches, frozenset(), done - len(batches))
        made = [one for one in tiled if not one.incomplete]
        if len(made) == len(cut.prepared.images):
            told = {"not_applied": made[0].plan.not_applied, "ti_hashes": made[0].plan.ti_hashes[:1] * plan.pictures}
            image, parts = cut.joined([one.image for one in made]), {}
            if (hooks := job.ctx.hooks) is not None:
                hooks.begin("picture")
                image = hooks.after_decode(image, plan, k)
                parts = {key: each for one in made for key, each in one.parts.items()}
            yield Made(plan.model_copy(update=told), k, image, parts=parts)


def in_loops(plan: Plan, given: Pictures, loopback: Loopback, job: Job) -> Iterator[Made]:
    """Every picture drawn out of the one before; colours are matched to the first source."""
    colours: tuple[Image.Image, ...] = ()
    now = given
    for k in range(plan.pictures):
        loop = k % loopback.loops
        now = now if loop else replace(given, sources=given.sources[:1])
        one, prepared = source.ready(rounds.again(plan, loop, loopback), now, finder(job.ctx, plan))
        colours = colours if loop else prepared.colours
        prepared = replace(prepared, colours=colours)
        for made in pictures(one, prepared, job, [range(k, k + 1)], frozenset(), k):
            now = now if made.incomplete else replace(now, sources=(made.image,))
            if k not in job.ctx.control.finished:  # what comes after it needs it, though
                yield made


def finder(ctx: RunContext, plan: Plan) -> Find:
    """What knows the upscalers, with a plan's settings; an interrupt takes effect between tiles."""
    return lambda name: ctx.upscalers.find(name, upscalers.sparing(plan.settings), ctx.check)


def _drawings(plan: Plan, given: Pictures, find: Find) -> int:
    """How many batches a job with a source takes."""
    asked = plan.request.source
    if asked is None or asked.tiles is None:
        return len(plan.batches())
    each = rounds.tiles_of(plan, given, asked.tiles, find(asked.tiles.upscaler))
    return plan.pictures * -(-each // plan.request.batch_size)


def met(plan: Plan, model: LoadedModel, ctx: RunContext) -> Plan:
    """The plan with what only the opened checkpoint could tell; warns of what will be slow, refuses what cannot fit."""
    for message in (*model.warnings, *slowness(model)):
        ctx.emit(Warned(message=message))
    width, height = passes.passes(plan)[-1].size
    chosen = model.policy
    budget.check_decode(ctx.facts, model.vae.config.ch, width, height, machine.BYTES[chosen.vae], chosen.vae_tile)
    hashed = ctx.catalogue.with_hashes if plan.settings.model.hash_models else lambda view: view
    checkpoint, refiner = hashed(plan.checkpoint), plan.refiner and hashed(plan.refiner)
    second = plan.second
    if second is not None and second.checkpoint is not None:
        second = second.model_copy(update={"checkpoint": hashed(second.checkpoint)})
    told = {"checkpoint": checkpoint, "refiner": refiner, "second": second, "concat": model.facts.concat}
    return plan.model_copy(update=told)


class Drawn(NamedTuple):
    """Latents of a batch [B, C, h, w], what their first pass started from, and its own latents where others follow."""

    latents: Tensor
    start: Start | None
    first: Tensor | None


def draw(plan: Plan, batch: range, prepared: Prepared | None, job: Job) -> Drawn:
    """One batch through all passes."""
    models, ctx, meter = job.models, job.ctx, job.meter
    model, (first, *further) = models.current, passes.passes(plan)
    asked = plan.request.hires
    drawn: Tensor | list[Image.Image]
    drawn_first: Tensor | None = None
    if asked is not None and asked.first_picture is not None:
        drawn, start = hires.known_first(plan, batch, asked.first_picture, model, ctx.folders), None
        del model
        first_steps = 0
    else:
        start = latents.start(model, prepared, plan, batch) if prepared else None
        extra = latents.net_input(model, prepared, plan, batch, first.size)
        del model
        units = passes.controls_of(plan, first, batch, prepared, job.maps)
        with ctx.gauge.phase("denoising"):
            drawn = passes.sample(plan, first, batch, models, ctx, meter, start, extra, units)
        first_steps, drawn_first = first.steps_run, drawn if further else None
    for second in further:
        try:
            meter.start_pass("Enlarging", first_steps)
            larger, goal = hires.enlarged(plan, batch, drawn, models.current, finder(ctx, plan))
        except (Cancelled, Skipped) as stop:
            if drawn_first is None:
                raise
            raise BrokenOff(drawn_first, first.size, stop) from stop
        own = plan.second and plan.second.checkpoint
        begun, extra = hires.start(plan, batch, larger, goal, models.use(own or plan.checkpoint))
        meter.say("Drawing the second pass")
        units = passes.controls_of(plan, second, batch, prepared, job.maps)
        with ctx.gauge.phase("denoising"):
            drawn = passes.sample(plan, second, batch, models, ctx, meter, begun, extra, units)
    assert isinstance(drawn, Tensor)
    return Drawn(drawn, start, drawn_first)


def slowness(model: LoadedModel) -> tuple[str, ...]:
    """What to say of a device that is slow for this model."""
    if model.device.type != "cpu" or model.unet.config.model_channels < policy.FULL_WIDTH:
        return ()
    return ("No graphics card was found, so the processor draws; a full-size model takes minutes for each picture.",)


def parents_of(plan: Plan, k: int) -> tuple[str, ...]:
    """The kept pictures that picture k was drawn from: its source, in a loop the first, the mask, those that it was
    drawn along."""
    asked, second = plan.request.source, plan.request.hires
    along = tuple(name for unit in plan.request.controlnet for name in (unit.image, unit.mask) if name)
    if asked is None:
        return (second.first_picture, *along) if second and second.first_picture else along
    first = asked.images[source_of(plan, k)]
    return (first, asked.mask.image, *along) if asked.mask else (first, *along)


def publish(
    image: Image.Image, strip: Image.Image | None, plan: Plan, k: int, ctx: RunContext,
    *, index: int | None = None, role: Role = "picture", told: Mapping[str, Any] = MappingProxyType({}),
    basename: str = "", beside: Mapping[str, Image.Image] = MappingProxyType({}), incomplete: bool = False,
    drawn_with: tuple[tuple[str, str], ...] = (),
) -> SavedRecord:  # fmt: skip
    """Save one picture, its filmstrip beside it, and announce it as number `index` (k) of its job.

    One that cannot be saved is handed over in memory, with the reason. `told`: what its infotext tells besides;
    `beside`: pictures kept with it.
    """
    infotext = infotext_of(plan, k, told)
    saving = plan.settings.saving
    path, film, problem, data = None, None, None, None
    wanted = saving.grid_save if role == "grid" else saving.samples_save and role != "mask"
    if wanted and (saving.save_incomplete_images or not incomplete):
        try:
            path = save_picture(image, infotext, plan, k, ctx.folders.data, basename=basename, grid=role == "grid")
            film = save_beside(strip, infotext, path, "steps", ctx.folders.data) if strip else None
            for suffix, picture in beside.items():
                save_beside(picture, infotext, path, suffix, ctx.folders.data)
        except DiskTrouble as error:
            problem = error.message
    if path is None:
        data, _ = encode_picture(image, infotext, saving, role == "grid")
    record = SavedRecord(
        id=uuid.uuid4().hex, job=ctx.job, index=k if index is None else index, path=path,
        width=image.width, height=image.height, seed=plan.seeds[k], infotext=infotext, created=time.time(),
        problem=problem, filmstrip=film,
        parents=parents_of(plan, k), role=role, incomplete=incomplete,
        drawn_with=drawn_with,
    )  # fmt: skip
    ctx.emit(ImageReady(record=record, data=data))
    return record
