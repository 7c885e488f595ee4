"""Extras: a finished picture made larger by one upscaler, or by two whose results are mixed."""

from __future__ import annotations

from typing import Any

from PIL import Image

from modules.imaging.metadata import MAX_PIXELS
from modules.imaging.resize import Upscale
from modules.imaging.upscale import Find
from modules.schema.errors import BadRequest, EaselError
from modules.schema.request import Extras

TO_SIZE = 1


def processed(image: Image.Image, asked: Extras, find: Find) -> Image.Image:
    """The picture (RGB or RGBA) as asked. BadRequest, BadFile, NotFound, with the field named."""
    first = _enlarged(image, asked, _found(find, asked.upscaler_1, "upscaler_1"))
    if not _mixes(asked):
        return first
    second = _enlarged(image, asked, _found(find, asked.upscaler_2, "upscaler_2"))
    if second.size != first.size:  # one of them is "None", which leaves the size
        second = second.resize(first.size, Image.Resampling.LANCZOS)
    return Image.blend(first, second.convert(first.mode), asked.extras_upscaler_2_visibility)


def whole(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent."""
    if image.mode in ("RGB", "RGBA"):
        return image
    return image.convert("RGBA" if "transparency" in image.info or image.mode in ("LA", "PA") else "RGB")


def told(asked: Extras) -> dict[str, Any]:
    """What an infotext says of it."""
    if asked.upscaler_1 == "None":
        return {}
    fields: dict[str, Any] = {}
    if asked.resize_mode == TO_SIZE:
        fields["Postprocess upscale to"] = f"{asked.upscaling_resize_w}x{asked.upscaling_resize_h}"
        fields |= {"Postprocess crop to": True} if asked.upscaling_crop else {}
    else:
        fields["Postprocess upscale by"] = asked.upscaling_resize
    fields["Postprocess upscaler"] = asked.upscaler_1
    return fields | ({"Postprocess upscaler 2": asked.upscaler_2} if _mixes(asked) else {})


def _mixes(asked: Extras) -> bool:
    return asked.upscaler_2 != "None" and asked.extras_upscaler_2_visibility > 0


def _found(find: Find, name: str, field: str) -> Upscale | None:
    try:
        return find(name)
    except EaselError as error:
        error.field = field
        raise


def _enlarged(image: Image.Image, asked: Extras, upscale: Upscale | None) -> Image.Image:
    if upscale is None:
        return image
    target = (asked.upscaling_resize_w, asked.upscaling_resize_h)
    to_size = asked.resize_mode == TO_SIZE
    factor = max(target[0] / image.width, target[1] / image.height) if to_size else asked.upscaling_resize
    if image.width * factor * image.height * factor > MAX_PIXELS:
        raise BadRequest(
            f"The picture would have more than {MAX_PIXELS / 1e6:.0f} million pixels; make it less large.",
            field="upscaling_resize",
        )
    if min(image.width, image.height) * factor < 8:
        raise BadRequest("The picture would have sides under 8 pixels; make it larger.", field="upscaling_resize")
    result = upscale(image, factor)
    if to_size and asked.upscaling_crop:
        cropped = Image.new("RGB", target)
        cropped.paste(result, (target[0] // 2 - result.width // 2, target[1] // 2 - result.height // 2))
        return cropped
    return result
