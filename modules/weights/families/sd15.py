"""Stable Diffusion 1.x: LDM U-Net, AutoencoderKL, CLIP-L text encoder; and small models in the same layout.

Rombach et al., arXiv:2112.10752. With 8 input channels it is instruct-pix2pix (Brooks et al., arXiv:2211.09800), with
9 the inpainting model. Every size is read off tensor shapes (`families.shapes`, `families.towers`).
"""

from __future__ import annotations

from modules.weights.facts import ModelFacts
from modules.weights.families import shapes, towers
from modules.weights.headers import Header
from modules.weights.sidecar import SideCar

TEXT = ("cond_stage_model.", "conditioner.embedders.0.")


def recognise(header: Header, sidecar: SideCar) -> ModelFacts | None:
    """The facts of an SD 1.x checkpoint, or None where the file has no LDM U-Net.

    Raises:
        BadFile: it has one, but a part is missing or its sizes fit no SD 1.x net.
    """
    if not shapes.has_unet(header):
        return None
    shapes.check_complete(header, any(key.startswith(TEXT) for key in header.tensors))
    shape = shapes.Shapes(header, "an SD 1.x checkpoint")
    unet, vae = shapes.read_unet(shape, sidecar), shapes.read_vae(shape)
    tower = towers.read(shape, TEXT, "clip_l", clip_skip="always")
    shapes.check_fit(shape, unet, vae, tower.component.config["width"], None)
    concat = shapes.CONCATS[unet.config["in_channels"]]
    return ModelFacts(
        family="sd1",
        label="SD 1.x" + shapes.CONCAT_LABELS[concat],
        unet=unet,
        vae=vae,
        towers=(tower,),
        latent=shapes.latent_format(sidecar, 0.18215),
        prediction=shapes.said_prediction(header, sidecar) or "eps",
        resolution=shapes.resolution(header, unet, 512),
        concat=concat,
        betas=sidecar.betas,
        zero_snr=shapes.zero_snr(header),
        cfg_scale=shapes.number(header.metadata, "easel.default_cfg_scale"),
        warnings=shapes.warnings_of(header, sidecar, unet),
    )
