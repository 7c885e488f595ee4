"""Pictures to start from, made ready: resized, cropped to what the mask wants, filled; and results put back in place.

Everything here is pixels; `latents` makes tensors of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageOps

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
from modules.imaging.resize import Mode, resize
from modules.imaging.upscale import find_upscaler
from modules.schema.folders import Folders
from modules.schema.plan import Plan
from modules.schema.request import Mask

RESIZE: tuple[Mode, ...] = ("stretch", "cover", "fit")
LATENT_RESIZE = 3
FILL_ORIGINAL, FILL_NOISE, FILL_NOTHING = 1, 2, 3


@dataclass(frozen=True)
class Prepared:
    """What a job draws from. `images` (RGB) are encoded as they are; picture k starts from `images[k % len(images)]`.

    `mask` (L, white is new) has the working size. `overlays` (RGBA) are laid over finished pictures, which go to `box`
    where only that part was drawn.
    """

    images: tuple[Image.Image, ...]
    mask: Image.Image | None = None
    overlays: tuple[Image.Image, ...] = ()
    box: Box | None = None
    correct_colours: bool = False
    resize_latents: bool = False
    warnings: tuple[str, ...] = ()

    def finish(self, image: Image.Image, k: int) -> Image.Image:
        """A decoded picture in the colours of its source and in its place in it."""
        which = k % len(self.images)
        if self.correct_colours:
            image = match_colours(image, self.images[which])
        if not self.overlays:
            return image
        overlay = self.overlays[which]
        canvas = image.convert("RGBA")
        if self.box is not None:
            left, top, right, bottom = self.box
            part = resize(image, "cover", (right - left, bottom - top))
            canvas = Image.new("RGBA", overlay.size)
            canvas.paste(part, (left, top))
        canvas.alpha_composite(overlay)
        return canvas.convert("RGB")


def prepare(plan: Plan, folders: Folders) -> tuple[Plan, Prepared | None]:
    """Read the pictures a plan starts from; None for a picture out of nothing.

    The plan comes back without "only masked" where the mask is empty. Raises BadFile, NotFound or BadRequest.
    """
    prepared = _prepare(plan, folders)
    source = plan.request.source
    if prepared is None or source is None or source.mask is None or prepared.mask is not None:
        return plan, prepared
    mask = source.mask.model_copy(update={"inpaint_full_res": False})
    request = plan.request.model_copy(update={"source": source.model_copy(update={"mask": mask})})
    return plan.model_copy(update={"request": request}), prepared


def _prepare(plan: Plan, folders: Folders) -> Prepared | None:
    source, drawing = plan.request.source, plan.settings.drawing
    if source is None:
        return None
    size = plan.request.width, plan.request.height
    upscale = find_upscaler(drawing.upscaler_for_img2img)
    latent = source.resize_mode == LATENT_RESIZE
    mode = RESIZE[0 if latent else source.resize_mode]
    pictures = [flatten(inputs.load(folders.inputs, name), drawing.img2img_background_color) for name in source.images]

    def at_size(image: Image.Image) -> Image.Image:
        return image if latent else resize(image, mode, size, upscale)

    colours, warnings = drawing.img2img_color_correction, []
    if source.mask is not None:
        white = softened(inputs.load(folders.inputs, source.mask.image), source.mask)
        small = next((picture.size for picture in pictures if picture.size != white.size), None)
        if small is not None:
            warnings.append(
                f"The mask is {white.width}x{white.height}, the picture {small[0]}x{small[1]}; it was stretched to fit."
            )
            white = resize(white, "stretch", small)
        region = crop_region(white, source.mask.inpaint_full_res_padding) if source.mask.inpaint_full_res else None
        if region is not None:
            box = expand_to_ratio(region, size, white.size)
            mask = resize(white.crop(box), "fit", size)
            overlays = tuple(unmasked(picture, white) for picture in pictures) if drawing.overlay_inpaint else ()
            parts = [resize(picture.crop(box), "fit", size, upscale) for picture in pictures]
            return Prepared(
                tuple(_filled(part, mask, source.mask) for part in parts),
                mask, overlays, box if overlays else None, colours, latent, tuple(warnings),
            )  # fmt: skip
        if not source.mask.inpaint_full_res:
            mask = resize(white, mode, size)
            under = tuple(unmasked(resize(p, mode, size, upscale), hardened(mask)) for p in pictures)
            started = tuple(_filled(p, _sized(mask, p.size), source.mask) for p in map(at_size, pictures))
            overlays = under if drawing.overlay_inpaint else ()
            return Prepared(started, mask, overlays, None, colours, latent, tuple(warnings))
        warnings.append("The mask is empty, so there is no masked part alone; the whole picture was drawn.")
    shown = tuple(at_size(picture) for picture in pictures)
    return Prepared(shown, correct_colours=colours, resize_latents=latent, warnings=tuple(warnings))


def softened(image: Image.Image, mask: Mask) -> Image.Image:
    """A mask picture as it is used, at its own size."""
    white = read_mask(image, mask.mask_round)
    if mask.inpainting_mask_invert:
        white = ImageOps.invert(white)
    return blur(white, mask.mask_blur_x, mask.mask_blur_y)


def _sized(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    return mask if mask.size == size else resize(mask, "stretch", size)


def _filled(picture: Image.Image, white: Image.Image, mask: Mask) -> Image.Image:
    return picture if mask.inpainting_fill == FILL_ORIGINAL else fill(picture, white)
