"""Pictures to latents: what a batch starts from, and what a net wants to see besides its noisy latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modules.pipeline import decode, soft
from modules.pipeline.source import FILL_NOISE, FILL_NOTHING, Prepared
from modules.sampling import noise
from modules.schema.plan import Plan
from modules.schema.request import Soft
from modules.weights.residency import LoadedModel

# The posterior's noise is a stream of its own: with the picture's seed alone it would repeat the first noise.
POSTERIOR_STREAM = 0x5EED0FA11


@dataclass(frozen=True)
class Start:
    """Latents [B, C, h, w] that a batch starts from, and which of them are drawn anew, `new` [1, 1, h, w] in 0…1.

    `soft`: the mask's grey is a matter of the noise level, and the result is not cut out by it.
    """

    latents: Tensor
    new: Tensor | None = None
    soft: Soft | None = None

    def keep(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """x [B, C, h, w] with the kept part taken from the start, times `scale`."""
        if self.new is None:
            return x
        return x * self.new + self.latents * (scale * (1 - self.new))

    def blended(self, denoised: Tensor, sigma: Tensor) -> Tensor:
        """A prediction [B, C, h, w] at the noise levels sigma [B] with the kept part taken from the start."""
        if self.new is None or self.soft is None:
            return self.keep(denoised)
        return soft.blend(self.latents, denoised, self.new, sigma, self.soft)

    def finished(self, x: Tensor) -> Tensor:
        """What sampling ended with, [B, C, h, w], as the result."""
        return x if self.soft is not None else self.keep(x)

    def seen(self, drawn: Tensor, index: int) -> Image.Image | None:
        """Where picture `index` of the batch is to be seen in its source, at latent size; None: where the mask is."""
        if self.new is None or self.soft is None:
            return None
        return soft.changed(self.latents[index], drawn[index], self.new[0], self.soft)


def shape(model: LoadedModel, width: int, height: int) -> tuple[int, int, int]:
    """(channels, height, width) of the latent that holds a picture of this size; the picture is padded up to it."""
    grid = model.vae.config.downscale
    return (model.vae.config.embed_dim, -(-height // grid), -(-width // grid))


def pixels(images: Sequence[Image.Image], model: LoadedModel) -> Tensor:
    """RGB pictures of one size as [B, 3, H, W] in -1…1, their last rows and columns repeated up to the latent grid."""
    grid = model.vae.config.downscale
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    values = torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255 * 2 - 1
    below, right = -values.shape[2] % grid, -values.shape[3] % grid
    return F.pad(values, (0, right, 0, below), mode="replicate").contiguous()


def moments(model: LoadedModel, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and logarithm of the variance of each picture's latents, unscaled, [C, h, w] float32; one call each."""
    return [decode.moments(model, image) for image in images]


def sampled(model: LoadedModel, found: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """Scaled latents [C, h, w] drawn from a picture's moments. The noise is the seed's own, on any device the same.

    The original draws it from the process's one generator, so its pictures depend on what ran before.
    """
    mean, logvar = found
    drawn = noise.make_generator("CPU", seed + POSTERIOR_STREAM).randn(mean.shape).to(mean)
    return model.to_latents(mean + (logvar / 2).exp() * drawn)


def start(model: LoadedModel, prepared: Prepared, plan: Plan, batch: range) -> Start:
    """What the pictures of a batch start from; masked content "latent noise" is each picture's own noise."""
    request = plan.request
    target = shape(model, request.width, request.height)
    which = [k % len(prepared.images) for k in batch]
    encoded = {i: moments(model, pixels([prepared.images[i]], model))[0] for i in dict.fromkeys(which)}
    latents = torch.stack([sampled(model, encoded[i], plan.seeds[k]) for i, k in zip(which, batch)])
    if prepared.resize_latents:
        latents = F.interpolate(latents, size=target[1:], mode="bilinear")
    if prepared.mask is None:
        return Start(latents)
    new = _latent_mask(prepared.mask, target[1:], prepared.hard).to(latents)
    if prepared.content == FILL_NOISE:
        options = plan.settings.sampling
        fresh = noise.BatchNoise(
            noise.picture_noises([plan.seeds[k] for k in batch]), target,
            source=options.randn_source, device=model.device, down=model.vae.config.downscale,
        )  # fmt: skip
        latents = latents * (1 - new) + fresh.initial * new
    elif prepared.content == FILL_NOTHING:
        latents = latents * (1 - new)
    return Start(latents, new, prepared.soft)


def _latent_mask(mask: Image.Image, size: tuple[int, int], hard: bool) -> Tensor:
    """[1, 1, h, w]; Pillow's bicubic on the mask as a colour picture, then half to even, as the original."""
    small = mask.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(small, dtype=np.float32)[..., 0] / 255)
    return (values.round() if hard else values)[None, None]


def net_input(
    model: LoadedModel, prepared: Prepared | None, plan: Plan, batch: range, size: tuple[int, int]
) -> Tensor | None:
    """[B, C', h, w] that a net wants besides x: nothing but for inpainting and editing models.

    `size`: (width, height) of the pass. Out of nothing an inpainting model is shown a grey picture, all of it masked.
    """
    if model.facts.concat not in ("inpaint", "edit"):
        return None
    grid = model.vae.config.downscale
    _, h, w = shape(model, *size)
    if prepared is None:
        images = torch.zeros(1, 3, h * grid, w * grid)
    else:
        images = torch.cat([pixels([image], model) for image in prepared.images])
    return seen(model, images, _hidden(prepared, images), plan, batch, (h, w))


def seen(model: LoadedModel, images: Tensor, hidden: Tensor, plan: Plan, batch: range, size: tuple[int, int]) -> Tensor:
    """What an inpainting or editing model is shown of pictures [N, 3, H, W] in -1…1: [B, C', h, w], `size` = (h, w).

    `hidden` [1, 1, H, W] is 1 where the picture is masked; how dark the masked part becomes is a setting.
    """
    which = [k % len(images) for k in batch]
    if model.facts.concat == "edit":
        means = [F.interpolate(mean[None], size=size)[0] for mean, _ in moments(model, images)]
        return torch.stack([means[i] for i in which])
    shown = torch.lerp(images, images * (1 - hidden), plan.settings.drawing.inpainting_mask_weight)
    encoded = moments(model, shown)
    drawn = torch.stack([sampled(model, encoded[i], plan.seeds[k]) for i, k in zip(which, batch)])
    small = F.interpolate(hidden, size=size).to(drawn).expand(len(which), -1, -1, -1)
    return torch.cat([small, F.interpolate(drawn, size=size)], dim=1)


def _hidden(prepared: Prepared | None, images: Tensor) -> Tensor:
    """[1, 1, H, W]: the mask of the working size, padded as the pictures are; all of it where there is none."""
    if prepared is None or prepared.mask is None:
        return torch.ones(1, 1, *images.shape[2:])
    values = torch.from_numpy(np.asarray(prepared.mask, dtype=np.float32) / 255)[None, None]
    if prepared.hard:
        values = values.round()
    if prepared.resize_latents:
        return F.interpolate(values, size=images.shape[2:])
    padding = (0, images.shape[3] - values.shape[3], 0, images.shape[2] - values.shape[2])
    return F.pad(values, padding, mode="replicate")
