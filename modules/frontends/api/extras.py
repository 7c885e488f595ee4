"""The bodies and the work of /extra-single-image and /extra-batch-images: pictures made larger without a model."""

from __future__ import annotations

import io

from PIL import Image, ImageOps
from pydantic import BaseModel, Field

from modules.frontends.api.bodies import Lenient
from modules.imaging.metadata import MAX_PIXELS, open_bounded
from modules.imaging.upscale import find_upscaler
from modules.schema.errors import BadRequest, EaselError


class Extras(Lenient):
    resize_mode: int = Field(0, ge=0, le=1, description="0 by factor, 1 to a size")
    show_extras_results: bool = True
    gfpgan_visibility: float = Field(0, ge=0, le=1, description="Only 0: faces are not restored.")
    codeformer_visibility: float = Field(0, ge=0, le=1, description="Only 0: faces are not restored.")
    codeformer_weight: float = Field(0, ge=0, le=1)
    upscaling_resize: float = Field(2, gt=0, le=16, description="Factor")
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
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(body, name):
            raise BadRequest(f"{name} must be 0: faces are not restored here.", field=name)
    try:
        image = open_bounded(data)
    except EaselError as error:
        error.field = field
        raise
    image = ImageOps.exif_transpose(image) or image
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode in ("LA", "PA") else "RGB")
    first = _enlarged(image, body, body.upscaler_1, "upscaler_1")
    told = f"Postprocess upscaler: {body.upscaler_1}"
    if body.upscaler_2 != "None" and body.extras_upscaler_2_visibility > 0:
        second = _enlarged(image, body, body.upscaler_2, "upscaler_2")
        if second.mode != first.mode:
            second = second.convert(first.mode)
        first = Image.blend(first, second, body.extras_upscaler_2_visibility)
        told += f", Postprocess upscaler 2: {body.upscaler_2}"
    out = io.BytesIO()
    first.save(out, "PNG")
    return out.getvalue(), f"{told}, {first.width}x{first.height}"


def _enlarged(image: Image.Image, body: Extras, name: str, field: str) -> Image.Image:
    try:
        upscale = find_upscaler(name)
    except EaselError as error:
        error.field = field
        raise
    if upscale is None:
        return image
    target = (body.upscaling_resize_w, body.upscaling_resize_h)
    to_size = body.resize_mode == 1
    factor = max(target[0] / image.width, target[1] / image.height) if to_size else body.upscaling_resize
    if image.width * factor * image.height * factor > MAX_PIXELS:
        raise BadRequest(
            f"The picture would have more than {MAX_PIXELS / 1e6:.0f} million pixels; make it less large.",
            field="upscaling_resize",
        )
    result = upscale(image, factor)
    if to_size and body.upscaling_crop:
        cropped = Image.new("RGB", target)
        cropped.paste(result, (target[0] // 2 - result.width // 2, target[1] // 2 - result.height // 2))
        return cropped
    return result
