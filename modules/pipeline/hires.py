"""Hires fix: what a first pass has drawn, enlarged as latents or as a picture, is drawn over by a second pass."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modules.imaging import inputs
from modules.imaging.resize import resize
from modules.imaging.upscale import Find
from modules.pipeline import decode, latents, upscalers
from modules.pipeline.latents import Start
from modules.schema.enlarging import GRID, Target, target
from modules.schema.folders import Folders
from modules.schema.plan import Plan
from modules.weights.residency import LoadedModel

# How latents are interpolated: torch's mode, and whether it smooths when shrinking.
LATENT_MODES: dict[str, tuple[str, bool]] = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}


def check_upscaler(name: str, folders: Folders) -> None:
    """Raises NotFound for a name that is neither a latent mode nor a picture upscaler."""
    if name not in LATENT_MODES:
        upscalers.check(name, folders)


def known_first(
    plan: Plan, batch: range, name: str, model: LoadedModel, folders: Folders
) -> Tensor | list[Image.Image]:
    """What stands for a batch's first pass: a kept picture, brought to the asked size; where latents are to be
    enlarged its latents [B, C, h, w]. NotFound, BadFile."""
    asked = plan.request.width, plan.request.height
    image = inputs.load(folders.inputs, name).convert("RGB")
    image = image if image.size == asked else image.resize(asked, Image.Resampling.LANCZOS)
    assert plan.request.hires is not None
    if plan.request.hires.hr_upscaler not in LATENT_MODES:
        return [image] * len(batch)
    mean = latents.moments(model, latents.pixels([image], model))[0]
    return torch.stack([latents.sampled(model, mean, plan.seeds[k]) for k in batch])


def enlarged(
    plan: Plan, batch: range, drawn: Tensor | list[Image.Image], before: LoadedModel, find: Find
) -> tuple[Tensor | list[Image.Image], Target]:
    """What a batch's latents [B, C, h, w] become: larger latents, or larger pictures to be encoded anew.

    `drawn` may be pictures already (`known_first`). `before` is the model of the first pass, whose autoencoder made
    sense of them; `find` knows the upscalers.
    """
    hires = plan.request.hires
    assert hires is not None
    goal = target(plan.request.width, plan.request.height, hires)
    if isinstance(drawn, Tensor) and hires.hr_upscaler in LATENT_MODES:
        mode, antialias = LATENT_MODES[hires.hr_upscaler]
        size = (goal.scaled[1] // GRID, goal.scaled[0] // GRID)
        # Picture by picture: what one becomes must not depend on the others.
        return torch.cat([F.interpolate(one[None], size=size, mode=mode, antialias=antialias) for one in drawn]), goal
    upscale = find(hires.hr_upscaler)
    asked = plan.request.width, plan.request.height
    pictures = [decode.decode(before, one, asked) if isinstance(one, Tensor) else one for one in drawn]
    whole = goal.scaled[0] // GRID * GRID, goal.scaled[1] // GRID * GRID
    return [resize(picture, "stretch", goal.scaled, upscale).crop((0, 0, *whole)) for picture in pictures], goal


def start(
    plan: Plan, batch: range, larger: Tensor | list[Image.Image], goal: Target, model: LoadedModel
) -> tuple[Start, Tensor | None]:
    """What the second pass starts from, and what its net wants to see besides."""
    if isinstance(larger, Tensor):
        begun = larger
    else:
        pixels = [latents.pixels([picture], model) for picture in larger]
        found = [latents.moments(model, one)[0] for one in pixels]
        begun = torch.stack([latents.sampled(model, one, plan.seeds[k]) for one, k in zip(found, batch)])
    extra = _seen(plan, batch, larger, begun, model)
    (left, top), (width, height) = (goal.surplus[0] // 2, goal.surplus[1] // 2), goal.latent
    window = slice(top, top + height), slice(left, left + width)
    cut = begun[..., window[0], window[1]].contiguous()
    return Start(cut), None if extra is None else extra[..., window[0], window[1]].contiguous()


def _seen(
    plan: Plan, batch: range, larger: Tensor | list[Image.Image], begun: Tensor, model: LoadedModel
) -> Tensor | None:
    """An inpainting model is shown the picture only where the mask's weight lets it through."""
    if model.facts.concat != "inpaint":
        return None
    size = begun.shape[2], begun.shape[3]
    grid = model.vae.config.downscale
    if not isinstance(larger, Tensor):
        images = torch.cat([latents.pixels([picture], model) for picture in larger])
    elif plan.settings.drawing.inpainting_mask_weight < 1:
        images = torch.stack([decode.pixels(model, one).cpu() for one in begun])
    else:
        images = torch.zeros(1, 3, size[0] * grid, size[1] * grid)
    return latents.seen(model, images, torch.ones(1, 1, *images.shape[2:]), plan, batch, size)
