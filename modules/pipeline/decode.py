"""Latents to pictures, one at a time."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.memory.machine import dtype_of
from modules.nets.autoencoder import decode_tiled
from modules.schema.errors import NotANumber, NotFound
from modules.weights.residency import LoadedModel


def decode(model: LoadedModel, latent: Tensor, size: tuple[int, int], method: str = "Full") -> Image.Image:
    """One latent [C, h, w] to a picture of (width, height), cropped from the padded size. `method`: "Full" or "TAESD".

    Values are truncated to 8 bits, as the reference does. Raises NotANumber if the autoencoder overflows, NotFound
    where there is no TAESD file.
    """
    if method == "TAESD":
        small = model.small_decoder("TAESD")
        if small is None:
            raise NotFound(
                "VAE type for decode is TAESD, but there is no sound taesd_decoder.pth (for SDXL: taesdxl_decoder.pth) "
                "in models/VAE-taesd; put it there, or choose Full."
            )
        return to_image(small(latent[None].to(model.device, torch.float32))[0], size)
    return to_image(_decoded(model, latent), size)


def _decoded(model: LoadedModel, latent: Tensor) -> Tensor:
    """[C, h, w] -> pixels [3, H, W] float32, in tiles where the policy says so, again in a wider type on overflow."""
    policy = model.policy
    dtypes = (policy.vae_dtype, *map(dtype_of, policy.vae_retry))
    for dtype in dtypes[dtypes.index(model.learned.get("vae", policy.vae_dtype)) :]:
        with model.vae_in(dtype) as vae:
            z = model.from_latents(latent[None].to(model.device, dtype))
            if policy.vae_tile is None:
                pixels = vae.decode(z)[0].float()
            else:
                pixels = decode_tiled(vae, z, policy.vae_tile // vae.config.downscale)[0]
        if not policy.check_numbers or torch.isfinite(pixels).all():
            if dtype != policy.vae_dtype:
                model.learned["vae"] = dtype  # the next picture need not fail first
            return torch.nan_to_num(pixels)
    if not torch.isfinite(latent).all():
        raise NotANumber("The latents are not finite, so there is no picture; set Precision to float32.")
    raise NotANumber(
        "The autoencoder produced numbers that are not finite, so there is no picture; set Precision of the VAE to "
        "float32 in the settings and draw again."
    )


def to_image(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """[3, H, W] in -1…1 as a picture, cropped to (width, height) at its top left."""
    array = (255.0 * torch.clamp((pixels + 1.0) / 2.0, 0.0, 1.0)).cpu().numpy().transpose(1, 2, 0)
    return Image.fromarray(array.astype(np.uint8)).crop((0, 0, *size))
