"""A request with a script: the requests it becomes, drawn one after the other as one job, and their grids.

Everything is planned before the first weight moves, so a misspelt sampler at the end of an axis costs nothing. One
picture that cannot be drawn leaves its place empty; an interrupted job still makes a grid of what is finished.
"""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from modules.pipeline import generate as plain
from modules.pipeline import source
from modules.pipeline.context import Kept, RunContext, Share, Skipped
from modules.pipeline.plan import with_seeds
from modules.pipeline.scripts.expansion import Cells, Expansion, look_of
from modules.pipeline.scripts.table import expand
from modules.schema.errors import BadRequest, Cancelled, EaselError, OutOfMemory
from modules.schema.events import Event, Preview, Progress, Warned
from modules.schema.plan import Plan
from modules.schema.record import Role, SavedRecord
from modules.schema.request import GenerationRequest


@dataclass(frozen=True)
class Cell:
    """One request of a script: its pictures have the numbers `indices` of the job, its steps begin after `before`."""

    request: GenerationRequest
    indices: range
    before: int


@torch.inference_mode()
def generate(request: GenerationRequest, ctx: RunContext) -> list[SavedRecord]:
    """Draw a request, with its script where it has one, and with extensions where some listen; as
    `generate.generate`."""
    hooks = ctx.hooks
    if hooks is None or (request.source is not None and request.source.extras is not None):
        return _generate(request, replace(ctx, hooks=None))
    hooks.begin("job")
    request = hooks.amend_request(request)
    records = _generate(request, ctx)
    hooks.after_job(request, records)
    return records


def _generate(request: GenerationRequest, ctx: RunContext) -> list[SavedRecord]:
    if request.script is None:
        return plain.generate(request, ctx)
    if request.source is not None and request.source.extras is not None:
        raise BadRequest("A script draws; pictures that are only enlarged take none.", field="script")
    if request.source is not None and request.source.batch is not None:
        raise BadRequest("A batch of source pictures takes no script; choose None there.", field="script")
    if request.source is not None and request.source.batch is not None:
        raise BadRequest("A script works on one picture; choose it without a batch of them.", field="script")
    expansion = expand(with_seeds(request), ctx.folders)
    plans = []
    for each in expansion.requests:
        ctx.check()
        plans.append(plain.planned(each, ctx))
    cells, total = _cells(expansion, plans, ctx)
    records: list[SavedRecord] = []
    first_problem: EaselError | None = None
    try:
        for number, place in enumerate(expansion.drawn, 1):
            title = f"{expansion.title}, {number} of {len(cells)}"
            try:
                _draw(cells[place], title, total, expansion, ctx, records)
            except Skipped:
                continue
            except (Cancelled, OutOfMemory):
                raise
            except EaselError as error:
                first_problem = first_problem or error
                ctx.emit(Warned(message=f"{title}: {error.message}"))
        if first_problem is not None and not ctx.kept and not records:
            raise first_problem
    except Cancelled:
        _make_grids(expansion, cells, ctx)
        raise
    return [*_make_grids(expansion, cells, ctx), *records]


def _cells(expansion: Expansion, plans: list[Plan], ctx: RunContext) -> tuple[list[Cell], int]:
    """The requests with their places in the job, and how many steps all of them take."""
    starts = list(itertools.accumulate((plan.pictures for plan in plans), initial=expansion.grids))
    before, done = {}, 0
    for place in expansion.drawn:
        plan = plans[place]
        tiled = plan.request.source is not None and plan.request.source.tiles is not None
        each, batches = plain.steps_of(plan, source.read(plan, ctx.folders) if tiled else None, ctx)
        before[place] = done
        done += each * batches
    cells = [Cell(request, range(starts[k], starts[k + 1]), before[k]) for k, request in enumerate(expansion.requests)]
    return cells, done


def _draw(
    cell: Cell, title: str, total: int, expansion: Expansion, ctx: RunContext, records: list[SavedRecord]
) -> None:
    """Draw one request; its pictures are announced, and kept where a grid wants them."""
    first, finished = cell.indices.start, ctx.control.finished
    # What an earlier attempt in another process has drawn is drawn again, unannounced, where a grid wants it.
    done = ctx.kept.keys() if expansion.grids else finished

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            left = (
                None
                if event.eta is None or not event.step
                else event.eta + ((total - cell.before - event.steps) * event.eta / max(event.steps - event.step, 1))
            )
            ctx.emit(Progress(step=cell.before + event.step, steps=total, eta=left, text=f"{title}: {event.text}"))
        elif isinstance(event, Preview):
            ctx.emit(event.model_copy(update={"step": cell.before + event.step}))
        elif isinstance(event, Warned):
            ctx.warn(event.message)
        else:
            ctx.emit(event)

    own = frozenset(k - first for k in done if k in cell.indices)
    if len(own) == len(cell.indices):
        return
    role: Role = "picture" if expansion.shown else "part"
    sub = replace(ctx, emit=emit, control=Share(ctx.control, own))
    with closing(plain.drawn(cell.request, sub)) as pictures:
        for made in pictures:
            index = first + made.k
            if index not in finished:
                records.append(
                    plain.publish(
                        made.image, made.strip, made.plan, made.k, ctx, index=index, role=role,
                        incomplete=made.incomplete, told=made.told, drawn_with=made.drawn_with,
                    )
                )  # fmt: skip
            if expansion.grids and not made.incomplete:
                ctx.kept[index] = Kept(made.plan, made.k, made.image)


def _make_grids(expansion: Expansion, cells: list[Cell], ctx: RunContext) -> list[SavedRecord]:
    """The grids of what is finished; none where nothing is."""
    if not expansion.grids or not ctx.kept:
        return []
    images: Cells = [[ctx.kept[k].image for k in cell.indices if k in ctx.kept] for cell in cells]
    first = ctx.kept[min(ctx.kept)]
    records = []
    for index, grid in enumerate(expansion.compose(images, look_of(first.plan.settings.saving))):
        if index not in ctx.control.finished:
            records.append(
                plain.publish(
                    grid.image, None, first.plan, first.k, ctx, index=index, role="grid", told=grid.told,
                    basename=grid.basename,
                )
            )  # fmt: skip
    return records
