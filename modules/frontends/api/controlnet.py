"""The routes of sd-webui-controlnet: which nets and preprocessors there are, and a preprocessor's picture."""

from __future__ import annotations

import io
from typing import Any

from fastapi import APIRouter
from PIL import ImageOps
from pydantic import Field

from modules.frontends.api.answers import Answer
from modules.frontends.api.bodies import Lenient
from modules.frontends.api.errors import Refused
from modules.frontends.api.native import Mine
from modules.frontends.api.pictures import from_text, to_text
from modules.frontends.desk import FrontDesk
from modules.imaging.metadata import open_bounded
from modules.imaging.preprocess import pixel_perfect, preprocess
from modules.schema.control import CONTROL_TYPES, PREPROCESSORS, UNSET, ControlUnit, Preprocessor, preprocessor
from modules.schema.errors import BadFile, BadRequest
from modules.weights.controls import control_files

API_VERSION = 3
"""Of the extension, whose routes these are."""
MOST_PICTURES = 16
SHOWN_UNITS = 3


class Detect(Lenient):
    controlnet_module: str = "none"
    controlnet_input_images: list[str] = Field([], max_length=MOST_PICTURES, description="Pictures in base64")
    controlnet_images: list[str] = Field([], max_length=MOST_PICTURES, description="Their name in older clients")
    controlnet_processor_res: int = Field(UNSET, ge=-1, le=4096)
    controlnet_threshold_a: float = UNSET
    controlnet_threshold_b: float = UNSET
    controlnet_masks: list[str] = Field([], max_length=MOST_PICTURES)
    low_vram: bool = Field(False, description="Has no effect: no preprocessor here takes memory of a card.")


class Version(Answer):
    version: int


class ModelList(Answer):
    model_list: list[str]


class ModuleList(Answer):
    module_list: list[str]
    module_detail: dict[str, dict[str, Any]]


class ControlTypes(Answer):
    control_types: dict[str, dict[str, Any]]


class UnitCount(Answer):
    control_net_unit_count: int


class Detected(Answer):
    info: str
    images: list[str]


def make_controlnet_router() -> APIRouter:
    router = APIRouter(prefix="/controlnet", tags=["controlnet"])

    @router.get("/version")
    def version() -> Version:
        return Version(version=API_VERSION)

    @router.get("/model_list")
    def model_list(mine: Mine) -> ModelList:
        """The files of models/ControlNet as they lie there now, as "name [hash]"."""
        return ModelList(model_list=titles(mine))

    @router.get("/module_list")
    def module_list(alias_names: bool = False) -> ModuleList:
        """The preprocessors, none of which needs a model, and their sliders."""
        rows = {(row.aliases[0] if alias_names and row.aliases else row.name): row for row in PREPROCESSORS}
        details = {name: {"model_free": True, "sliders": sliders(row)} for name, row in rows.items()}
        return ModuleList(module_list=list(rows), module_detail=details)

    @router.get("/control_types")
    def control_types(mine: Mine) -> ControlTypes:
        """Which of them belong together."""
        return ControlTypes(control_types={name: _of_type(name, titles(mine)) for name in CONTROL_TYPES})

    @router.get("/settings")
    def settings() -> UnitCount:
        return UnitCount(control_net_unit_count=SHOWN_UNITS)

    @router.post("/detect")
    def detect(body: Detect, mine: Mine) -> Detected:
        """What a preprocessor makes of pictures."""
        pictures = body.controlnet_input_images or body.controlnet_images
        if not pictures:
            raise Refused(422, "No image selected: controlnet_input_images is empty.", field="controlnet_input_images")
        unit = ControlUnit(
            module=body.controlnet_module, processor_res=body.controlnet_processor_res,
            threshold_a=_bounded(body.controlnet_threshold_a), threshold_b=_bounded(body.controlnet_threshold_b),
        )  # fmt: skip
        known(unit)
        made = [detected(from_text(text, "controlnet_input_images", mine.settings), unit) for text in pictures]
        return Detected(info="Success", images=[to_text(data) for data in made])

    return router


def titles(mine: FrontDesk) -> list[str]:
    return [file.title for file in control_files(mine.library.folders)]


def known(unit: ControlUnit) -> Preprocessor:
    """A unit's preprocessor; Refused where it is not there."""
    row = preprocessor(unit.module)
    if row is None:
        names = ", ".join(each.name for each in PREPROCESSORS)
        raise Refused(
            422, f"Module {unit.module[:60]!r} is not available; there are {names}.", field="controlnet_module"
        )
    return row


def detected(data: bytes, unit: ControlUnit, size: tuple[int, int] | None = None) -> bytes:
    """The PNG file of what a unit's preprocessor makes of a picture; `size`: that is to be drawn, for one that goes by
    it. BadRequest where it is no picture."""
    try:
        image = open_bounded(data)
    except BadFile as error:
        raise BadRequest(error.message, field="controlnet_input_images") from None
    image = ImageOps.exif_transpose(image) or image
    resolution = unit.resolution
    if size is not None and unit.pixel_perfect:
        resolution = pixel_perfect(image.size, size, unit.resize_mode)
    made = preprocess(image, known(unit).name, resolution, unit.threshold("a"), unit.threshold("b"))
    out = io.BytesIO()
    made.save(out, "PNG")
    return out.getvalue()


def sliders(row: Preprocessor) -> list[dict[str, Any]]:
    """What a preprocessor takes, in the extension's words."""
    found = []
    if row.sized:
        found.append({"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8})
    for slider in (row.a, row.b):
        if slider is not None:
            found.append({"name": slider.label, "value": slider.default, "min": slider.ge, "max": slider.le,
                          "step": slider.step})  # fmt: skip
    return found


def _of_type(name: str, models: list[str]) -> dict[str, Any]:
    words = CONTROL_TYPES[name]
    modules = [row.name for row in PREPROCESSORS if not words or row.name == "none" or name in row.tags]
    fitting = [title for title in models if not words or any(word in title.lower() for word in words)]
    usual = modules[1] if words and len(modules) > 1 else "none"
    if name in ("Canny", "Scribble", "Lineart", "MLSD"):
        usual = next((module for module in modules if module not in ("none", "invert")), usual)
    first = next((title for title in fitting if "11" in title.split(" [")[0]), fitting[0] if fitting else "None")
    return {
        "module_list": modules, "model_list": ["None", *fitting], "default_option": usual,
        "default_model": first if words else "None",
    }  # fmt: skip


def _bounded(value: float) -> float:
    return value if 0 <= value <= 255 else UNSET
