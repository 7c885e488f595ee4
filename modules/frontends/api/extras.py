"""The bodies and the work of /extra-single-image and /extra-batch-images: pictures made larger."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ImageOps
from pydantic import BaseModel, Field

from modules.frontends.api.bodies import Lenient
from modules.imaging.extras import processed, told, whole
from modules.imaging.metadata import open_bounded
from modules.imaging.upscale import KNOWN_AS, UPSCALERS, find_upscaler
from modules.schema.errors import EaselError
from modules.schema.request import AutoCrop, FocalCrop, SplitOversized
from modules.schema.request import Extras as Wanted
from modules.weights.library import Library, places, restorer_names


class Extras(Lenient):
    resize_mode: int = Field(0, ge=0, le=1, description="0 by factor, 1 to a size")
    show_extras_results: bool = True
    gfpgan_visibility: float = Field(0, ge=0, le=1, description="How much of GFPGAN's faces is seen")
    codeformer_visibility: float = Field(0, ge=0, le=1, description="How much of CodeFormer's faces is seen")
    codeformer_weight: float = Field(0, ge=0, le=1, description="0 changes a face most, 1 keeps it most")
    upscaling_resize: float = Field(2, ge=0.01, le=16, description="Factor")
    upscaling_resize_w: int = Field(512, ge=1, le=16384)
    upscaling_resize_h: int = Field(512, ge=1, le=16384)
    upscaling_crop: bool = Field(True, description="Cut what is over, when made to a size")
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1)
    upscale_first: bool = Field(False, description="Before faces are restored")
    max_side_length: int = Field(0, ge=0, le=16384, description="When scaled by a factor; 0 is none")
    split_oversized: SplitOversized | None = Field(None, description="Not in A1111: cut what is too long")
    focal_crop: FocalCrop | None = Field(None, description="Not in A1111: crop around what draws the eye")
    auto_crop: AutoCrop | None = Field(None, description="Not in A1111: crop to the nearest of many sizes")
    flip: list[str] = Field([], max_length=3, description="Not in A1111: Horizontal, Vertical, Both")


class ExtraSingle(Extras):
    image: str = Field("", description="A picture in base64")


class FileData(BaseModel):
    data: str = Field(description="A picture in base64")
    name: str = ""


class ExtraBatch(Extras):
    imageList: list[FileData] = Field(max_length=256)


def enlarge(data: bytes, body: Extras, field: str) -> tuple[list[bytes], str]:
    """The PNG files that a picture becomes, and a sentence on how. BadRequest, BadFile, NotFound."""
    try:
        image = open_bounded(data)
    except EaselError as error:
        error.field = field
        raise
    image = ImageOps.exif_transpose(image) or image
    asked = extras_of(body)
    files = []
    made = processed(whole(image), asked, find_upscaler)
    for result in made:
        out = io.BytesIO()
        result.save(out, "PNG")
        files.append(out.getvalue())
    return files, html_info(asked, made[0].size)


def extras_of(body: Extras) -> Wanted:
    """What a body asks for."""
    return Wanted(**{name: getattr(body, name) for name in Wanted.model_fields if name in type(body).model_fields})


def html_info(asked: Wanted, size: tuple[int, int]) -> str:
    return ", ".join([*(f"{key}: {value}" for key, value in told(asked).items()), f"{size[0]}x{size[1]}"])


def needs_model(body: Extras) -> bool:
    """Whether a model has a part in it, which the worker alone can run."""
    faces = body.gfpgan_visibility > 0 or body.codeformer_visibility > 0 or body.focal_crop is not None
    return faces or not {body.upscaler_1, body.upscaler_2} <= set(UPSCALERS)


def models(library: Library, only: str | None = None) -> dict[str, str]:
    """Paths of the files in the upscalers' folders, or in the one of that name, by name; well-known ones by the name
    A1111 has for them."""
    meant = {place.name for place in places(library.folders) if place.kind == "upscaler" and only in (None, place.name)}
    known_as = {stem: name for name, stem in KNOWN_AS.items()}
    found = {known_as.get(file.name, file.name): file.path for file in library.files() if file.place in meant}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def restorers(library: Library) -> dict[str, str]:
    """Folders of the face restorers that are there, by name."""
    files = [Path(file.path) for file in library.files("face restorer")]
    return {name: str(path.parent) for name, path in restorer_names(files).items()}
