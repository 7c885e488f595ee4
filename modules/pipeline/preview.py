"""The cheap look at latents while they are drawn: live previews, and the filmstrip of a picture out of the noise."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from modules.imaging.grid import filmstrip
from modules.memory.policy import SMALL_VAE_WIDTH
from modules.nets.autoencoder import decode_tiled
from modules.pipeline.decode import to_image
from modules.weights.residency import LoadedModel

# Latent channel -> RGB: linear fits for the autoencoders of SD 1 and 2, and of SDXL (spec/generation.md section 5.4).
SD_RGB = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
SDXL_RGB = (
    (0.3448, 0.4168, 0.4395), (-0.1953, -0.0290, 0.0250), (0.1074, 0.0886, -0.0163), (-0.3730, -0.2499, -0.2088),
)  # fmt: skip
MOST_PIXELS = 4096 * 4096  # of the pictures of a batch side by side
FRAME_SIDE = 192  # longer side of one frame of a filmstrip, in pixels


def quick(model: LoadedModel, latent: Tensor, size: tuple[int, int], method: str = "Approx cheap") -> Image.Image:
    """A quick picture of a denoised latent [C, h, w]; never raises for numbers that are not finite.

    `method`: "Full", "TAESD", "Approx NN" or "Approx cheap", which also stands in where their files are missing.
    """
    small = model.small_decoder(method) if method in ("TAESD", "Approx NN") else None
    if small is not None:
        pixels = torch.nan_to_num(small(latent[None].to(model.device, torch.float32))[0])
        image = to_image(pixels, (pixels.shape[2], pixels.shape[1]))
        return image.crop((0, 0, *size)) if method == "TAESD" else _fitted(image, size)
    if method == "Full" or model.vae.config.ch < SMALL_VAE_WIDTH:
        z = model.from_latents(latent[None].to(model.policy.vae_device, model.policy.vae_dtype))
        tile, vae = model.policy.vae_tile, model.vae
        whole = vae.decode(z) if tile is None else decode_tiled(vae, z, tile // vae.config.downscale)
        return to_image(torch.nan_to_num(whole[0].float()), size)
    factors = torch.tensor(SDXL_RGB if model.family.startswith("sdxl") else SD_RGB, dtype=torch.float32)
    pixels = torch.nan_to_num(torch.einsum("chw,cr->rhw", latent.float().cpu(), factors))
    return _fitted(to_image(pixels, (pixels.shape[2], pixels.shape[1])), size)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A small picture enlarged to the asked proportions, at most 512 pixels long."""
    scale = min(1.0, 512 / max(size))
    return image.resize((max(1, int(size[0] * scale)), max(1, int(size[1] * scale))), Image.Resampling.BILINEAR)


def encode(image: Image.Image) -> bytes:
    """JPEG bytes, small enough to send many times a second."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


@dataclass
class Film:
    """Frames of chosen steps of one batch, for each of its pictures. `wanted` of `steps` are spread evenly, first and
    last among them."""

    wanted: int
    steps: int
    frames: list[list[tuple[int, Image.Image]]] = field(default_factory=list)

    def sees(self, step: int) -> bool:
        """Whether this step (from 0) is one of the chosen."""
        if self.wanted <= 1:
            return self.wanted == 1 and step == self.steps - 1
        chosen = {round(i * (self.steps - 1) / (self.wanted - 1)) for i in range(self.wanted)}
        return step in chosen

    def take(self, step: int, model: LoadedModel, denoised: Tensor, size: tuple[int, int]) -> None:
        """Keep a small picture of each of the batch's latents [B, C, h, w]."""
        if not self.frames:
            self.frames = [[] for _ in denoised]
        for frames, latent in zip(self.frames, denoised):
            picture = quick(model, latent, size)
            picture.thumbnail((FRAME_SIDE, FRAME_SIDE))
            frames.append((step + 1, picture))

    def strip(self, which: int) -> Image.Image | None:
        """The frames of the batch's picture number `which` as one picture; None where there are none."""
        if which >= len(self.frames) or not self.frames[which]:
            return None
        return filmstrip([image for _, image in self.frames[which]], [str(step) for step, _ in self.frames[which]])
