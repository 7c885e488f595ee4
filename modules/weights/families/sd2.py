"""Stable Diffusion 2.0 and 2.1: the U-Net of SD 1 with linear projections, text from OpenCLIP-H's penultimate layer.

Releases: 512 pixels predicting noise, 768 predicting the velocity, inpainting (9 channels), depth (5). Nothing in the
layout tells noise from velocity, but training does: the first norm of the last transformer spreads wider in the
velocity models (standard deviation of its bias above 0.09; the rule is ComfyUI's).
"""

from __future__ import annotations

import statistics
from typing import Any

from modules.weights.facts import ModelFacts
from modules.weights.families import shapes, towers
from modules.weights.headers import Header
from modules.weights.sidecar import SideCar

TEXT = ("cond_stage_model.", "conditioner.embedders.0.")
VELOCITY_SPREAD = 0.09
UNKNOWN = (
    "Whether {} predicts noise or velocity could not be read off it, so velocity is assumed, as in most SD 2 files; "
    "if it draws nothing but noise, set its prediction type to eps, or convert it to safetensors."
)


def recognise(header: Header, sidecar: SideCar) -> ModelFacts | None:
    """The facts of an SD 2.x checkpoint; None where the text encoder is another.

    Raises:
        BadFile: a part is missing or its sizes fit no SD 2.x net.
    """
    if not shapes.has_unet(header) or not _has_tower(header):
        return None
    shapes.check_complete(header, True)
    shape = shapes.Shapes(header, "an SD 2.x checkpoint")
    unet, vae = shapes.read_unet(shape, sidecar), shapes.read_vae(shape)
    tower = towers.read(shape, TEXT, "clip_h", layer=_layer(shape, sidecar))
    shapes.check_fit(shape, unet, vae, tower.component.config["width"], None)
    concat = shapes.CONCATS[unet.config["in_channels"]]
    prediction = shapes.said_prediction(header, sidecar) or ("eps" if concat else _spread(header, unet.config))
    warnings = shapes.warnings_of(header, sidecar, unet)
    if prediction is None:
        prediction, warnings = "v", (*warnings, UNKNOWN.format(header.path.name))
    return ModelFacts(
        family="sd2",
        label="SD 2.x" + shapes.CONCAT_LABELS[concat] + (" (v)" if prediction == "v" else ""),
        unet=unet,
        vae=vae,
        towers=(tower,),
        latent=shapes.latent_format(sidecar, 0.18215),
        prediction=prediction,
        resolution=shapes.resolution(header, unet, 768 if prediction == "v" else 512),
        concat=concat,
        betas=sidecar.betas,
        zero_snr=shapes.zero_snr(header),
        cfg_scale=shapes.number(header.metadata, "easel.default_cfg_scale"),
        warnings=warnings,
    )


def _has_tower(header: Header) -> bool:
    """OpenCLIP's names, or a tower 1024 wide under Hugging Face's."""
    for found in (towers.find(header, base) for base in TEXT):
        if found:
            prefix, layout = found
            positions = header.shape(prefix + layout(towers.POSITIONS).key) or ()
            return isinstance(layout, towers.OpenClip) or positions[1:] == (1024,)
    return False


def _layer(shape: shapes.Shapes, sidecar: SideCar) -> int:
    """The penultimate of 24. Files converted from elsewhere may end there: their 23rd is their last."""
    if sidecar.text_layer == "last":
        return 1
    prefix, layout = next(found for base in TEXT if (found := towers.find(shape.header, base)))
    first = layout("encoder.layers.0.layer_norm1.weight").key
    return 1 if shape.indices(prefix + first[: first.index("0.")]) == 23 else 2


def _spread(header: Header, config: dict[str, Any]) -> str | None:
    """The prediction by the rule above; None where the numbers cannot be read (in pickles)."""
    last = len(config["output_depths"]) - 1
    bias = shapes.values(header, f"{shapes.UNET}output_blocks.{last}.1.transformer_blocks.0.norm1.bias")
    if not bias:
        return None
    return "v" if statistics.pstdev(bias) > VELOCITY_SPREAD else "eps"
