"""The axes of an X/Y/Z plot: what may change from picture to picture. The order is A1111's, since clients count it.

An axis names fields of the request by path, or settings; their kinds, limits and choices are read there.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from modules.schema.fields import facts
from modules.schema.request import GenerationRequest, Hires, Refiner, Source
from modules.schema.scripts import BOTH, IMG2IMG, NO_AXIS, TXT2IMG
from modules.schema.settings import SECTION_OF, Settings

Kind = Literal["whole", "number", "switch", "text"]
Shape = Literal["value", "replace", "order", "styles", "faces", "size", "none"]
PARTS: dict[str, type[BaseModel]] = {"": GenerationRequest, "hires": Hires, "refiner": Refiner, "source": Source}


@dataclass(frozen=True)
class Axis:
    """`fields`: paths in the request, of which those apply whose part is there. `settings`: flat keys, all of them.

    `shape`: how a value is put in where it is no plain value. `choices`: the list that its values come from.
    `cost`: how long a change takes beside a picture; the dearest axis changes least often.
    """

    label: str
    fields: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tabs: tuple[str, ...] = BOTH
    shape: Shape = "value"
    choices: str = ""
    cost: float = 0.0

    @property
    def kind(self) -> Kind:
        """What its values are: whole numbers, numbers, yes or no, or text."""
        if self.shape != "value" or not (self.fields or self.settings):
            return "text"
        kinds = _kinds(_annotation(self))
        if bool in kinds:
            return "switch"
        return "number" if float in kinds else "whole" if int in kinds else "text"

    @property
    def own_choices(self) -> tuple[str, ...]:
        """The choices of the field itself."""
        if self.kind == "switch":
            return ("No", "Yes") if not _default(self) else ("Yes", "No")
        if self.shape != "value" or self.choices or not self.settings:
            return ()
        return tuple(map(str, facts(_section(self.settings[0]), self.settings[0]).choices))


def _field(label: str, *paths: str, **more: Any) -> Axis:
    return Axis(label, fields=paths, **more)


def _setting(label: str, *keys: str, **more: Any) -> Axis:
    return Axis(label, settings=keys, **more)


AXES: tuple[Axis, ...] = (
    Axis(NO_AXIS, shape="none"),
    _field("Seed", "seed"),
    _field("Var. seed", "subseed"),
    _field("Var. strength", "subseed_strength"),
    _field("Steps", "steps"),
    _field("Hires steps", "hires.hr_second_pass_steps", tabs=(TXT2IMG,)),
    _field("CFG Scale", "cfg_scale"),
    _field("Image CFG Scale", "source.image_cfg_scale", tabs=(IMG2IMG,)),
    Axis("Prompt S/R", shape="replace"),
    Axis("Prompt order", shape="order"),
    _field("Sampler", "sampler", choices="samplers"),
    _field("Hires sampler", "hires.hr_sampler_name", choices="samplers", tabs=(TXT2IMG,)),
    _field("Checkpoint name", "checkpoint", choices="checkpoints", cost=1.0),
    _setting("Negative Guidance minimum sigma", "s_min_uncond"),
    _setting("Sigma Churn", "s_churn"),
    _setting("Sigma min", "s_tmin"),
    _setting("Sigma max", "s_tmax"),
    _setting("Sigma noise", "s_noise"),
    _field("Schedule type", "scheduler", choices="schedules"),
    _setting("Schedule min sigma", "sigma_min"),
    _setting("Schedule max sigma", "sigma_max"),
    _setting("Schedule rho", "rho"),
    _setting("Beta schedule alpha", "beta_dist_alpha"),
    _setting("Beta schedule beta", "beta_dist_beta"),
    _setting("Eta", "eta_ancestral", "eta_ddim"),
    _setting("Clip skip", "CLIP_stop_at_last_layers"),
    _field("Denoising", "source.denoising_strength", "hires.denoising_strength"),
    _field("Initial noise multiplier", "source.initial_noise_multiplier"),
    _setting("Extra noise", "img2img_extra_noise"),
    _field("Hires upscaler", "hires.hr_upscaler", choices="hires upscalers", tabs=(TXT2IMG,)),
    _setting("Cond. Image Mask Weight", "inpainting_mask_weight", tabs=(IMG2IMG,)),
    _setting("VAE", "sd_vae", choices="vaes", cost=0.7),
    Axis("Styles", shape="styles", choices="styles"),
    _setting("UniPC Order", "uni_pc_order", cost=0.5),
    Axis("Face restore", shape="faces", choices="faces"),
    _setting("Token merging ratio", "token_merging_ratio"),
    _setting("Token merging ratio high-res", "token_merging_ratio_hr"),
    _setting("Always discard next-to-last sigma", "always_discard_next_to_last_sigma"),
    _setting("SGM noise multiplier", "sgm_noise_multiplier"),
    _field("Refiner checkpoint", "refiner.refiner_checkpoint", choices="checkpoints", cost=1.0),
    _field("Refiner switch at", "refiner.refiner_switch_at"),
    _setting("RNG source", "randn_source"),
    _setting("FP8 mode", "fp8_storage", cost=0.9),
    Axis("Size", shape="size"),
    # What only Easel has comes last, so that numbers stay the original's.
    _field("CFG rescale", "cfg_rescale"),
    _setting("Tiling direction", "tiling_axes"),
)


def axes_of(tab: str) -> list[Axis]:
    """Those that a tab offers, by A1111's numbers. One that this version cannot draw keeps its number."""
    return [axis for axis in AXES if tab in axis.tabs]


def known(axis: Axis) -> bool:
    """Whether all that it names is there."""
    return all(key in SECTION_OF for key in axis.settings)


def find_axis(tab: str, name: str) -> Axis | None:
    """An axis by its label, upper or lower case, or by its number in A1111's list of that tab."""
    offered = axes_of(tab)
    text = name.strip()
    if text.isascii() and text.isdigit() and int(text) < len(offered):
        return offered[int(text)]
    return next((axis for axis in offered if axis.label.lower() == text.lower()), None)


def part_and_name(path: str) -> tuple[str, str]:
    """("hires", "hr_scale") of "hires.hr_scale"."""
    part, _, name = path.rpartition(".")
    return part, name


def _section(key: str) -> type[BaseModel]:
    return Settings.model_fields[SECTION_OF[key]].annotation  # type: ignore[return-value]


def _annotation(axis: Axis) -> Any:
    if axis.fields:
        part, name = part_and_name(axis.fields[0])
        return PARTS[part].model_fields[name].annotation
    key = axis.settings[0]
    return _section(key).model_fields[key].annotation if key in SECTION_OF else str


def _default(axis: Axis) -> Any:
    key = axis.settings[0]
    return _section(key).model_fields[key].default


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return {kind for each in get_args(annotation) for kind in _kinds(each)}
    return {annotation}
