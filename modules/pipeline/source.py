"""Pictures to start from, made ready: resized, cropped to what the mask wants, filled; and results put back in place.

Everything here is pixels; `latents` makes tensors of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from modules.imaging import inputs
from modules.imaging.colour import flatten, match_colours
from modules.imaging.masks import (
    Box,
    blur,
    crop_region,
    expand_to_ratio,
    fill,
    hardened,
    read_mask,
    unmasked,
)  # fmt: skip
from modules.imaging.metadata import read_infotext
from modules.imaging.resize import Mode, Size, Upscale, resize
from modules.imaging.save import NameTaken, encode_picture, safe_write
from modules.imaging.spectrum import matching_noise
from modules.imaging.upscale import Find, find_upscaler
from modules.schema.errors import DiskTrouble
from modules.schema.folders import Folders
from modules.schema.plan import Plan
from modules.schema.request import Mask, Outpaint, Soft, Source

RESIZE: tuple[Mode, ...] = ("stretch", "cover", "fit")
LATENT_RESIZE = 3
FILL_ORIGINAL, FILL_NOISE, FILL_NOTHING = 1, 2, 3
PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Those that a PNG holds as they are."""
OUTPAINT_CONTENT = {"latent noise": FILL_NOISE, "latent nothing": FILL_NOTHING}


@dataclass(frozen=True)
class Pictures:
    """What a job was given: its source pictures (RGB) and its mask picture, as they came."""

    sources: tuple[Image.Image, ...]
    mask: Image.Image | None = None


@dataclass(frozen=True)
class Prepared:
    """What a job draws from. `images` (RGB) are encoded as they are; picture k starts from `images[k % len(images)]`.

    `mask` (L, white is new) has the working size; `hard`: its grey counts as black or white; `content`: what stands in
    for the masked part. `overlays` (RGBA) are laid over finished pictures, which go to `box` where only that part was
    drawn; with `soft` they are whole, and what changed is cut out of them. `colours` (RGB) are those to match.
    `shown`: the images without what stands in for their masked part, at the working size; `window`: the size of the
    whole source and which part of it is drawn, where that is not all.
    """

    images: tuple[Image.Image, ...]
    mask: Image.Image | None = None
    hard: bool = True
    content: int = FILL_ORIGINAL
    overlays: tuple[Image.Image, ...] = ()
    box: Box | None = None
    soft: Soft | None = None
    colours: tuple[Image.Image, ...] = ()
    resize_latents: bool = False
    warnings: tuple[str, ...] = ()
    shown: tuple[Image.Image, ...] = ()
    window: tuple[Size, Box] | None = None

    def finish(self, image: Image.Image, k: int, changed: Image.Image | None = None) -> Image.Image:
        """A decoded picture in the colours of its source and in its place in it.

        `changed` (L, any size): where it is seen, with soft inpainting.
        """
        if self.colours:
            image = match_colours(image, self.colours[k % len(self.colours)])
        if not self.overlays:
            return image
        overlay = self.overlays[k % len(self.overlays)]
        if changed is not None:
            overlay = unmasked(overlay, self.placed(smoothed(changed, image.size), overlay.size))
        canvas = image.convert("RGBA")
        if self.box is not None:
            left, top, right, bottom = self.box
            part = resize(image, "cover", (right - left, bottom - top))
            canvas = Image.new("RGBA", overlay.size)
            canvas.paste(part, (left, top))
        canvas.alpha_composite(overlay)
        return canvas.convert("RGB")

    def placed(self, mask: Image.Image, size: tuple[int, int]) -> Image.Image:
        """A mask of the working size on the whole picture."""
        if self.box is None:
            return _sized(mask, size)
        left, top, right, bottom = self.box
        whole = Image.new("L", size)
        whole.paste(resize(mask, "cover", (right - left, bottom - top)), (left, top))
        return whole


def prepare(plan: Plan, folders: Folders, find: Find = find_upscaler) -> tuple[Plan, Prepared | None]:
    """Read the pictures a plan starts from and make them ready; None for a picture out of nothing.

    The plan comes back without "only masked" where the mask is empty, and with the size that outpainting leads to.
    Raises BadFile, NotFound or BadRequest.
    """
    pictures = read(plan, folders)
    return (plan, None) if pictures is None else ready(plan, pictures, find)


def read(plan: Plan, folders: Folders) -> Pictures | None:
    """The pictures a plan starts from; None where it does from none."""
    source = plan.request.source
    if source is None:
        return None
    background = plan.settings.drawing.img2img_background_color
    sources = tuple(flatten(inputs.load(folders.inputs, name), background) for name in source.images)
    return Pictures(sources, inputs.load(folders.inputs, source.mask.image) if source.mask else None)


def put_by(plan: Plan, folders: Folders, warn: Callable[[str], None]) -> Plan:
    """Where that is asked for, the source pictures saved under the MD5 of their pixels, which the plan then knows; one
    that is there already is left as it is, one that cannot be saved is told of."""
    source, saving = plan.request.source, plan.settings.saving
    if source is None or not saving.save_init_img:
        return plan
    hashes = []
    for name in source.images:
        image = inputs.load(folders.inputs, name)
        image = image if image.mode in PLAIN_MODES else image.convert("RGB")
        hashes.append(hashlib.md5(image.tobytes(), usedforsecurity=False).hexdigest())
        data, ending = encode_picture(image, read_infotext(image), saving)
        try:
            safe_write(folders.data / saving.outdir_init_images / f"{hashes[-1]}.{ending}", data)
        except NameTaken:
            pass
        except DiskTrouble as error:
            warn(error.message)
    return plan.model_copy(update={"init_hashes": tuple(hashes)})


def ready(plan: Plan, pictures: Pictures, find: Find = find_upscaler) -> tuple[Plan, Prepared]:
    """The pictures resized, cropped to what the mask wants and filled; `find` knows the upscalers."""
    source = plan.request.source
    assert source is not None
    if source.outpaint is not None:
        return _outpainted(plan, source.outpaint, pictures)
    prepared = _prepared(plan, source, pictures, find(plan.settings.drawing.upscaler_for_img2img))
    if source.mask is None or prepared.mask is not None:
        return plan, prepared
    mask = source.mask.model_copy(update={"inpaint_full_res": False})
    return _with_request(plan, source=source.model_copy(update={"mask": mask})), prepared


def _with_request(plan: Plan, **changes: object) -> Plan:
    return plan.model_copy(update={"request": plan.request.model_copy(update=changes)})


def _prepared(plan: Plan, source: Source, given: Pictures, upscale: Upscale | None) -> Prepared:
    size = plan.request.width, plan.request.height
    drawing = plan.settings.drawing
    latent = source.resize_mode == LATENT_RESIZE
    mode = RESIZE[0 if latent else source.resize_mode]
    pictures = given.sources

    def at_size(image: Image.Image) -> Image.Image:
        return image if latent else resize(image, mode, size, upscale)

    def to_match(images: tuple[Image.Image, ...]) -> tuple[Image.Image, ...]:
        return images if drawing.img2img_color_correction else ()

    warnings = []
    asked = source.mask
    if asked is not None and given.mask is not None:
        white = softened(given.mask, asked)
        small = next((picture.size for picture in pictures if picture.size != white.size), None)
        if small is not None:
            warnings.append(
                f"The mask is {white.width}x{white.height}, the picture {small[0]}x{small[1]}; it was stretched to fit."
            )
            white = resize(white, "stretch", small)
        region = crop_region(white, asked.inpaint_full_res_padding) if asked.inpaint_full_res else None
        hard = asked.mask_round and asked.soft is None
        if region is not None:
            box = expand_to_ratio(region, size, white.size)
            mask = resize(white.crop(box), "fit", size)
            under = tuple(p.convert("RGBA") if asked.soft else unmasked(p, white) for p in pictures)
            overlays = under if drawing.overlay_inpaint else ()
            parts = [resize(picture.crop(box), "fit", size, upscale) for picture in pictures]
            started = tuple(_filled(part, mask, asked) for part in parts)
            return Prepared(
                started, mask, hard, asked.inpainting_fill, overlays, box if overlays else None, asked.soft,
                to_match(started), latent, tuple(warnings), tuple(parts), (white.size, box),
            )  # fmt: skip
        if not asked.inpaint_full_res:
            mask = resize(white, mode, size)
            whole = (resize(p, mode, size, upscale) for p in pictures)
            under = tuple(p.convert("RGBA") if asked.soft else unmasked(p, hardened(mask)) for p in whole)
            shown = tuple(map(at_size, pictures))
            started = tuple(_filled(p, _sized(mask, p.size), asked) for p in shown)
            return Prepared(
                started, mask, hard, asked.inpainting_fill, under if drawing.overlay_inpaint else (), None,
                asked.soft, to_match(started), latent, tuple(warnings), shown,
            )  # fmt: skip
        warnings.append("The mask is empty, so there is no masked part alone; the whole picture was drawn.")
    shown = tuple(at_size(picture) for picture in pictures)
    return Prepared(shown, colours=to_match(shown), resize_latents=latent, warnings=tuple(warnings))


def _outpainted(plan: Plan, asked: Outpaint, given: Pictures) -> tuple[Plan, Prepared]:
    """The pictures on a larger canvas and a mask over what is new, which begins with their outermost rows and columns
    drawn out to the new edges, or with what else is asked for.

    The size becomes what it must be. A picture keeps every pixel further inside than the blur of the mask's edge.
    """
    first = given.sources[0].size
    pictures = [resize(picture, "stretch", first) for picture in given.sources]
    (w, h), (left, top) = first, (asked.left, asked.up)
    size = left + w + asked.right, top + h + asked.down
    border = _border(size, (left, top, left + w, top + h), asked.mask_blur)
    mask = blur(border, asked.mask_blur / 2, asked.mask_blur / 2)
    drawn_out = [
        Image.fromarray(np.pad(np.asarray(p), ((top, asked.down), (left, asked.right), (0, 0)), mode="edge"))
        for p in pictures
    ]
    overlays = tuple(unmasked(picture, hardened(mask)) for picture in drawn_out)
    if asked.fill == "fill":
        drawn_out = [fill(picture, mask) for picture in drawn_out]
    elif asked.fill == "noise":
        drawn_out = [_in_noise(picture, size, (left, top), asked) for picture in pictures]
    content = OUTPAINT_CONTENT.get(asked.fill, FILL_ORIGINAL)
    prepared = Prepared(tuple(drawn_out), mask, content=content, overlays=overlays)
    return _with_request(plan, width=size[0], height=size[1]), prepared


def _in_noise(picture: Image.Image, size: tuple[int, int], at: tuple[int, int], asked: Outpaint) -> Image.Image:
    """A picture on a canvas of noise of its own kind; the same noise each time."""
    canvas = matching_noise(picture, size, asked.noise_q, asked.color_variation, seed=0)
    canvas.paste(picture, at)
    return canvas


def _border(size: tuple[int, int], box: Box, inside: int) -> Image.Image:
    """White, but for a box drawn in by `inside` on the sides where it does not touch the edge of the picture."""
    left, top, right, bottom = box
    kept = (
        left + inside * (left > 0), top + inside * (top > 0),
        right - inside * (right < size[0]), bottom - inside * (bottom < size[1]),
    )  # fmt: skip
    mask = Image.new("L", size, 255)
    if kept[0] < kept[2] and kept[1] < kept[3]:
        mask.paste(0, kept)
    return mask


def smoothed(changed: Image.Image, size: tuple[int, int]) -> Image.Image:
    """What changed, of latent size, as a mask of a picture's size without steps."""
    return resize(changed, "fit", size).filter(ImageFilter.GaussianBlur(4))


def softened(image: Image.Image, mask: Mask) -> Image.Image:
    """A mask picture as it is used, at its own size."""
    white = read_mask(image, mask.mask_round and mask.soft is None)
    if mask.inpainting_mask_invert:
        white = ImageOps.invert(white)
    return blur(white, mask.mask_blur_x, mask.mask_blur_y)


def _sized(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    return mask if mask.size == size else resize(mask, "stretch", size)


def _filled(picture: Image.Image, white: Image.Image, mask: Mask) -> Image.Image:
    return picture if mask.inpainting_fill == FILL_ORIGINAL else fill(picture, white)
