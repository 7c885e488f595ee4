"""Many pictures one after the other, sent or from a folder: each becomes a request of its own.

A picture that cannot be read is passed over with a sentence; the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.imaging import inputs
from modules.imaging.metadata import MAX_BYTES, open_bounded, read_infotext
from modules.pipeline.context import RunContext, Share
from modules.pipeline.plan import count_of
from modules.prompt import infotext
from modules.sampling import table
from modules.schema.errors import BadFile, BadRequest, Cancelled, EaselError, NotFound, OutOfMemory
from modules.schema.events import Event, ImageReady, Progress
from modules.schema.fields import facts
from modules.schema.record import SavedRecord
from modules.schema.request import PNG_INFO, Batch, GenerationRequest

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")
MOST = 10_000  # pictures of one job
Draw = Callable[[GenerationRequest, RunContext], list[SavedRecord]]


@dataclass(frozen=True)
class Item:
    """One source: kept already, by its `name`, or lying at `path`. `stem` is what its results are called after."""

    name: str | None
    path: Path | None
    stem: str

    def kept(self, folder: Path) -> str:
        """Its name among the kept pictures. BadFile where it is none."""
        if self.name is not None:
            return self.name
        assert self.path is not None
        return _keep(self.path, folder)


def items(request: GenerationRequest, asked: Batch) -> list[Item]:
    """What a batch goes through, in order. BadRequest where there is nothing, or too much."""
    source = request.source
    assert source is not None
    if asked.input_dir:
        found = [Item(None, path, path.stem) for path in _pictures(asked.input_dir, "input_dir")]
    else:
        stems = [Path(name.replace("\\", "/")).stem for name in asked.names]
        stems += [""] * (len(source.images) - len(stems))
        found = [Item(name, None, stem) for name, stem in zip(source.images, stems)]
    if not found:
        where = f"{asked.input_dir} holds no pictures" if asked.input_dir else "There are no pictures"
        raise BadRequest(f"{where} to work on; known are {', '.join(e[1:] for e in ENDINGS)}.", field="input_dir")
    if len(found) > MOST:
        raise BadRequest(f"{len(found)} pictures are too many for one job; {MOST} is the most.", field="input_dir")
    return found


def saving_of(item: Item, asked: Batch) -> dict[str, Any]:
    """Settings that put its results into the output folder under its name; none where there is no such folder."""
    if not asked.output_dir:
        return {}
    folder = str(Path(asked.output_dir).expanduser().absolute())
    kinds = ("outdir_txt2img_samples", "outdir_img2img_samples", "outdir_extras_samples")
    named = {"samples_filename_pattern": item.stem, "save_images_add_number": not item.stem, "samples_save": True}
    return dict.fromkeys(kinds, folder) | {"save_to_dirs": False} | named


def run(request: GenerationRequest, asked: Batch, ctx: RunContext, draw: Draw) -> list[SavedRecord]:
    """Draw every picture of the batch. Raises what the first one failed with where none could be drawn."""
    source = request.source
    assert source is not None
    wrong = next((name for name in asked.png_info_props if name not in PNG_INFO), None)
    if wrong is not None:
        raise BadRequest(
            f"{wrong!r} cannot be taken from png info; known are {', '.join(PNG_INFO)}.", field="png_info_props"
        )
    found = items(request, asked)
    masks = {path.stem: path for path in _pictures(asked.inpaint_mask_dir, "inpaint_mask_dir")}
    alone = source.model_copy(update={"batch": None, "images": source.images[:1] or ("0" * 64,)})
    each = count_of(request.model_copy(update={"source": alone}))
    records: list[SavedRecord] = []
    failed: EaselError | None = None
    for number, item in enumerate(found):
        own = _Part(ctx, number * each, number, len(found))
        if own.finished.issuperset(range(each)):
            continue
        try:
            child = _request(request.model_copy(update={"source": alone}), item, asked, masks, ctx)
            if child is not None:
                records += draw(child, replace(ctx, emit=own.emit, control=own))
        except (Cancelled, OutOfMemory):
            raise
        except EaselError as error:
            failed = failed or error
            ctx.warn(f"{item.stem or f'Picture {number + 1}'} was passed over: {error.message}")
    if failed is not None and not records and not ctx.control.finished:
        raise failed
    return records


class _Part(Share):
    """The hand and the voice of one picture's drawing within the job."""

    def __init__(self, ctx: RunContext, first: int, number: int, of: int) -> None:
        super().__init__(ctx.control, frozenset(k - first for k in ctx.control.finished if k >= first))
        self._emit, self._first, self._number, self._of = ctx.emit, first, number, of

    def emit(self, event: Event) -> None:
        if isinstance(event, Progress):
            # Each picture may take its own number of steps; the others are taken to be like this one.
            done = event.steps * self._number + event.step
            text = f"{event.text} (picture {self._number + 1} of {self._of})" if self._of > 1 else event.text
            event = event.model_copy(update={"step": done, "steps": event.steps * self._of, "text": text, "eta": None})
        elif isinstance(event, ImageReady):
            first = self._first * (2 if event.record.role == "mask" else 1)  # of masks there may be two each
            record = event.record.model_copy(update={"index": event.record.index + first})
            event = event.model_copy(update={"record": record})
        self._emit(event)


def _request(
    request: GenerationRequest, item: Item, asked: Batch, masks: dict[str, Path], ctx: RunContext
) -> GenerationRequest | None:
    """The request for one picture; None where its mask is missing, which is said."""
    source = request.source
    assert source is not None
    kept = item.kept(ctx.folders.inputs)
    changes: dict[str, Any] = {"images": (kept,)}
    if masks:
        if source.mask is None:
            raise BadRequest("A folder of masks needs to know how they are used; inpaint.", field="inpaint_mask_dir")
        mask = next(iter(masks.values())) if len(masks) == 1 else masks.get(item.stem)
        if mask is None:
            ctx.warn(f"{item.stem} was passed over: there is no mask of that name.")
            return None
        changes["mask"] = source.mask.model_copy(update={"image": _keep(mask, ctx.folders.inputs)})
    told: dict[str, Any] = {}
    if asked.use_png_info:
        told = _told(item, asked, kept, ctx)
    override = request.override_settings | saving_of(item, asked)
    request = request.model_copy(update={"source": source.model_copy(update=changes), "override_settings": override})
    return with_png_info(request, told, asked.png_info_props)


def with_png_info(request: GenerationRequest, told: dict[str, Any], props: tuple[str, ...]) -> GenerationRequest:
    """The request with what a picture tells of itself: its prompts are added to those asked for, the rest replaces it.
    What makes no sense is left as asked."""
    changes: dict[str, Any] = {}
    for label, name in (("Prompt", "prompt"), ("Negative prompt", "negative_prompt")):
        if label in props and told.get(label):
            changes[name] = " ".join(text for text in (getattr(request, name), str(told[label])) if text)
    for label, name in (("Seed", "seed"), ("CFG scale", "cfg_scale"), ("Steps", "steps")):
        if label in props and label in told:
            known, value = facts(GenerationRequest, name), _number(told[label])
            if value is not None and (known.ge or 0) <= value <= (known.le or value):
                changes[name] = value if name == "cfg_scale" else int(value)
    if "Sampler" in props and "Sampler" in told:
        try:
            sampler, schedule = table.normalise(str(told["Sampler"]), str(told.get("Schedule type", "Automatic")))
            changes |= {"sampler": sampler.name, "scheduler": schedule.label}
        except NotFound:
            pass
    if "Model hash" in props and told.get("Model hash"):
        changes["checkpoint"] = str(told["Model hash"])
    return request.model_copy(update=changes)


def _told(item: Item, asked: Batch, kept: str, ctx: RunContext) -> dict[str, Any]:
    """What a picture, or that of the same name in the folder for it, says of how it was made; nothing where none."""
    path: Path | None = None
    if asked.png_info_dir:
        path = next((p for p in _pictures(asked.png_info_dir, "png_info_dir") if p.stem == item.stem), None)
        if path is None:
            return {}
    image = open_bounded(path) if path is not None else inputs.load(ctx.folders.inputs, kept)
    text = read_infotext(image)
    if not text:
        return {}
    read = infotext.parse(text)
    return {**read.fields, "Prompt": read.prompt, "Negative prompt": read.negative_prompt}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number


def _pictures(folder: str, field: str) -> list[Path]:
    """Picture files of a folder (not of those in it) by name, numbers by their value; BadRequest where it is none."""
    if not folder:
        return []
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise BadRequest(f"{folder} is no folder on the machine that draws.", field=field)
    try:
        files = [file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file()]
    except OSError as error:
        raise BadRequest(f"{folder} cannot be listed ({error.strerror}).", field=field) from None
    return sorted(
        files, key=lambda file: [(int(p), "") if p.isdigit() else (-1, p) for p in _PARTS.findall(file.name.lower())]
    )


_PARTS = re.compile(r"[0-9]+|[^0-9]+")


def _keep(path: Path, folder: Path) -> str:
    if path.exists() and not path.is_file():  # what is read of a pipe or device never ends
        raise BadFile(f"{path.name} is no file.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read ({error.strerror or error}).") from None
    if len(data) > MAX_BYTES:
        raise BadFile(f"{path.name} is larger than {MAX_BYTES // 2**20} MB; make it smaller.")
    return inputs.keep(folder, data)
