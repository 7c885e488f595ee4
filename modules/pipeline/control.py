"""ControlNet in a job: units looked up, their maps made, and what their nets add at each call of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modules.imaging import inputs
from modules.imaging.colour import flatten
from modules.imaging.masks import read_mask
from modules.imaging.preprocess import fitted, pixel_perfect, preprocess
from modules.imaging.resize import resize
from modules.memory.budget import Sizes
from modules.nets.controlnet import HINT_DOWNSCALE, ControlNet, scaled
from modules.nets.layers import seamless
from modules.nets.unet import Context, Residuals
from modules.pipeline.source import Prepared
from modules.schema.control import BALANCED, CONTROL, MAX_UNITS, PREPROCESSORS, ControlUnit, preprocessor
from modules.schema.errors import BadRequest, EaselError
from modules.schema.folders import Folders
from modules.schema.plan import ControlFile, Plan
from modules.schema.record import CheckpointView
from modules.schema.request import GenerationRequest
from modules.weights.control_nets import misfit
from modules.weights.controls import FAMILIES, ControlFacts, find_control, read_control
from modules.weights.residency import LoadedModel

SOFTER = 0.825
"""Each residual has so much of the weight of the next one, where the prompt is to be heard as well."""
FULL_SCALE = 12
"""The number of the residual that keeps its whole weight: the middle's in SD 1."""


# ------------------------------------------------------------------------------------------------------------ planning


def find(
    request: GenerationRequest, first: CheckpointView, second: CheckpointView | None, folders: Folders
) -> tuple[ControlFile, ...]:
    """The files that the units name. `first`, `second`: the checkpoints of the passes, None where there is no other.

    Raises:
        BadRequest, NotFound, BadFile: a unit makes no sense, its net is not there, damaged, or for other models.
    """
    units = request.controlnet
    if len(units) > MAX_UNITS:
        raise BadRequest(
            f"{len(units)} units of ControlNet are too many; give at most {MAX_UNITS}.", field="controlnet"
        )
    try:
        return tuple(_found(number, unit, request, first, second, folders) for number, unit in enumerate(units))
    except EaselError as error:
        error.field = "controlnet"
        raise


def _found(
    number: int,
    unit: ControlUnit,
    request: GenerationRequest,
    first: CheckpointView,
    second: CheckpointView | None,
    folders: Folders,
) -> ControlFile:
    row = preprocessor(unit.module)
    if row is None:
        there = ", ".join(each.name for each in PREPROCESSORS)
        raise BadRequest(
            f"The preprocessor {unit.module!r:.80} is not here, or needs a model that is not; there are {there}. With "
            "none a finished map is used as it is."
        )
    if unit.model.strip() in ("", "None"):
        raise BadRequest(f"ControlNet unit {number} names no model; choose one, or take the unit out.")
    if unit.guidance_start > unit.guidance_end:
        raise BadRequest(
            f"ControlNet unit {number} would end at {unit.guidance_end:g}, before it starts at "
            f"{unit.guidance_start:g}; let it end later."
        )
    source = request.source
    if unit.image is None and source is None:
        raise BadRequest(f"ControlNet unit {number} has no picture to look at; give it one.")
    if row.masked and unit.mask is None and (source is None or source.mask is None):
        raise BadRequest(f"ControlNet unit {number}: {row.name} needs a mask of what is drawn anew; give it one.")
    file = find_control(folders, unit.model)
    facts = read_control(file.path)
    width = facts.config["context_dim"]
    drawing = [first] if unit.hr_option != "High res only" or request.hires is None else []
    if second is not None and unit.hr_option != "Low res only":
        drawing.append(second)
    for checkpoint in drawing:
        if checkpoint.towers and width and width != sum(checkpoint.towers):
            family = FAMILIES.get(sum(checkpoint.towers), "another kind of model")
            raise BadRequest(misfit(facts, checkpoint.name, family))
    return ControlFile(title=file.title, path=str(file.path), parameters=facts.parameters)


def with_controls(sizes: Sizes, controls: Sequence[ControlFile]) -> Sizes:
    """What a model's nets hold, those that stand beside it counted in; each file once."""
    return replace(sizes, control=sum({each.path: each.parameters for each in controls}.values()))


# ---------------------------------------------------------------------------------------------------------------- maps


@dataclass(frozen=True)
class Map:
    """A map (RGB) at the size drawn; where `hidden` (L) is white nothing of it is shown."""

    image: Image.Image
    hidden: Image.Image | None = None

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """[1, 3, H, W] in 0…1, hidden ones -1, for latents of `size` = (h, w); the last rows and columns repeated."""
        values = torch.from_numpy(np.array(self.image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)[None] / 255
        if self.hidden is not None:
            hidden = torch.from_numpy(np.asarray(self.hidden) > 127)
            values = torch.where(hidden, -1.0, values)
        height, width = (side * HINT_DOWNSCALE for side in size)
        below, right = height - values.shape[2], width - values.shape[3]
        if 0 <= below < HINT_DOWNSCALE and 0 <= right < HINT_DOWNSCALE:
            return F.pad(values, (0, right, 0, below), mode="replicate")
        # An autoencoder with another scale than the nets were taught with.
        return F.interpolate(values, size=(height, width), mode="bilinear", antialias=True)


@dataclass
class Maps:
    """The maps of a job, each made once. `folder`: where kept pictures lie; `warn`, `check`: those of the job."""

    folder: Path
    warn: Callable[[str], None]
    check: Callable[[], None]
    _made: dict[tuple, Map] = field(default_factory=dict)

    def of(self, unit: ControlUnit, k: int, prepared: Prepared | None, size: tuple[int, int], background: str) -> Map:
        """What a unit's net is shown for picture k at a size in pixels. Raises as `inputs.load`."""
        which = k % len(prepared.images) if prepared is not None and unit.image is None else 0
        window = prepared.window if prepared is not None else None
        key = (unit, which, size, window, id(prepared) if unit.image is None else None)
        if key not in self._made:
            if len(self._made) >= 4 * MAX_UNITS:
                self._made.clear()  # tiles and loops have ever new pictures
            self._made[key] = self._map(unit, which, prepared, size, background)
        return self._made[key]

    def _map(
        self, unit: ControlUnit, which: int, prepared: Prepared | None, size: tuple[int, int], background: str
    ) -> Map:
        row = preprocessor(unit.module)
        assert row is not None
        folder, hidden = self.folder, None
        if unit.image is not None:
            image = flatten(inputs.load(folder, unit.image), background)
            if unit.mask is not None and row.masked:
                hidden = read_mask(inputs.load(folder, unit.mask)).resize(image.size)
            if prepared is not None and prepared.window is not None:
                # Only a part of the source is drawn: that of the unit's picture which lies there.
                whole, box = prepared.window
                image = fitted(image, unit.resize_mode, whole).crop(box)
                hidden = None if hidden is None else fitted(hidden, unit.resize_mode, whole).crop(box)
        else:
            assert prepared is not None
            image = (prepared.shown or prepared.images)[which]
        if row.masked and hidden is None and prepared is not None and prepared.mask is not None:
            hidden = resize(prepared.mask, "stretch", image.size)
        resolution = pixel_perfect(image.size, size, unit.resize_mode) if unit.pixel_perfect else unit.resolution
        made = preprocess(image, row.name, resolution, unit.threshold("a"), unit.threshold("b"))
        hidden = None if hidden is None else fitted(hidden, unit.resize_mode, size)
        return Map(fitted(made, unit.resize_mode, size), hidden)


# ------------------------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class Acting:
    """A unit in one pass. `maps` has one for each picture of the batch; `soft`: the earlier a residual, the less it
    counts."""

    unit: ControlUnit
    path: Path
    maps: tuple[Map, ...]
    soft: bool

    @property
    def alone(self) -> bool:
        """Whether only what follows the prompt hears it."""
        return self.unit.control_mode == CONTROL

    def scales(self, count: int) -> list[float]:
        """How much each of the net's residuals counts."""
        return [self.unit.weight * (SOFTER ** (FULL_SCALE - i) if self.soft else 1.0) for i in range(count)]


@dataclass
class Control:
    """All units of one pass, as the denoiser asks them. The pass has `steps` of `order` calls each. `warn`, `check`:
    those of the job."""

    units: Sequence[Acting]
    steps: int
    order: int
    warn: Callable[[str], None]
    check: Callable[[], None]
    tiling: tuple[bool, bool] = (False, False)
    _nets: list[ControlNet | None] = field(default_factory=list, init=False)
    _pooled: list[bool] = field(default_factory=list, init=False)
    _looked: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)
    _followed: dict[tuple[bool, ...], Tensor] = field(default_factory=dict, init=False)

    def meet(self, model: LoadedModel) -> None:
        """Bring the nets beside a model. Those for another family have no say there, which is told.

        Raises BadRequest where none has, BadFile where one is damaged.
        """
        facts: list[ControlFacts | None] = [read_control(acting.path) for acting in self.units]
        for number, one in enumerate(facts):
            assert one is not None
            try:
                model.controls.check(one)
            except BadRequest as error:
                if not self._nets:
                    raise
                self.warn(f"{model.checkpoint.name} goes on without ControlNet: {error.message}")
                facts[number] = None
        nets = iter(model.controls.use([one for one in facts if one is not None], self.check))
        self._nets = [next(nets) if one is not None else None for one in facts]
        self._pooled = [one is not None and one.pooled for one in facts]
        self._looked.clear()

    def active(self, call: int) -> tuple[int, ...]:
        """Which units have a say in this call."""
        done = min(call // self.order / max(self.steps, 1), 1.0)
        return tuple(
            number
            for number, (acting, net) in enumerate(zip(self.units, self._nets))
            if net is not None and acting.unit.guidance_start <= done <= acting.unit.guidance_end
        )

    def residuals(
        self, call: int, pictures: Sequence[int], negative: Sequence[bool], x: Tensor, timesteps: Tensor,
        context: Context, y: Tensor | None,
    ) -> Residuals | None:  # fmt: skip
        """What the units add to a call of the denoiser for x [R, 4, h, w]; None where none has a say.

        Each row is of one of the batch's `pictures`, and may be of its `negative` prompt.
        """
        total: Residuals | None = None
        for number in self.active(call):
            acting, net = self.units[number], self._nets[number]
            assert net is not None
            deaf = acting.alone or self._pooled[number]  # to what does not follow the prompt
            if deaf and all(negative):
                continue
            looked = torch.cat([self._look(number, net, picture, x) for picture in pictures])
            with seamless([net], *self.tiling) if any(self.tiling) else nullcontext():
                found = net(x, looked, timesteps, context, y)
            found = scaled(found, acting.scales(len(found.skips) + 1), self._pooled[number])
            if deaf and any(negative):
                heard = self._heard(tuple(negative), x)
                found = Residuals(tuple(skip * heard for skip in found.skips), found.middle * heard)
            total = found if total is None else total.plus(found)
        return total

    def _heard(self, negative: tuple[bool, ...], x: Tensor) -> Tensor:
        """[R, 1, 1, 1]: 1 where a row follows the prompt, 0 where not; brought to the device once."""
        if negative not in self._followed:
            self._followed[negative] = torch.tensor([not each for each in negative]).to(x)[:, None, None, None]
        return self._followed[negative]

    def _look(self, number: int, net: ControlNet, picture: int, x: Tensor) -> Tensor:
        """What a net makes of its map for one picture, [1, C, h, w]."""
        shown = self.units[number].maps[picture]
        key = number, id(shown)
        if key not in self._looked:
            height, width = x.shape[-2:]
            self._looked[key] = net.looked(shown.pixels((height, width)).to(x))
        return self._looked[key]


def of_pass(
    plan: Plan, batch: range, size: tuple[int, int], steps: int, order: int, second: bool, prepared: Prepared | None,
    maps: Maps, tiling: tuple[bool, bool],
) -> Control | None:  # fmt: skip
    """The units of a plan that take part in a pass; None where there are none. Raises as `Maps.of`."""
    left_out = "Low res only" if second else "High res only" if plan.second is not None else None
    background = plan.settings.drawing.img2img_background_color
    acting = []
    for unit, file in zip(plan.request.controlnet, plan.controls):
        if unit.hr_option == left_out or not unit.weight:
            continue
        if unit.image is not None and plan.request.source is not None and plan.request.source.tiles is not None:
            maps.warn(
                "Every tile is shown the whole picture of a ControlNet unit; leave that picture out, and each is shown "
                "its own part of the source."
            )
        # Edges in a second pass leave marks otherwise; the extension does the same.
        soft = unit.control_mode != BALANCED or (second and preprocessor(unit.module) is preprocessor("canny"))
        shown = tuple(maps.of(unit, k, prepared, size, background) for k in batch)
        acting.append(Acting(unit, Path(file.path), shown, soft))
    return Control(acting, steps, order, maps.warn, maps.check, tiling) if acting else None
