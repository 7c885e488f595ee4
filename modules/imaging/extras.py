"""Extras: what is done to a finished picture, in A1111's order: enlarged, faces restored, split, cropped, flipped.

Each step takes pictures and gives pictures; what needs a model arrives as a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from modules.imaging.metadata import MAX_PIXELS
from modules.imaging.resize import Upscale
from modules.imaging.upscale import Find
from modules.schema.errors import BadRequest, EaselError
from modules.schema.request import FLIPS, OBJECTIVES, AutoCrop, Extras, FocalCrop, SplitOversized

TO_SIZE = 1
STEP = 64  # of the sides that an auto-sized crop may have
MAX_PARTS = 64  # pictures that one is split into
Restore = Callable[[Image.Image, str, float], Image.Image]
"""(picture, name of the restorer, CodeFormer's weight) → the picture with its faces made clear."""
FindFaces = Callable[[Image.Image], Sequence[np.ndarray]]
"""An RGB picture → landmarks [n, 2] of each face, in pixels."""


def needs_faces(asked: Extras) -> bool:
    return asked.gfpgan_visibility > 0 or asked.codeformer_visibility > 0


def check(asked: Extras) -> None:
    """BadRequest for what makes no sense, before anything is done."""
    for name in ("split_oversized", "focal_crop"):
        if getattr(asked, name) is not None and asked.resize_mode != TO_SIZE:
            raise BadRequest(
                f"{type(getattr(asked, name)).__name__} needs a size to crop to; choose Scale to.", field="resize_mode"
            )
    crop = asked.auto_crop
    if crop is not None:
        if crop.objective not in OBJECTIVES:
            raise BadRequest(f"The objective is one of {', '.join(OBJECTIVES)}.", field="objective")
        if crop.mindim > crop.maxdim or crop.minarea > crop.maxarea:
            raise BadRequest("The lower bounds of the auto-sized crop lie above the upper ones.", field="auto_crop")
    wrong = next((name for name in asked.flip if name not in FLIPS), None)
    if wrong is not None:
        raise BadRequest(f"Pictures are flipped {', '.join(FLIPS)}, not {wrong!r}.", field="flip")


def processed(
    image: Image.Image,
    asked: Extras,
    find: Find,
    restore: Restore | None = None,
    faces: FindFaces = lambda image: (),
) -> list[Image.Image]:
    """The pictures (RGB or RGBA) that one becomes, at least one. BadRequest, BadFile, NotFound; the field is named."""
    check(asked)
    if asked.upscale_first:
        image = _with_faces(_scaled(image, asked, find), asked, restore)
    else:
        image = _scaled(_with_faces(image, asked, restore), asked, find)
    images = [image]
    target = (asked.upscaling_resize_w, asked.upscaling_resize_h)
    if asked.split_oversized is not None:
        images = [part for each in images for part in split(each, target, asked.split_oversized)]
    if asked.focal_crop is not None:
        images = [part for each in images for part in focal_crop(each, target, asked.focal_crop, faces)]
    if asked.auto_crop is not None:
        images = [auto_crop(each, asked.auto_crop) for each in images]
    copies = [flipped(each, how) for each in images for how in dict.fromkeys(asked.flip)]
    return images + copies


def whole(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent."""
    if image.mode in ("RGB", "RGBA"):
        return image
    return image.convert("RGBA" if "transparency" in image.info or image.mode in ("LA", "PA") else "RGB")


def told(asked: Extras) -> dict[str, Any]:
    """What an infotext says of it."""
    fields: dict[str, Any] = {}
    if asked.upscaler_1 != "None":
        if asked.resize_mode == TO_SIZE:
            fields["Postprocess upscale to"] = f"{asked.upscaling_resize_w}x{asked.upscaling_resize_h}"
            fields |= {"Postprocess crop to": True} if asked.upscaling_crop else {}
        else:
            fields["Postprocess upscale by"] = asked.upscaling_resize
            fields |= {"Max side length": asked.max_side_length} if asked.max_side_length else {}
        fields["Postprocess upscaler"] = asked.upscaler_1
        fields |= {"Postprocess upscaler 2": asked.upscaler_2} if _mixes(asked) else {}
    if asked.gfpgan_visibility > 0:
        fields["GFPGAN visibility"] = asked.gfpgan_visibility
    if asked.codeformer_visibility > 0:
        fields["CodeFormer visibility"] = asked.codeformer_visibility
        fields["CodeFormer weight"] = asked.codeformer_weight
    return fields


# ------------------------------------------------------------------------------------------------------------ enlarging


def _mixes(asked: Extras) -> bool:
    return asked.upscaler_2 != "None" and asked.extras_upscaler_2_visibility > 0


def _scaled(image: Image.Image, asked: Extras, find: Find) -> Image.Image:
    first = _enlarged(image, asked, _found(find, asked.upscaler_1, "upscaler_1"))
    if not _mixes(asked):
        return first
    second = _enlarged(image, asked, _found(find, asked.upscaler_2, "upscaler_2"))
    if second.size != first.size:  # one of them is "None", which leaves the size
        second = second.resize(first.size, Image.Resampling.LANCZOS)
    return Image.blend(first, second.convert(first.mode), asked.extras_upscaler_2_visibility)


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
    if not to_size and asked.max_side_length:
        factor = min(factor, asked.max_side_length / max(image.size))
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


# ---------------------------------------------------------------------------------------------------------------- faces


def _with_faces(image: Image.Image, asked: Extras, restore: Restore | None) -> Image.Image:
    for name, visibility in (("GFPGAN", asked.gfpgan_visibility), ("CodeFormer", asked.codeformer_visibility)):
        if visibility > 0:
            assert restore is not None, "who asks for faces brings a restorer"
            image = Image.blend(image, restore(image, name, asked.codeformer_weight), visibility)
    return image


# ---------------------------------------------------------------------------------------------------- cropping, copying


def split(image: Image.Image, target: tuple[int, int], asked: SplitOversized) -> list[Image.Image]:
    """Pieces of the target's size along the longer side, overlapping; the picture alone where its shape is near."""
    width, height = target
    tall = image.height * width > height * image.width
    shape, wanted = image.width / image.height, width / height
    if min(shape / wanted, wanted / shape) > asked.split_threshold or shape == wanted:
        return [image]
    size = (width, image.height * width // image.width) if tall else (image.width * height // image.height, height)
    image = image.resize(size, Image.Resampling.LANCZOS)
    length, part = (size[1], height) if tall else (size[0], width)
    count = math.ceil((length - part * asked.overlap_ratio) / (part * (1 - asked.overlap_ratio)))
    if count > MAX_PARTS:
        raise BadRequest(
            f"The picture would be split into {count} parts; {MAX_PARTS} is the most.", field="overlap_ratio"
        )
    starts = [int((length - part) / (count - 1) * k) if count > 1 else 0 for k in range(count)]
    boxes = ((0, at, width, at + height) if tall else (at, 0, at + width, height) for at in starts)
    return [image.crop(box) for box in boxes]


def focal_crop(
    image: Image.Image, target: tuple[int, int], asked: FocalCrop, faces: FindFaces = lambda image: ()
) -> list[Image.Image]:
    """The picture at the target's size, cut around its focal point; with `debug` a second one that shows the points."""
    scale = max(target[0] / image.width, target[1] / image.height)
    size = max(target[0], round(image.width * scale)), max(target[1], round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    points = focal_points(image.convert("RGB"), target, asked, faces)
    total = sum(weight for _, _, weight in points)
    if total > 0:
        x, y = (sum(point[axis] * point[2] for point in points) / total for axis in (0, 1))
    else:
        x, y = image.width / 2, image.height / 2
    left = round(min(max(x - target[0] / 2, 0), image.width - target[0]))
    top = round(min(max(y - target[1] / 2, 0), image.height - target[1]))
    box = (left, top, left + target[0], top + target[1])
    if not asked.debug:
        return [image.crop(box)]
    shown = image.convert("RGB")
    pen = ImageDraw.Draw(shown)
    reach = max(4, min(size) // 30)
    for (px, py, _), colour in zip([(x, y, 0.0), *points], ("#f00", "#ff0", "#f0f", "#0ff")):
        pen.ellipse((px - reach, py - reach, px + reach, py + reach), outline=colour, width=2)
    pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="#f00")
    return [image.crop(box), shown]


def focal_points(
    image: Image.Image, target: tuple[int, int], asked: FocalCrop, faces: FindFaces
) -> list[tuple[float, float, float]]:
    """(x, y, weight) of the faces, of the strongest edges and of where most is told, as far as they are wanted."""
    found: list[tuple[float, float, float]] = []
    seen = [points.mean(axis=0) for points in faces(image)] if asked.face_weight > 0 else []
    if seen:
        x, y = np.mean(seen, axis=0)
        found.append((float(x), float(y), asked.face_weight))
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    if asked.edges_weight > 0:
        rows, columns = np.gradient(grey)
        strength = np.hypot(rows, columns)
        least = max(np.quantile(strength, 0.98), 1e-9)
        ys, xs = np.nonzero(strength >= least)
        if len(xs):
            found.append((float(xs.mean()), float(ys.mean()), asked.edges_weight))
    if asked.entropy_weight > 0:
        x, y = _most_told(grey, target)
        found.append((x, y, asked.entropy_weight))
    return found


def _most_told(grey: np.ndarray, target: tuple[int, int]) -> tuple[float, float]:
    """The middle of that window of the target's size (it can move along one side) whose greys vary most."""
    height, width = grey.shape
    free = max(width - target[0], height - target[1])
    along_x = width - target[0] >= height - target[1]
    best, place = -1.0, free / 2
    for at in range(0, free + 1, max(1, free // 32)):
        window = grey[:, at : at + target[0]] if along_x else grey[at : at + target[1]]
        share = np.histogram(window, bins=64, range=(0, 256))[0] / window.size
        told_there = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
        if told_there > best + 1e-9:
            best, place = told_there, at
    middle = (target[0] / 2 + place, height / 2) if along_x else (width / 2, target[1] / 2 + place)
    return middle


def auto_crop(image: Image.Image, asked: AutoCrop) -> Image.Image:
    """The picture cropped about its middle and resized; as it is where no size within the bounds is near enough."""
    shape = image.width / image.height

    def error(width: int, height: int) -> float:
        ratio = width / height / shape
        return 1 - min(ratio, 1 / ratio)

    sides = range(asked.mindim, asked.maxdim + 1, STEP)
    fitting = [
        (w, h) for w in sides for h in sides
        if asked.minarea <= w * h <= asked.maxarea and error(w, h) <= asked.threshold
    ]  # fmt: skip
    if not fitting:
        return image
    by_area = asked.objective == OBJECTIVES[0]
    size = max(fitting, key=lambda s: (s[0] * s[1], -error(*s)) if by_area else (-error(*s), s[0] * s[1]))
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def flipped(image: Image.Image, how: str) -> Image.Image:
    if how != "Vertical":
        image = ImageOps.mirror(image)
    return image if how == "Horizontal" else ImageOps.flip(image)
