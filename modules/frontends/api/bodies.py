"""The bodies of /sdapi/v1, made from the fields of the request: their names, ranges and meanings stand there alone.

As A1111's clients expect: unknown keys are left out, `null` stands for the default, numbers may come as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from modules.frontends.api import control_units
from modules.frontends.requests import make_request, well_formed
from modules.imaging.upscale import UPSCALERS
from modules.prompt import infotext
from modules.schema.errors import BadRequest
from modules.schema.fields import all_facts
from modules.schema.request import RESIZE_MODES, GenerationRequest, Hires, Mask, Refiner, Soft, Source
from modules.schema.scripts import SCRIPT_OF
from modules.schema.settings import SECTION_OF, Settings

DEEPEST = 64


def cleaned(value: Any, depth: int = 0) -> Any:
    """Plain data whose texts can be written to any file; ValueError where it is nested without end."""
    if isinstance(value, str):
        return value if value.isascii() else well_formed(value)
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if isinstance(value, dict):
        return {cleaned(key): cleaned(each, depth + 1) for key, each in value.items()}
    return [cleaned(each, depth + 1) for each in value] if isinstance(value, list) else value


class Lenient(BaseModel):
    """A body that reads what it knows and passes over the rest."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return cleaned({k: v for k, v in values.items() if v is not None}) if isinstance(values, dict) else values


class Common(Lenient):
    """What A1111's bodies have and the request does not: how to answer, old names, settings by other names."""

    sampler_name: str | None = Field(None, description="A name or alias of /samplers; decides before sampler_index.")
    sampler_index: str = Field("Euler", description="The old name of sampler_name.")
    eta: float | None = Field(None, ge=0, le=1, description="null is the one in the settings.")
    s_min_uncond: float | None = Field(None, description="null is the one in the settings.")
    s_churn: float | None = Field(None, description="null is the one in the settings.")
    s_tmin: float | None = Field(None, description="null is the one in the settings.")
    s_tmax: float | None = Field(None, description="null is the one in the settings.")
    s_noise: float | None = Field(None, description="null is the one in the settings.")
    tiling: bool | None = Field(None, description="null is the one in the settings.")
    restore_faces: bool | None = Field(None, description="null is the one in the settings.")
    override_settings: dict[str, Any] | None = Field(None, description="Settings for this request only, by name.")
    override_settings_restore_afterwards: bool = Field(
        True, description="false also keeps override_settings as the settings."
    )
    disable_extra_networks: bool = Field(False, description="<lora:…> and the like in prompts are left out.")
    comments: dict[str, Any] | None = None
    do_not_save_samples: bool = Field(False, description="Has no effect, as in A1111; see save_images.")
    do_not_save_grid: bool = Field(False, description="Has no effect, as in A1111; see save_images.")
    send_images: bool = Field(True, description="false: the answer holds no pictures.")
    save_images: bool = Field(False, description="Also save the pictures on the server.")
    script_name: str | None = Field(None, description="A name of /scripts.")
    script_args: list[Any] | dict[str, Any] = Field(
        [], description="By place, as /script-info lists them; or an object of arguments by name."
    )
    alwayson_scripts: dict[str, Any] = Field(
        {}, description='By title: {"Refiner": {"args": [true, "model", 0.8]}}; args may be an object, too.'
    )
    force_task_id: str | None = Field(None, max_length=200, description="An id for /internal/progress.")
    infotext: str | None = Field(None, max_length=1_000_000, description="Fills what the request leaves out.")
    firstpass_image: str | None = Field(None, description="Not supported.")


# A1111's API differs from its page in these defaults.
DEFAULTS: dict[str, Any] = {
    "steps": 50, "styles": None, "scheduler": None, "seed_resize_from_h": -1, "seed_resize_from_w": -1,
    "denoising_strength": 0.75, "hr_upscaler": None, "refiner_checkpoint": None, "refiner_switch_at": None,
    "inpainting_fill": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 0,
}  # fmt: skip
# Fields of the request that the API writes otherwise.
_RENAMED = {
    "sampler",
    "checkpoint",
    "source",
    "hires",
    "refiner",
    "override_settings",
    "script",
    "controlnet",
    "extensions",
}


def _fields(model: type[BaseModel], leave_out: set[str]) -> dict[str, Any]:
    """The fields of a model as optional ones of a body, with the same limits."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        # The API declares numbers with a fraction as floats; an infotext writes them so ("CFG scale: 7.0").
        kind = float if field.annotation in (int | float, int | float | None) else field.annotation
        limited = Annotated[(kind, *field.metadata)] if field.metadata else kind  # type: ignore[valid-type]
        default = DEFAULTS.get(name, field.get_default(call_default_factory=True))
        default = float(default) if kind is float and default is not None else default
        found[name] = (limited | None, Field(default, title=field.title, description=field.description))  # type: ignore[operator]
    return found


COMMON = tuple(name for name in GenerationRequest.model_fields if name not in _RENAMED)
HIRES = tuple(Hires.model_fields)
SOURCE = tuple(name for name in Source.model_fields if name not in ("images", "mask"))
MASK = tuple(name for name in Mask.model_fields if name != "image")
_SHARED = _fields(GenerationRequest, _RENAMED) | _fields(Refiner, set())

Txt2Img = create_model(
    "StableDiffusionTxt2ImgProcessingAPI",
    __base__=Common,
    __doc__="A picture out of nothing, with a second pass if enable_hr.",
    **_SHARED,
    **_fields(Hires, set()),
    enable_hr=(bool, Field(False, title="Hires. fix")),
    firstphase_width=(int, Field(0, ge=0, le=16384, description="Old: the first pass's size; width is the second's.")),
    firstphase_height=(int, Field(0, ge=0, le=16384)),
)
Img2Img = create_model(
    "StableDiffusionImg2ImgProcessingAPI",
    __base__=Common,
    __doc__="A picture out of others; with a mask only where it is white.",
    **_SHARED,
    **_fields(Source, {"images", "mask"}),
    **_fields(Mask, {"image", "inpainting_mask_invert"}),
    inpainting_mask_invert=(int, Field(0, ge=0, le=1, title="Inpaint not masked")),
    init_images=(list[str] | None, Field(None, max_length=64, description="Pictures in base64; data: URIs too.")),
    mask=(str | None, Field(None, description="A picture in base64; white is drawn anew.")),
    mask_blur=(int | None, Field(None, ge=0, le=64, description="Both of mask_blur_x and mask_blur_y.")),
    latent_mask=(str | None, Field(None, description="Not supported; use mask.")),
    include_init_images=(bool, Field(False, description="The answer's parameters hold the pictures sent.")),
)

# Scripts that always take part, by their titles, and their arguments in order. A1111 heeds those of the first three for
# its page only; here they fill what the body leaves out. The others have none that mean anything here.
ALWAYS_ON: dict[str, tuple[str, ...]] = {
    "refiner": ("", "refiner_checkpoint", "refiner_switch_at"),
    "sampler": ("steps", "sampler_name", "scheduler"),
    "seed": ("seed", "", "subseed", "subseed_strength", "seed_resize_from_w", "seed_resize_from_h"),
    "extra options": (),
    "hypertile": (),
}
SOFT_INPAINTING = "soft inpainting"
NO_MASK = "0" * 64
"""Stands where each picture of a batch has a mask of its own."""
Body = TypeVar("Body", bound=Common)
Keep = Callable[[str, str], str]
"""Stores a picture that came as text: (text, name of the field) → its name for a request."""


def request_of(body: Common, keep: Keep) -> GenerationRequest:
    """The request a body stands for. BadRequest names the field that makes no sense."""
    body = filled_from_always_on(filled_from_infotext(body))
    given = body.model_dump()
    _refuse(given)
    override = dict(body.override_settings or {})
    checkpoint = override.pop("sd_model_checkpoint", None)
    if body.eta is not None:
        override |= {"eta_ancestral": body.eta, "eta_ddim": body.eta}
    names = ("s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise", "tiling")
    override |= {name: given[name] for name in names if given[name] is not None}
    if body.restore_faces is not None:
        override["face_restoration"] = body.restore_faces
    override["samples_save"] = body.save_images
    if not body.save_images:
        override |= {"grid_save": False, "return_grid": False}
    values = {name: given[name] for name in COMMON}
    values |= {
        "styles": given["styles"] or (),
        "sampler": body.sampler_name or body.sampler_index,
        "scheduler": given["scheduler"] or "Automatic",
        "checkpoint": str(checkpoint) if checkpoint else None,
        "override_settings": override,
    }
    values["controlnet"] = control_units.units_of(body.alwayson_scripts, keep)
    if given["refiner_checkpoint"] not in (None, "", "None"):
        values["refiner"] = _without_nulls(given, Refiner.model_fields)
    if given.get("enable_hr"):
        if given["firstphase_width"] and given["firstphase_height"]:
            given |= {"hr_resize_x": given["width"], "hr_resize_y": given["height"]}
            values |= {"width": given["firstphase_width"], "height": given["firstphase_height"]}
        values["hires"] = _without_nulls(given, HIRES)
    if "init_images" in given:
        values["source"] = _source(given, keep)
    if given["script_name"]:
        row = SCRIPT_OF[given["script_name"].lower()]
        args = given["script_args"]
        asked = row.values(dict(args) if isinstance(args, dict) else row.by_place(args))
        if row.part == "script":
            values["script"] = asked
        else:
            values["source"][row.part.removeprefix("source.")] = _upscaler_by_number(asked)
    return make_request(values)


def _source(given: dict[str, Any], keep: Keep) -> dict[str, Any]:
    source = _without_nulls(given, SOURCE)
    source["images"] = [keep(text, "init_images") for text in given["init_images"] or ()]
    if given["mask"] or (given.get("batch") or {}).get("inpaint_mask_dir"):
        blur = {} if given["mask_blur"] is None else dict.fromkeys(("mask_blur_x", "mask_blur_y"), given["mask_blur"])
        source["mask"] = _without_nulls(given, MASK) | blur
        source["mask"]["image"] = keep(given["mask"], "mask") if given["mask"] else NO_MASK
        args = _always_on_args(given["alwayson_scripts"], SOFT_INPAINTING)
        if isinstance(args, list) and args[:1] == [True]:
            source["mask"]["soft"] = _by_place(tuple(Soft.model_fields), args[1:], "alwayson_scripts")
    return source


def _upscaler_by_number(asked: dict[str, Any]) -> dict[str, Any]:
    """A1111 takes an upscaler by its place in the list, too."""
    text = asked.get("upscaler")
    if isinstance(text, str) and text.isdigit() and int(text) < len(UPSCALERS):
        return {**asked, "upscaler": UPSCALERS[int(text)]}
    return asked


def _always_on_args(scripts: Mapping[str, Any], title: str) -> Any:
    """The arguments of an always-on script; none where it is not there."""
    asked = next((value for name, value in scripts.items() if name.lower() == title), None)
    return asked.get("args", []) if isinstance(asked, dict) else []


def filled_from_always_on(body: Body) -> Body:
    """The body with what the always-on scripts tell of the fields it leaves out."""
    found: dict[str, Any] = {}
    for title, names in ALWAYS_ON.items():
        args = _always_on_args(body.alwayson_scripts, title)
        if isinstance(args, list):
            if title == "refiner" and args[:1] != [True]:
                continue
            args = _by_place(names, args, "alwayson_scripts") if names else {}
        if isinstance(args, dict):
            found |= {name: value for name, value in args.items() if name in names}
    found = {name: value for name, value in found.items() if value is not None and name not in body.model_fields_set}
    if not found:
        return body
    try:
        return type(body).model_validate(found | body.model_dump(include=body.model_fields_set))
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        raise BadRequest(f"An always-on script asks for a {name} that is not possible.", field=str(name)) from None


def _by_place(names: tuple[str, ...], args: list[Any], field: str) -> dict[str, Any]:
    """A1111 gives scripts their arguments by place; "" is one that means nothing here."""
    if len(args) > len(names):
        raise BadRequest(f"{field} holds {len(args)} arguments; {len(names)} are known.", field=field)
    return {name: value for name, value in zip(names, args) if name and value is not None}


def _without_nulls(given: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: given[name] for name in names if given.get(name) is not None}


def _refuse(given: Mapping[str, Any]) -> None:
    """What would change the picture and cannot be done is said, not passed over."""
    for name in ("firstpass_image", "latent_mask"):
        if given.get(name):
            raise BadRequest(f"{name} is not supported here; leave it out.", field=name)


# ------------------------------------------------------------------------------------------------ infotext as defaults

_CODED: dict[str, Callable[[str], Any]] = {
    "inpainting_mask_invert": lambda text: int(text == "Inpaint not masked"),
    "inpaint_full_res": lambda text: text == "Only masked",
    "inpainting_fill": lambda text: ("fill", "original", "latent noise", "latent nothing").index(text),
    "resize_mode": RESIZE_MODES.index,
}


def filled_from_infotext(body: Body) -> Body:
    """The body with what its infotext tells of the fields it leaves out. What makes no sense there is passed over."""
    if not body.infotext:
        return body
    told = infotext.parse(body.infotext)
    found: dict[str, Any] = {"prompt": told.prompt, "negative_prompt": told.negative_prompt}
    for model in (GenerationRequest, Hires, Refiner, Source, Mask):
        for name, fact in all_facts(model).items():
            api_name = "sampler_name" if name == "sampler" else name
            if fact.infotext and fact.infotext in told.fields and api_name in type(body).model_fields:
                value = told.fields[fact.infotext]
                try:
                    found[api_name] = _CODED[name](str(value)) if name in _CODED else value
                except ValueError:
                    continue
    if "Hires upscale" in told.fields or "Hires upscaler" in told.fields:
        found["enable_hr"] = True
    explicit = body.model_dump(include=body.model_fields_set)
    explicit["override_settings"] = _settings_told(told) | (body.override_settings or {})
    while True:
        try:
            return type(body).model_validate(found | explicit)
        except ValidationError as error:
            wrong = {str(each["loc"][0]) for each in error.errors()} & set(found)
            if not wrong:
                raise BadRequest("The infotext cannot be used with this request.", field="infotext") from None
            found = {name: value for name, value in found.items() if name not in wrong}


def _settings_told(told: infotext.Infotext) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "Model" in told.fields:
        found["sd_model_checkpoint"] = told.fields.get("Model hash", told.fields["Model"])
    defaults = Settings()
    for section in set(SECTION_OF.values()):
        for name, fact in all_facts(type(getattr(defaults, section))).items():
            if not fact.infotext or fact.infotext not in told.fields:
                continue
            try:
                defaults.with_options({name: told.fields[fact.infotext]})
            except BadRequest:
                continue
            found[name] = told.fields[fact.infotext]
    if "face_restoration_model" in found:
        found["face_restoration"] = True
    return found
