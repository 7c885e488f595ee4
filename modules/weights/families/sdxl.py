"""Stable Diffusion XL and its relatives: two text towers and a vector of pooled text and sizes.

Podell et al., arXiv:2307.01952. The same layout with fewer layers is SSD-1B and Segmind Vega (Gupta et al.,
arXiv:2401.02677); with keys that mark another training it is a velocity model (`v_pred`, `ztsnr`), Playground v2.5
(`edm_mean`, `edm_std`; Li et al., arXiv:2402.17245) or CosXL (`edm_vpred.sigma_max`).
"""

from __future__ import annotations

from typing import Any

from modules.weights.facts import Component, LatentFormat, ModelFacts
from modules.weights.families import shapes, towers
from modules.weights.headers import Header
from modules.weights.sidecar import SideCar

CLIP_L, CLIP_G = ("conditioner.embedders.0.",), ("conditioner.embedders.1.",)
SIZES = 6 * 256
"""Original height and width, crop top and left, target height and width, each as 256 waves."""
SCALE = 0.13025

SMALLER = {
    (0, 0, 2, 2, 4, 4): "SSD-1B",
    (0, 0, 1, 1, 2, 2): "Segmind Vega",
}
"""Transformers behind each residual block of the input side, where the middle has none."""

PLAYGROUND_MEAN = (-1.6574, 1.886, -1.383, 2.5155)
PLAYGROUND_STD = (8.4927, 5.9022, 6.5498, 5.2299)
PLAYGROUND_SIGMAS = (0.002, 80.0)
COSXL_SIGMAS = (0.002, 120.0)


def recognise(header: Header, sidecar: SideCar) -> ModelFacts | None:
    """The facts of an SDXL checkpoint; None where there is no second text tower.

    Raises:
        BadFile: a part is missing or its sizes fit no SDXL net.
    """
    if not shapes.has_unet(header) or not any(key.startswith(CLIP_G) for key in header.tensors):
        return None
    shapes.check_complete(header, True)
    shape = shapes.Shapes(header, "an SDXL checkpoint")
    unet, vae = shapes.read_unet(shape, sidecar), shapes.read_vae(shape)
    pair = (
        towers.read(shape, CLIP_L, "clip_l", layer=2, norm=False, clip_skip="asked"),
        towers.read(shape, CLIP_G, "clip_g", layer=2, norm=False, pooled=True),
    )
    width = sum(tower.component.config["width"] for tower in pair)
    shapes.check_fit(shape, unet, vae, width, pair[1].component.config["projection"] + SIZES)
    concat = shapes.CONCATS[unet.config["in_channels"]]
    label, training = _training(header, sidecar)
    return ModelFacts(
        family="sdxl",
        label=(label or _name(unet)) + shapes.CONCAT_LABELS[concat],
        unet=unet,
        vae=vae,
        towers=pair,
        resolution=shapes.resolution(header, unet, 1024),
        concat=concat,
        vector="sizes",
        betas=sidecar.betas,
        cfg_scale=shapes.number(header.metadata, "easel.default_cfg_scale"),
        warnings=shapes.warnings_of(header, sidecar, unet),
        **training,
    )


def _name(unet: Component) -> str:
    if unet.config["middle_depth"] is None:
        return SMALLER.get(unet.config["input_depths"], "SDXL, distilled")
    return "SDXL"


def _training(header: Header, sidecar: SideCar) -> tuple[str, dict[str, Any]]:
    """(name, fields of ModelFacts) by the keys that mark how the net was trained; values stand in the file."""
    if {"edm_mean", "edm_std"} <= header.tensors.keys():
        mean = shapes.values(header, "edm_mean") or PLAYGROUND_MEAN
        std = shapes.values(header, "edm_std") or PLAYGROUND_STD
        latent = LatentFormat(0.5, mean, std)
        return "Playground v2.5", {"prediction": "edm", "sigma_range": PLAYGROUND_SIGMAS, "latent": latent}
    latent = shapes.latent_format(sidecar, SCALE)
    if "edm_vpred.sigma_max" in header.tensors:
        low = shapes.values(header, "edm_vpred.sigma_min") or COSXL_SIGMAS[:1]
        high = shapes.values(header, "edm_vpred.sigma_max") or COSXL_SIGMAS[1:]
        return "CosXL", {"prediction": "v", "sigma_range": (low[0], high[0]), "latent": latent}
    prediction = shapes.said_prediction(header, sidecar) or "eps"
    return "SDXL (v)" if prediction == "v" else "", {
        "prediction": prediction, "zero_snr": shapes.zero_snr(header), "latent": latent
    }  # fmt: skip
