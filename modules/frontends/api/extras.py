"""The bodies and the work of /extra-single-image and /extra-batch-images: pictures made larger."""

from __future__ import annotations

import io

from PIL import ImageOps
from pydantic import BaseModel, Field

from modules.frontends.api.bodies import Lenient
from modules.imaging.extras import processed, told, whole
from modules.imaging.metadata import open_bounded
from modules.imaging.upscale import KNOWN_AS, UPSCALERS, find_upscaler
from modules.schema.errors import BadRequest, EaselError
from modules.schema.request import Extras as Wanted
from modules.weights.library import Library, places


class Extras(Lenient):
    resize_mode: int = Field(0, ge=0, le=1, description="0 by factor, 1 to a size")
    show_extras_results: bool = True
    gfpgan_visibility: float = Field(0, ge=0, le=1, description="Only 0: faces are not restored.")
    codeformer_visibility: float = Field(0, ge=0, le=1, description="Only 0: faces are not restored.")
    codeformer_weight: float = Field(0, ge=0, le=1)
    upscaling_resize: float = Field(2, ge=0.01, le=16, description="Factor")
    upscaling_resize_w: int = Field(512, ge=1, le=16384)
    upscaling_resize_h: int = Field(512, ge=1, le=16384)
    upscaling_crop: bool = Field(True, description="Cut what is over, when made to a size")
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1)
    upscale_first: bool = Field(False, description="Before faces are restored")


class ExtraSingle(Extras):
    image: str = Field("", description="A picture in base64")


class FileData(BaseModel):
    data: str = Field(description="A picture in base64")
    name: str = ""


class ExtraBatch(Extras):
    imageList: list[FileData] = Field(max_length=256)


def enlarge(data: bytes, body: Extras, field: str) -> tuple[bytes, str]:
    """The picture as a PNG file, enlarged as asked, and a sentence on how. BadRequest, BadFile, NotFound."""
    refuse_faces(body)
    try:
        image = open_bounded(data)
    except EaselError as error:
        error.field = field
        raise
    image = ImageOps.exif_transpose(image) or image
    asked = extras_of(body)
    result = processed(whole(image), asked, find_upscaler)
    out = io.BytesIO()
    result.save(out, "PNG")
    return out.getvalue(), html_info(asked, result.size)


def refuse_faces(body: Extras) -> None:
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(body, name):
            raise BadRequest(f"{name} must be 0: faces are not restored here.", field=name)


def extras_of(body: Extras) -> Wanted:
    """What a body asks for."""
    return Wanted(**{name: getattr(body, name) for name in Wanted.model_fields})


def html_info(asked: Wanted, size: tuple[int, int]) -> str:
    return ", ".join([*(f"{key}: {value}" for key, value in told(asked).items()), f"{size[0]}x{size[1]}"])


def needs_model(body: Extras) -> bool:
    """Whether one of the upscalers is a model, which the worker alone can run."""
    return not {body.upscaler_1, body.upscaler_2} <= set(UPSCALERS)


def models(library: Library) -> dict[str, str]:
    """Paths of the files in the upscalers' folders by name; well-known ones by the name A1111 has for them."""
    meant = {place.name for place in places(library.folders) if place.kind == "upscaler"}
    known_as = {stem: name for name, stem in KNOWN_AS.items()}
    found = {known_as.get(file.name, file.name): file.path for file in library.files() if file.place in meant}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
