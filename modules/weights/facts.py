"""What is known of a checkpoint before any of its weights is moved: plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Part:
    """Where a weight of a net lies in the file: under `key` (behind the component's prefix), whole or a piece of it.

    `third`: OpenCLIP keeps query, key and value in one tensor; 0, 1 or 2 is the third of its rows that is wanted.
    """

    key: str
    third: int | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Component:
    """One net of a checkpoint: which keys are its own, and the numbers its configuration is made of.

    `config` holds the fields of the net's config class (UNetConfig, AutoencoderConfig, ClipConfig), which this side
    cannot import without a tensor library. `where` tells, for a weight by the net's own name, where it lies.
    """

    prefix: str
    config: dict[str, Any]
    where: Callable[[str], Part] = Part


@dataclass(frozen=True)
class TowerFacts:
    """One text encoder of a family, and which of its outputs the denoiser was taught with.

    `name` is that of the pretrained tower ("clip_l", "clip_h", "clip_g"), as embedding files name it too. `layer`
    counts hidden states from the end: 1 the last, 2 the penultimate; `norm`: the final norm is applied to it.
    `pooled`: the projected end token belongs to the denoiser's vector. `clip_skip`: whether the user's choice of a
    layer replaces `layer`: "always", "asked" (only with the setting for it) or "never".
    """

    name: str
    component: Component
    tokenizer: Literal["clip", "open_clip"]
    layer: int = 1
    norm: bool = True
    pooled: bool = False
    clip_skip: Literal["always", "asked", "never"] = "never"


@dataclass(frozen=True)
class LatentFormat:
    """Latents are the autoencoder's, minus `mean`, divided by `std` (per channel, where given), times `scale`."""

    scale: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


Concat = Literal["", "inpaint", "edit", "depth"]
"""What the denoiser is given beside the latents: nothing, a mask and the masked picture's latents (1 + 4 channels),
the source picture's latents (4, not scaled), a depth map (1)."""

Vector = Literal["", "sizes", "score"]
"""What follows the pooled text in the denoiser's vector: there is no vector; original size, crop and target size;
original size, crop and aesthetic score."""


@dataclass(frozen=True)
class ModelFacts:
    """`label` is the family as people call it. `prediction`: "eps", "v" or "edm" (sampling.prediction).

    Noise levels: `betas` (start, end) of the scaled-linear schedule, with `zero_snr` rescaled to end in pure noise; or
    a `sigma_range` (lowest, highest), where any level between was taught.
    `resolution` is the native (width, height) in pixels, `cfg_scale` the author's advice or None. `warnings` are
    sentences for the user.
    """

    family: str
    label: str
    unet: Component
    vae: Component
    towers: tuple[TowerFacts, ...]
    latent: LatentFormat
    prediction: str
    resolution: tuple[int, int]
    concat: Concat = ""
    vector: Vector = ""
    betas: tuple[float, float] = (0.00085, 0.012)
    zero_snr: bool = False
    sigma_range: tuple[float, float] | None = None
    cfg_scale: float | None = None
    warnings: tuple[str, ...] = ()
