"""The refiner of SDXL: a wider U-Net for the last steps, with OpenCLIP-bigG alone and an aesthetic score.

Podell et al., arXiv:2307.01952, section 2.5.
"""

from __future__ import annotations

from modules.weights.facts import ModelFacts
from modules.weights.families import shapes, towers
from modules.weights.families.sdxl import SCALE
from modules.weights.headers import Header
from modules.weights.sidecar import SideCar

CLIP_G = ("conditioner.embedders.0.",)
SIZES = 5 * 256
"""Original height and width, crop top and left, aesthetic score, each as 256 waves."""


def recognise(header: Header, sidecar: SideCar) -> ModelFacts | None:
    """The facts of an SDXL refiner; None where the first tower is not OpenCLIP's or the U-Net takes no vector.

    Raises:
        BadFile: a part is missing or its sizes fit no refiner.
    """
    found = towers.find(header, CLIP_G[0])
    vector = shapes.UNET + "label_emb.0.0.weight" in header.tensors
    alone = not any(key.startswith("conditioner.embedders.1.") for key in header.tensors)
    if not (shapes.has_unet(header) and vector and alone and found):
        return None
    shapes.check_complete(header, True)
    shape = shapes.Shapes(header, "an SDXL refiner")
    unet, vae = shapes.read_unet(shape, sidecar), shapes.read_vae(shape)
    tower = towers.read(shape, CLIP_G, "clip_g", layer=2, norm=False, pooled=True)
    config = tower.component.config
    shapes.check_fit(shape, unet, vae, config["width"], config["projection"] + SIZES)
    concat = shapes.CONCATS[unet.config["in_channels"]]
    return ModelFacts(
        family="sdxl-refiner",
        label="SDXL refiner" + shapes.CONCAT_LABELS[concat],
        unet=unet,
        vae=vae,
        towers=(tower,),
        latent=shapes.latent_format(sidecar, SCALE),
        prediction=shapes.said_prediction(header, sidecar) or "eps",
        resolution=shapes.resolution(header, unet, 1024),
        concat=concat,
        vector="score",
        betas=sidecar.betas,
        zero_snr=shapes.zero_snr(header),
        cfg_scale=shapes.number(header.metadata, "easel.default_cfg_scale"),
        warnings=shapes.warnings_of(header, sidecar, unet),
    )
