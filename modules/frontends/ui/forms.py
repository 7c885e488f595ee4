"""The forms: components from the facts on each field, values from a form to a request and from an infotext to a form.

A value's name is its path in the request ("hires.hr_scale"). Labels, ranges, steps, defaults and infotext keys are
written once, on the field (`schema.request`); a new parameter is a line in a form here and its place in the tab.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from pydantic import BaseModel

from modules.frontends.api.sdapi import LATENT_UPSCALE_MODES
from modules.frontends.requests import make_request, put_script
from modules.frontends.ui import control
from modules.frontends.ui.look import NOTHING, Look, is_number, look_of
from modules.frontends.ui.scripts import told_script
from modules.frontends.ui.sections import put_sections, told_sections
from modules.imaging.upscale import UPSCALERS
from modules.prompt import infotext
from modules.prompt.networks import renamed
from modules.prompt.styles import Style
from modules.sampling.table import SAMPLER_NAMES, SCHEDULE_LABELS, normalise
from modules.schema.errors import BadRequest, EaselError
from modules.schema.fields import Facts, all_facts, facts
from modules.schema.prompts import StyleList
from modules.schema.record import CheckpointView
from modules.schema.request import (
    RESIZE_MODES,
    SAME_CHECKPOINT,
    SAME_SAMPLER,
    SAME_SCHEDULER,
    GenerationRequest,
    Hires,
    Mask,
    Refiner,
    Soft,
    Source,
)
from modules.schema.settings import Settings
from modules.service.extensions import ExtensionStore

# ------------------------------------------------------------------------------------------------------ what a form has

# Path in the request → id of its element; T stands for the tab. A section's own name is the switch that turns it on.
COMMON: dict[str, str] = {
    "prompt": "T_prompt",
    "negative_prompt": "T_neg_prompt",
    "styles": "T_styles",
    "sampler": "T_sampling",
    "scheduler": "T_scheduler",
    "steps": "T_steps",
    "width": "T_width",
    "height": "T_height",
    "n_iter": "T_batch_count",
    "batch_size": "T_batch_size",
    "cfg_scale": "T_cfg_scale",
    "cfg_rescale": "T_cfg_rescale",
    "seed": "T_seed",
    "seed_extra": "T_subseed_show",
    "subseed": "T_subseed",
    "subseed_strength": "T_subseed_strength",
    "seed_resize_from_w": "T_seed_resize_from_w",
    "seed_resize_from_h": "T_seed_resize_from_h",
    "refiner": "T_enable-checkbox",
    "refiner.refiner_checkpoint": "T_checkpoint",
    "refiner.refiner_switch_at": "T_switch_at",
    "filmstrip": "T_filmstrip",
    "override_settings": "T_override_settings",
    "script": "T_script",
    "controlnet": "T_controlnet",
    "extensions": "T_extensions",
}
TXT2IMG = COMMON | {
    "hires": "T_hr-checkbox",
    "hires.hr_upscaler": "T_hr_upscaler",
    "hires.hr_second_pass_steps": "T_hires_steps",
    "hires.denoising_strength": "T_denoising_strength",
    "hires.hr_scale": "T_hr_scale",
    "hires.hr_resize_x": "T_hr_resize_x",
    "hires.hr_resize_y": "T_hr_resize_y",
    "hires.hr_checkpoint_name": "hr_checkpoint",
    "hires.hr_sampler_name": "hr_sampler",
    "hires.hr_scheduler": "hr_scheduler",
    "hires.hr_prompt": "hires_prompt",
    "hires.hr_negative_prompt": "hires_neg_prompt",
}
IMG2IMG = COMMON | {
    "source.resize_mode": "resize_mode",
    "source.denoising_strength": "T_denoising_strength",
    "source.image_cfg_scale": "T_image_cfg_scale",
    "source.mask.mask_blur_x": "T_mask_blur",
    "mask_alpha": "T_mask_alpha",
    "source.mask.inpainting_mask_invert": "T_mask_mode",
    "source.mask.inpainting_fill": "T_inpainting_fill",
    "source.mask.inpaint_full_res": "T_inpaint_full_res",
    "source.mask.inpaint_full_res_padding": "T_inpaint_full_res_padding",
    "source.mask.soft": "soft_inpainting_enabled",
    "source.mask.soft.schedule_bias": "soft_inpainting_schedule_bias",
    "source.mask.soft.preservation_strength": "soft_inpainting_preservation_strength",
    "source.mask.soft.transition_contrast_boost": "soft_inpainting_transition_contrast_boost",
    "source.mask.soft.mask_influence": "soft_inpainting_mask_influence",
    "source.mask.soft.difference_threshold": "soft_inpainting_difference_threshold",
    "source.mask.soft.difference_contrast": "soft_inpainting_difference_contrast",
    "resize_by": "T_resize_by",
    "scale": "T_scale",
}
FORMS: dict[str, dict[str, str]] = {"txt2img": TXT2IMG, "img2img": IMG2IMG}

MODELS: dict[str, type[BaseModel]] = {
    "": GenerationRequest, "hires": Hires, "refiner": Refiner, "source": Source, "source.mask": Mask,
    "source.mask.soft": Soft,
}  # fmt: skip
SWITCHED = ("hires", "refiner", "source.mask.soft")
# What only the form has: switches of the page, and sizes by factor.
OF_THE_PAGE: dict[str, Facts] = {
    "seed_extra": Facts("seed_extra", False, "Extra"),
    "resize_by": Facts("resize_by", 0, "Size"),
    "mask_alpha": Facts("mask_alpha", 0, "Mask transparency", ge=0, le=100, step=1),
    "scale": Facts("scale", 1.0, "Scale", ge=0.05, le=4, step=0.05),
}
SEED_EXTRAS = ("subseed", "subseed_strength", "seed_resize_from_w", "seed_resize_from_h")
SEEDS = ("seed", "subseed")
# Modes of the img2img tab that draw a part of the picture only.
INPAINTING = ("inpaint", "inpaint_sketch", "upload")
DIVIDER = 40  # characters of a line that parts the styles of two files
# What a checkpoint brings its own defaults for.
FOLLOWING = ("width", "height", "cfg_scale")
CHOICES: dict[str, tuple[str, ...]] = {
    "sampler": SAMPLER_NAMES,
    "scheduler": SCHEDULE_LABELS,
    "hires.hr_upscaler": (*LATENT_UPSCALE_MODES, *UPSCALERS),  # and those with a model, which `opening` adds
    "hires.hr_sampler_name": (SAME_SAMPLER, *SAMPLER_NAMES),
    "hires.hr_scheduler": (SAME_SCHEDULER, *SCHEDULE_LABELS),
}
# Lists that files on this machine go on; which there are is told when a page opens, and a wrong one when it is drawn.
OPEN = ("hires.hr_upscaler",)
# Names of numbered choices, in their order; infotexts write them so.
NUMBERED: dict[str, tuple[str, ...]] = {
    "source.resize_mode": RESIZE_MODES,
    "source.mask.inpainting_mask_invert": ("Inpaint masked", "Inpaint not masked"),
    "source.mask.inpainting_fill": ("fill", "original", "latent noise", "latent nothing"),
    "source.mask.inpaint_full_res": ("Whole picture", "Only masked"),
    "resize_by": ("Resize to", "Resize by"),
}
LABELS = {
    "source.mask.mask_blur_x": "Mask blur", "source.mask.inpainting_mask_invert": "Mask mode",
    "source.mask.inpaint_full_res": "Inpaint area", "refiner.refiner_checkpoint": "Checkpoint",
    "hires.hr_checkpoint_name": "Checkpoint",
}  # fmt: skip
# Defaults that the form spells out.
SHOWN_DEFAULTS: dict[str, Any] = {
    "hires.hr_checkpoint_name": SAME_CHECKPOINT, "hires.hr_sampler_name": SAME_SAMPLER,
    "hires.hr_scheduler": SAME_SCHEDULER, "hires": False, "refiner": False, "override_settings": [], "styles": [],
    "seed": "-1", "subseed": "-1", "refiner.refiner_checkpoint": None, "source.mask.soft": False,
    "source.image_cfg_scale": 1.5, "script": "",
    "controlnet": "", "extensions": "",
}  # fmt: skip
# Infotext keys of fields that are not written under one key of their own.
KEYS = {
    "seed_resize_from_w": "Seed resize from-1", "seed_resize_from_h": "Seed resize from-2",
    "source.mask.mask_blur_x": "Mask blur",
}  # fmt: skip
# Where ui-config.json has a control under another label than ours, or under that of one of A1111's scripts.
OTHER_LABELS = {
    "source.mask.soft": "Soft inpainting",
}  # fmt: skip
OF_SCRIPTS = {
    "sampler": "sampler", "scheduler": "sampler", "steps": "sampler", "seed": "seed", "seed_extra": "seed",
    "subseed": "seed", "subseed_strength": "seed", "seed_resize_from_w": "seed", "seed_resize_from_h": "seed",
    "refiner": "refiner", "refiner.refiner_checkpoint": "refiner", "refiner.refiner_switch_at": "refiner",
}  # fmt: skip
# What an infotext leaves out where it is at its default: pasting one without puts it back.
UNTOLD = ("cfg_rescale", "hires.hr_second_pass_steps", "hires.hr_prompt", "hires.hr_negative_prompt",
          "hires.hr_resize_x", "hires.hr_resize_y", "hires.hr_sampler_name", "hires.hr_scheduler",
          "hires.hr_checkpoint_name", "subseed", "subseed_strength", "seed_resize_from_w",
          "seed_resize_from_h")  # fmt: skip
UNTOLD_OF_SOURCES = ("source.resize_mode",)
"""Likewise, of pictures drawn from others."""
NO_LOOKS: Mapping[str, Look] = MappingProxyType({})
# A switch is on where an infotext has one of these.
SWITCH_KEYS = {
    "hires": ("Hires upscale", "Hires upscaler"), "refiner": ("Refiner",),
    "source.mask.soft": ("Soft inpainting enabled",), "seed_extra": ("Variation seed", "Seed resize from-1"),
}  # fmt: skip


def known(path: str) -> Facts:
    """The facts of the field at a path."""
    if path in OF_THE_PAGE:
        return OF_THE_PAGE[path]
    section, _, name = path.rpartition(".")
    return facts(MODELS[section], name)


def element(tab: str, path: str) -> str:
    """The id of a field's element."""
    return FORMS[tab][path].replace("T_", f"{tab}_", 1) if FORMS[tab][path].startswith("T_") else FORMS[tab][path]


def label_of(path: str) -> str:
    return LABELS.get(path) or known(path).label


def default_of(path: str) -> Any:
    """What an untouched form has there."""
    if path in SHOWN_DEFAULTS:
        return SHOWN_DEFAULTS[path]
    default = known(path).default
    return int(default) if path in NUMBERED else default


# By path what ui-config.json says of controls; those it says nothing of are missing.
Looks = Mapping[str, Look]


def config_keys(tab: str, path: str) -> list[str]:
    """Where ui-config.json may tell of a field, the most telling first: "txt2img/Sampling steps"."""
    labels = dict.fromkeys((OTHER_LABELS.get(path, label_of(path)), label_of(path)))
    script = "soft_inpainting" if path.startswith("source.mask.soft") else OF_SCRIPTS.get(path)
    own = [f"customscript/{script}.py/{tab}/{label}" for label in labels] if script else []
    return [*own, *(f"{tab}/{label}" for label in labels)]


def looks_of(config: Mapping[str, Any], tab: str) -> dict[str, Look]:
    """What ui-config.json says of a tab's controls. A value that cannot be, or that is the field's own default (A1111
    writes all of them down), is not in it."""
    taken: dict[str, str] = {}  # of two controls with one label the first is meant
    looks: dict[str, Look] = {}
    for path in FORMS[tab]:
        keys = [key for key in config_keys(tab, path) if taken.setdefault(key, path) == path]
        look = look_of(config, keys)
        if look == NOTHING:
            continue
        look = _within(path, look)
        value = _named(path, look.value)
        if value is None or value == default_of(path) or not fits(tab, path, value, {path: look}):
            value = None
        if (look := replace(look, value=value)) != NOTHING:
            looks[path] = look
    return looks


def _within(path: str, look: Look) -> Look:
    """Ends as the field itself allows them."""
    fact = known(path)
    least, most = fact.ge or 0, fact.le if fact.le is not None else float("inf")
    low = look.minimum if look.minimum is not None and look.minimum >= least else None
    high = min(look.maximum, most) if look.maximum is not None else None
    if (least if low is None else low) >= (high if high is not None else fact.soft_le or fact.le or 100):
        low = high = None
    return replace(look, minimum=low, maximum=high)


def _named(path: str, value: Any) -> Any:
    """A value of ui-config.json as the form has it: numbered choices stand there by name, seeds as numbers. None where
    it is of another kind than the field."""
    usual = default_of(path)
    if path in NUMBERED and isinstance(value, str):
        return NUMBERED[path].index(value) if value in NUMBERED[path] else None
    if path in SEEDS and is_number(value):
        return str(int(value))
    if path == "refiner.refiner_checkpoint":
        return value if isinstance(value, str) else None
    return value if (is_number(value) and is_number(usual)) or type(value) is type(usual) else None


def untouched(tab: str, looks: Looks = NO_LOOKS) -> dict[str, Any]:
    """The values of a form nobody has touched."""
    return {path: _begins(path, looks.get(path, NOTHING)) for path in FORMS[tab]}


def _begins(path: str, look: Look) -> Any:
    return default_of(path) if look.value is None else look.value


# ---------------------------------------------------------------------------------------------------------- components


def shown(look: Look) -> Any:
    """Out of sight, a control stays in the page, and its value in the form."""
    return True if look.visible else "hidden"


def _least(fact: Facts) -> float:
    """Where a slider begins; smaller numbers may be allowed."""
    return next((end for end in (fact.soft_ge, fact.ge) if end is not None), 0)


def slider(path: str, tab: str, look: Look = NOTHING) -> gr.Slider:
    """A slider over a field."""
    fact = known(path)
    return gr.Slider(
        minimum=_least(fact) if look.minimum is None else look.minimum,
        maximum=look.maximum or fact.soft_le or fact.le or 100,
        step=look.step or fact.step,
        value=_begins(path, look),
        visible=shown(look),
        label=label_of(path),
        elem_id=element(tab, path),
        elem_classes="easel-slider",
        buttons=[],
        min_width=120,
    )


def dropdown(
    path: str, tab: str, choices: Sequence[str] | None = None, look: Look = NOTHING, **more: Any
) -> gr.Dropdown:
    """A list of a field's choices, or of those given."""
    return gr.Dropdown(
        choices=list(choices if choices is not None else CHOICES[path]),
        value=_begins(path, look),
        visible=shown(look),
        label=label_of(path),
        elem_id=element(tab, path),
        min_width=120,
        # All of them; with multiselect it would mean none.
        **({} if more.get("multiselect") else {"num_choices_shown": None}),
        **more,
    )


def radio(path: str, tab: str, look: Look = NOTHING) -> gr.Radio:
    """A field whose choices are numbers with names."""
    return gr.Radio(
        choices=[(name, k) for k, name in enumerate(NUMBERED[path])],
        value=_begins(path, look),
        visible=shown(look),
        label=label_of(path),
        elem_id=element(tab, path),
        elem_classes="easel-radio",
        min_width=120,
    )


def checkbox(path: str, tab: str, label: str | None = None, look: Look = NOTHING) -> gr.Checkbox:
    return gr.Checkbox(
        value=_begins(path, look),
        visible=shown(look),
        label=label or label_of(path),
        elem_id=element(tab, path),
        elem_classes="easel-check",
        min_width=60,
    )


def prompt_box(path: str, tab: str, lines: int, placeholder: str, look: Look = NOTHING) -> gr.Textbox:
    return gr.Textbox(
        value=_begins(path, look),
        visible=shown(look),
        label=label_of(path),
        show_label=False,
        lines=lines,
        max_lines=12,
        placeholder=placeholder,
        elem_id=element(tab, path),
        elem_classes="prompt",
    )


def seed_box(path: str, tab: str, look: Look = NOTHING) -> gr.Textbox:
    """A text, so that all 64 bits of a seed arrive."""
    return gr.Textbox(
        value=_begins(path, look),
        visible=shown(look),
        label=label_of(path),
        lines=1,
        max_lines=1,
        elem_id=element(tab, path),
        elem_classes="easel-seed-box",
        html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        min_width=120,
    )


# -------------------------------------------------------------------------------------------------------------- styles


def style_choices(styles: StyleList) -> list[str]:
    """Names for the list; with several files a line before each file's, as A1111 draws it."""
    files = dict.fromkeys(style.file for style in styles.styles)
    if len(files) < 2:
        return [style.name for style in styles.styles]
    choices: list[str] = []
    for file in files:
        choices.append(f" {Path(file).stem.upper()} ".center(DIVIDER, "-"))
        choices += [style.name for style in styles.styles if style.file == file]
    return choices


def chosen_styles(names: Any) -> Any:
    """What was chosen in that list, without its dividing lines; anything that is no list is for others to refuse."""
    if not isinstance(names, list | tuple):
        return names or ()
    return tuple(name for name in names if not (isinstance(name, str) and len(name) >= DIVIDER and name[:3] == "---"))


# ----------------------------------------------------------------------------------------------------- form to request


def request_from_form(
    values: Mapping[str, Any],
    checkpoint: str | None,
    tab: str = "txt2img",
    pictures: str | None = None,
    looks: Looks = NO_LOOKS,
) -> GenerationRequest:
    """What a form asks for; numbers end where their sliders end. BadRequest's `field` is a path of the form.

    `pictures` of img2img: JSON of what the page uploaded, {"mode", "image", "mask", "width", "height"}: names of
    pictures, and the size of the first. Of txt2img: {"first_picture", "seed", "subseed", "width", "height"} where a
    finished picture goes through the second pass of hires fix alone.
    """
    chosen = {path: _checked(path, values[path], looks.get(path, NOTHING)) for path in FORMS[tab]}
    chosen["styles"] = chosen_styles(chosen["styles"])
    if not chosen.pop("seed_extra"):
        for path in SEED_EXTRAS:
            del chosen[path]
    script, units = chosen.pop("script"), control.units_of(chosen.pop("controlnet"))
    extended = chosen.pop("extensions")
    settings, model = overrides(chosen.pop("override_settings"))
    nested: dict[str, Any] = {"checkpoint": model or checkpoint or None, "override_settings": settings}
    if tab == "img2img":
        _put_pictures(chosen, pictures)
    else:
        _put_first_picture(chosen, pictures)
    for section in SWITCHED:
        if not chosen.pop(section, None):
            chosen = {path: value for path, value in chosen.items() if not path.startswith(f"{section}.")}
    for path, value in chosen.items():
        *sections, name = path.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    put_script(nested, script)
    nested["controlnet"] = units
    put_sections(nested, extended)
    return make_request(nested)


def _checked(path: str, value: Any, look: Look = NOTHING) -> Any:
    """A value as the request wants it; BadRequest where the form's own limits are passed."""
    fact = known(path)
    if path in SEEDS:
        text = str(value).strip() if value is not None else ""
        try:
            return int(text) if text else -1
        except ValueError:
            raise BadRequest(
                f"{fact.label} cannot be {text[:40]!r}; give a whole number, or -1 to draw a new one.", field=path
            ) from None
    if path == "refiner.refiner_checkpoint":
        return value or ""
    if path in CHOICES or path in NUMBERED or isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    end = look.maximum if look.maximum is not None else fact.soft_le
    if end is not None and isinstance(value, int | float) and value > end:
        raise BadRequest(
            f"{label_of(path)} cannot be {value:g} here; give a number from {fact.ge or 0:g} to {end:g}.", field=path
        )
    return value


def _sent(pictures: str | None) -> dict[str, Any]:
    try:
        sent = json.loads(pictures or "{}")
    except ValueError:
        return {}
    return sent if isinstance(sent, dict) else {}


def _put_first_picture(chosen: dict[str, Any], pictures: str | None) -> None:
    """The picture that hires fix goes on from, with its own size and seeds."""
    sent = _sent(pictures)
    if not sent.get("first_picture"):
        return
    chosen |= {"hires": True, "hires.first_picture": sent["first_picture"], "n_iter": 1, "batch_size": 1}
    chosen |= {name: sent[name] for name in ("width", "height", *SEEDS) if isinstance(sent.get(name), int)}


def _put_batch(chosen: dict[str, Any], sent: Mapping[str, Any]) -> None:
    """Several pictures, one after the other: those that were sent, or those of a folder."""
    batch = sent["batch"] if isinstance(sent.get("batch"), dict) else {}
    if not sent.get("images") and not batch.get("input_dir"):
        raise BadRequest("There are no pictures to start from yet; choose some, or name a folder.", field="pictures")
    chosen |= {"source.images": sent.get("images") or [], "source.batch": batch}
    if batch.get("inpaint_mask_dir"):
        chosen["source.mask.image"] = "0" * 64  # each picture has its own
        chosen["source.mask.mask_blur_y"] = chosen["source.mask.mask_blur_x"]
    else:
        for path in [path for path in chosen if path.startswith("source.mask.")]:
            del chosen[path]
    del chosen["resize_by"], chosen["scale"], chosen["mask_alpha"]


def _put_pictures(chosen: dict[str, Any], pictures: str | None) -> None:
    """Names of the pictures to draw from, the size that follows from them, and both blurs of a mask."""
    sent = _sent(pictures)
    if sent.get("mode") == "batch":
        return _put_batch(chosen, sent)
    if not sent.get("image"):
        raise BadRequest("There is no picture to start from yet; drop one into the frame.", field="pictures")
    inpainting = sent.get("mode") in INPAINTING
    if inpainting and not sent.get("mask"):
        raise BadRequest("Nothing is masked yet; paint over what is to be drawn anew.", field="pictures")
    chosen["source.images"] = [sent["image"]]
    if inpainting:
        chosen["source.mask.image"] = sent["mask"]
        # A painted mask has hard edges by itself; an uploaded one may mean its greys.
        chosen["source.mask.mask_blur_y"] = chosen["source.mask.mask_blur_x"]
    else:
        for path in [path for path in chosen if path.startswith("source.mask.")]:
            del chosen[path]
    by, scale = chosen.pop("resize_by"), chosen.pop("scale")
    del chosen["mask_alpha"]  # the page has mixed paint and picture already
    if by and isinstance(scale, int | float):
        for side in ("width", "height"):
            if isinstance(sent.get(side), int):
                # As A1111: cut to a multiple of 8.
                chosen[side] = max(64, int(sent[side] * scale) // 8 * 8)


# ------------------------------------------------------------------------------------------------- settings by infotext

SETTING_OF_LABEL: dict[str, str] = {
    fact.infotext: key
    for section, field in Settings.model_fields.items()
    for key, fact in all_facts(field.annotation).items()  # type: ignore[arg-type]
    if fact.infotext
}
MODEL_LABEL = known("checkpoint").infotext or "Model"
FACES_LABEL = "Face restoration"  # tells the model, and by being there that it was used


def overrides(entries: Any) -> tuple[dict[str, Any], str | None]:
    """Settings (by key) and checkpoint that the entries "Label: value" of "Override settings" stand for."""
    found: dict[str, Any] = {}
    model = None
    for entry in entries if isinstance(entries, list | tuple) else ():
        label, _, value = str(entry).partition(": ")
        if label == MODEL_LABEL:
            model = value
        elif label in SETTING_OF_LABEL:
            found[SETTING_OF_LABEL[label]] = value
            if label == FACES_LABEL:
                found["face_restoration"] = True
    return found, model


def override_entries(
    told: Mapping[str, Any], settings: Settings, views: Sequence[CheckpointView], checkpoint: str | None
) -> list[str]:
    """What of an infotext differs from the settings and the checkpoint chosen, as entries "Label: value"."""
    entries = []
    view = find_checkpoint(views, str(told.get("Model", ""))) or _by_hash(views, str(told.get("Model hash", "")))
    if settings.infotext.disable_weights_auto_swap:
        view = None
    if view is not None and view.name != checkpoint:
        entries.append(f"{MODEL_LABEL}: {view.name}")
    for label, key in SETTING_OF_LABEL.items():
        if label not in told:
            continue
        try:
            changed = settings.with_options({key: told[label]})
        except BadRequest:
            continue
        off = label == FACES_LABEL and not settings.faces.face_restoration
        if off or changed.option(key) != settings.option(key):
            entries.append(f"{label}: {told[label]}")
    return entries


def _by_hash(views: Sequence[CheckpointView], text: str) -> CheckpointView | None:
    return next((view for view in views if text and view.sha256 and view.sha256.startswith(text)), None)


# ---------------------------------------------------------------------------------------------------- infotext to form


def values_from_infotext(
    text: str,
    tab: str,
    settings: Settings,
    views: Sequence[CheckpointView] = (),
    checkpoint: str | None = None,
    styles: Mapping[str, Style] | None = None,
    loras: Mapping[str, str] | None = None,
    looks: Looks = NO_LOOKS,
    extensions: ExtensionStore | None = None,
) -> dict[str, Any]:
    """What a form gets from an infotext, by path. What the infotext does not tell, or tells in a way that makes no
    sense here, is not in it: that stays as it is. `loras`: by hash, how those that are here are called."""
    wanted = settings.infotext
    told = infotext.parse(text, styles=None if wanted.infotext_styles == "Ignore" else styles)
    skipped = set(wanted.infotext_skip_pasting)
    fields = {key: value for key, value in told.fields.items() if key not in skipped}
    hashes = str(fields.get("Lora hashes", ""))
    prompt = renamed(told.prompt, hashes, loras or {})
    if "Hires prompt" in fields:
        fields["Hires prompt"] = renamed(str(fields["Hires prompt"]), hashes, loras or {})
    if "Sampler" in fields:
        try:
            sampler, schedule = normalise(str(fields["Sampler"]), str(fields["Schedule type"]))
            fields |= {"Sampler": sampler.name, "Schedule type": schedule.label}
        except EaselError:
            del fields["Sampler"], fields["Schedule type"]
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": told.negative_prompt}
    if not infotext.read(text).fields:
        return values if told.prompt or told.negative_prompt else {}
    for path in FORMS[tab]:
        if path in SWITCH_KEYS:
            values[path] = any(key in fields for key in SWITCH_KEYS[path])
        elif path == "override_settings":
            values[path] = override_entries(fields, settings, views, checkpoint)
        elif path == "script":
            values[path] = told_script(fields, tab)
        elif path == "controlnet":
            values[path] = control.told(fields)
        elif path == "extensions":
            values[path] = told_sections(extensions, fields, tab) if extensions else ""
        elif path == "styles":
            found = list(fields.get(infotext.STYLES, ()))  # type: ignore[arg-type]
            if wanted.infotext_styles == "Apply" or (wanted.infotext_styles == "Apply if any" and found):
                values[path] = found
        elif (key := KEYS.get(path) or known(path).infotext) and key in fields:
            value = _read(path, fields[key], views)
            if path != "batch_size" and fits(tab, path, value, looks):
                values[path] = value
        elif key not in skipped and (
            (path in UNTOLD and "Steps" in fields) or (path in UNTOLD_OF_SOURCES and _has_source(fields))
        ):
            values[path] = default_of(path)
    if "resize_by" in FORMS[tab] and "width" in values:
        values["resize_by"] = 0
    return values


def _has_source(fields: Mapping[str, Any]) -> bool:
    """Whether an infotext is that of a picture drawn from another: only those and second passes have a strength."""
    return "Denoising strength" in fields and not any(key in fields for key in SWITCH_KEYS["hires"])


def _read(path: str, value: Any, views: Sequence[CheckpointView]) -> Any:
    """A value of an infotext as the form has it; None where it makes no sense."""
    text = str(value)
    if path in NUMBERED:
        return NUMBERED[path].index(text) if text in NUMBERED[path] else None
    if path in CHOICES and path not in OPEN:
        return text if text in CHOICES[path] else None
    if path in ("refiner.refiner_checkpoint", "hires.hr_checkpoint_name"):
        view = find_checkpoint(views, text)
        return view.name if view else default_of(path)
    default = known(path).default
    if path not in SEEDS and isinstance(default, int | float):
        try:
            number = float(text)
            return int(number) if number.is_integer() else number
        except (ValueError, OverflowError):
            return None
    return text


def fits(tab: str, path: str, value: Any, looks: Looks = NO_LOOKS) -> bool:
    """Whether the form takes a value there."""
    if value == default_of(path):
        return True
    if value is None or (path in CHOICES and path not in OPEN and value not in CHOICES[path]):
        return False
    switches = {switch: True for switch in (*SWITCHED, "seed_extra") if switch in FORMS[tab]}
    picture = json.dumps({"mode": INPAINTING[0], "image": "0" * 64, "mask": "0" * 64})
    try:
        request_from_form(untouched(tab) | switches | {path: value}, None, tab, picture, looks)
    except BadRequest:
        return False
    return True


# --------------------------------------------------------------------------------------------- checkpoints and openings


def find_checkpoint(views: Sequence[CheckpointView], name: str | None) -> CheckpointView | None:
    """The view meant by a name or title ("model.safetensors [hash]"), as settings files of others write it."""
    wanted = (name or "").strip()
    stem = wanted.split(" [")[0]
    for view in views:
        if wanted and (
            wanted in (view.name, view.title, view.path) or stem in (view.name, view.path, view.title.split(" [")[0])
        ):
            return view
    return None


def checkpoint_choices(views: Sequence[CheckpointView], short: bool = False) -> list[tuple[str, str]]:
    """(shown, value) pairs; files that cannot be used say so. `short`: by file names alone."""
    told = [Path(view.name).name if short else view.title for view in views]
    return [(name + (" (cannot be read)" if view.problem else ""), view.name) for name, view in zip(told, views)]


def defaults_of(view: CheckpointView | None) -> dict[str, Any]:
    """Width, height and CFG that suit a checkpoint; the fields' own where it does not say."""
    own = {name: known(name).default for name in FOLLOWING}
    if view is None:
        return own
    width, height = view.resolution
    return own | {"width": width, "height": height} | ({"cfg_scale": view.cfg_scale} if view.cfg_scale else {})


def follow_checkpoint(
    values: Mapping[str, Any], before: CheckpointView | None, now: CheckpointView | None
) -> dict[str, Any]:
    """`FOLLOWING` after another checkpoint was chosen: what still stood at the old one's default takes the new one's,
    what the user changed stays."""
    old, new = defaults_of(before), defaults_of(now)
    return {name: new[name] if values.get(name) in (old[name], None) else values[name] for name in FOLLOWING}


def read_draft(text: str | None, tab: str = "txt2img", looks: Looks = NO_LOOKS) -> dict[str, Any]:
    """The values that the browser kept from the last visit, or of a preset; what makes no sense is left out."""
    try:
        kept = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(kept, dict):
        return {}
    draft = {name: kept[name] for name in ("checkpoint", "followed") if isinstance(kept.get(name), str)}
    if "controlnet" in kept:
        kept["controlnet"] = ""  # the page itself keeps its units, and would take these for pasted ones
    return draft | {path: kept[path] for path in FORMS[tab] if path in kept and fits(tab, path, kept[path], looks)}


def opening_values(
    draft: Mapping[str, Any],
    views: Sequence[CheckpointView],
    setting: str | None,
    tab: str = "txt2img",
    looks: Looks = NO_LOOKS,
) -> tuple[CheckpointView | None, dict[str, Any]]:
    """The checkpoint and field values a page opens with: the draft's, or the defaults of the checkpoint chosen."""
    chosen = find_checkpoint(views, setting) or next((view for view in views if not view.problem), None)
    values = untouched(tab, looks) | {path: value for path, value in draft.items() if path in FORMS[tab]}
    followed = find_checkpoint(views, draft.get("followed"))
    return chosen, values | follow_checkpoint(values, followed, chosen)
