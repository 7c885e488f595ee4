"""Pictures to latents and back, one at a time, in tiles where the policy says so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from modules.memory.machine import dtype_of
from modules.nets.autoencoder import Autoencoder, decode_tiled, encode_tiled
from modules.nets.hypertile import Tiling
from modules.schema.errors import NotANumber, NotFound
from modules.weights.residency import LoadedModel


def decode(
    model: LoadedModel,
    latent: Tensor,
    size: tuple[int, int],
    method: str = "Full",
    warn: Callable[[str], None] = lambda message: None,
) -> Image.Image:
    """One latent [C, h, w] to a picture of (width, height), cropped from the padded size. `method`: "Full" or "TAESD".

    Values are truncated to 8 bits, as the reference does. Raises NotANumber if the autoencoder overflows (or tells
    `warn`, where the user does not want to stop for it), NotFound where there is no TAESD file.
    """
    if method == "TAESD":
        small = model.small_decoder("TAESD")
        if small is None:
            raise NotFound(
                "VAE type for decode is TAESD, but there is no sound taesd_decoder.pth (for SDXL: taesdxl_decoder.pth) "
                "in models/VAE-taesd; put it there, or choose Full."
            )
        return to_image(small(latent[None].to(model.device, torch.float32))[0], size)
    return to_image(pixels(model, latent, warn), size)


def pixels(model: LoadedModel, latent: Tensor, warn: Callable[[str], None] = lambda message: None) -> Tensor:
    """[C, h, w] -> pixels [3, H, W] float32. NotANumber as `decode`."""
    if model.policy.check_numbers and not torch.isfinite(latent).all():
        raise NotANumber("The latents are not finite, so there is no picture; set Precision to float32.")

    def run(vae: Autoencoder, dtype: torch.dtype) -> tuple[Tensor, ...]:
        z = model.from_latents(latent[None].to(model.policy.vae_device, dtype))
        tile = model.policy.vae_tile
        if tile is None:
            return (vae.decode(z, tiling_of(model))[0].float(),)
        return (decode_tiled(vae, z, tile // vae.config.downscale)[0],)

    return finite(model, "decoder", run, warn)[0]


def moments(model: LoadedModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance of the latents of a picture [3, H, W] in -1…1: unscaled, [C, h, w] float32.
    NotANumber if the autoencoder overflows."""

    def run(vae: Autoencoder, dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = image[None].to(model.policy.vae_device, dtype)
        tile = model.policy.vae_tile
        if tile is None:
            found = vae.encode_moments(x, tiling_of(model))
        else:
            found = encode_tiled(vae, x, tile // vae.config.downscale)
        return tuple(part[0].float().to(model.device) for part in found)

    mean, logvar = finite(model, "encoder", run)
    return mean, logvar


def tiling_of(model: LoadedModel) -> Tiling | None:
    """Hypertile's, of the autoencoder's one attention."""
    side = model.policy.vae_attention_tile
    return None if side is None else Tiling(max(1, side // model.vae.config.downscale))


def finite(
    model: LoadedModel,
    half: str,
    run: Callable[[Autoencoder, torch.dtype], tuple[Tensor, ...]],
    warn: Callable[[str], None] = lambda message: None,
) -> tuple[Tensor, ...]:
    """What one half of the autoencoder makes, again in a wider number type where it overflows; only this is done again,
    from what it was given, and the type that held is remembered for this VAE."""
    policy = model.policy
    dtypes = (policy.vae_dtype, *map(dtype_of, policy.vae_retry))
    known = model.learned.get("vae", policy.vae_dtype)
    made: tuple[Tensor, ...] = ()
    for dtype in dtypes[dtypes.index(known) if known in dtypes else 0 :]:
        with model.vae_in(dtype) as vae:
            made = run(vae, dtype)
        if all(torch.isfinite(part).all() for part in made):
            if dtype != policy.vae_dtype:
                model.learned["vae"] = dtype  # the next picture need not fail first
            return made
    problem = f"The autoencoder's {half} produced numbers that are not finite"
    if policy.check_numbers:
        raise NotANumber(
            f"{problem}, so there is no picture; set Precision of the VAE to float32 in the settings and draw again."
        )
    warn(f"{problem}; the picture may be black.")
    return tuple(torch.nan_to_num(part) for part in made)


def to_image(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """[3, H, W] in -1…1 as a picture, cropped to (width, height) at its top left."""
    # Truncated where they are: a quarter of the bytes leaves a card.
    array = (255.0 * torch.clamp((pixels + 1.0) / 2.0, 0.0, 1.0)).to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(array.cpu().numpy()).crop((0, 0, *size))
