"""Latents to pictures, one at a time, and the cheap look at a latent while it is drawn."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.schema.errors import NotANumber
from modules.weights.residency import LoadedModel

# Latent channel -> RGB, a linear fit for the SD1/SD2 autoencoder (spec/generation.md section 5.4).
SD1_RGB = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
# A full decode of a small autoencoder costs less than a look through foreign factors is worth.
SMALL_AUTOENCODER_CH = 128


def decode(model: LoadedModel, latent: Tensor, size: tuple[int, int]) -> Image.Image:
    """One latent [C, h, w] to a picture of (width, height), cropped from the padded size.

    Values are truncated to 8 bits, as the reference does. Raises NotANumber if the autoencoder overflows.
    """
    z = model.from_latents(latent[None].to(model.device, model.policy.vae_dtype))
    pixels = model.vae.decode(z)[0].float()
    if not torch.isfinite(pixels).all():
        raise NotANumber(
            "The autoencoder produced numbers that are not finite, so there is no picture; "
            "set Precision to float32 or bfloat16 in the settings and draw again."
        )
    return _to_image(pixels, size)


def _to_image(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    array = (255.0 * torch.clamp((pixels + 1.0) / 2.0, 0.0, 1.0)).cpu().numpy().transpose(1, 2, 0)
    return Image.fromarray(array.astype(np.uint8)).crop((0, 0, *size))


def preview(model: LoadedModel, latent: Tensor, size: tuple[int, int]) -> Image.Image:
    """A quick picture of a denoised latent [C, h, w]; never raises for numbers that are not finite."""
    if model.vae.config.ch < SMALL_AUTOENCODER_CH:
        z = model.from_latents(latent[None].to(model.device, model.policy.vae_dtype))
        return _to_image(torch.nan_to_num(model.vae.decode(z)[0].float()), size)
    factors = torch.tensor(SD1_RGB, dtype=torch.float32)
    pixels = torch.nan_to_num(torch.einsum("chw,cr->rhw", latent.float().cpu(), factors))
    small = _to_image(pixels, (pixels.shape[2], pixels.shape[1]))
    scale = min(1.0, 512 / max(size))
    return small.resize((max(1, int(size[0] * scale)), max(1, int(size[1] * scale))), Image.Resampling.BILINEAR)


def encode_preview(image: Image.Image) -> bytes:
    """JPEG bytes, small enough to send many times a second."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
