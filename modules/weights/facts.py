"""What is known of a checkpoint before any of its weights is touched: plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def same_name(key: str) -> str:
    return key


@dataclass(frozen=True)
class Component:
    """One net of a checkpoint: which keys are its own, and the numbers its configuration is made of.

    `config` holds the fields of the net's config class (UNetConfig, AutoencoderConfig, ClipConfig), which this side
    cannot import without a tensor library. `rename` turns a key behind the prefix into the net's own name.
    """

    prefix: str
    config: dict[str, Any]
    rename: Callable[[str], str] = same_name


@dataclass(frozen=True)
class ModelFacts:
    """`scale_factor`: latents are the autoencoder's times this. `prediction`: "eps" or "v".

    `resolution` is the native (width, height) in pixels, `cfg_scale` the author's advice or None. `warnings` are
    sentences for the user.
    """

    family: str
    label: str
    unet: Component
    vae: Component
    text: Component
    scale_factor: float
    prediction: str
    resolution: tuple[int, int]
    cfg_scale: float | None = None
    warnings: tuple[str, ...] = ()
