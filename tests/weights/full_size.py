"""The configurations of the released models at their full size, and headers of their files without the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from modules.weights.headers import Header, TensorInfo
from tests.weights.tiny import PREFIXES, Layout, open_clip_keys

SD1 = UNetConfig()
SD2 = replace(SD1, context_dim=1024, linear_projection=True, num_heads=None, head_dim=64)
SDXL = UNetConfig(
    channel_mult=(1, 2, 4), input_depths=(0, 0, 2, 2, 10, 10), middle_depth=10,
    output_depths=(10, 10, 10, 2, 2, 2, 0, 0, 0), context_dim=2048, adm_channels=2816, linear_projection=True,
    num_heads=None, head_dim=64,
)  # fmt: skip
REFINER = replace(
    SDXL, model_channels=384, channel_mult=(1, 2, 4, 4), input_depths=(0, 0, 4, 4, 4, 4, 0, 0), middle_depth=4,
    output_depths=(0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0), context_dim=1280, adm_channels=2560,
)  # fmt: skip
SSD_1B = replace(
    SDXL, input_depths=(0, 0, 2, 2, 4, 4), middle_depth=None, output_depths=(4, 4, 10, 2, 1, 1, 0, 0, 0)
)  # fmt: skip
VEGA = replace(
    SDXL, input_depths=(0, 0, 1, 1, 2, 2), middle_depth=None, output_depths=(2, 2, 2, 1, 1, 1, 0, 0, 0)
)  # fmt: skip

CLIP_L = ClipConfig()
CLIP_H = ClipConfig(width=1024, layers=24, heads=16, mlp=4096, activation="gelu")
CLIP_G = ClipConfig(width=1280, layers=32, heads=20, mlp=5120, activation="gelu", projection=1280)

_SD1_TEXT = (("cond_stage_model.transformer.text_model.", False, CLIP_L),)
_SD2_TEXT = (("cond_stage_model.model.", True, CLIP_H),)
_SDXL_TEXT = (
    ("conditioner.embedders.0.transformer.text_model.", False, CLIP_L), ("conditioner.embedders.1.model.", True, CLIP_G)
)  # fmt: skip
_EMPTY = torch.empty(0)

LAYOUTS: dict[str, Layout] = {
    "SD 1.x": Layout(SD1, _SD1_TEXT),
    "SD 1.x inpainting": Layout(replace(SD1, in_channels=9), _SD1_TEXT),
    "SD 2.x (v)": Layout(SD2, _SD2_TEXT),
    "SD 2.x depth": Layout(replace(SD2, in_channels=5), _SD2_TEXT),
    "SDXL": Layout(SDXL, _SDXL_TEXT),
    "SDXL (v)": Layout(SDXL, _SDXL_TEXT, {"v_pred": _EMPTY, "ztsnr": _EMPTY}),
    "SSD-1B": Layout(SSD_1B, _SDXL_TEXT),
    "Segmind Vega": Layout(VEGA, _SDXL_TEXT),
    "SDXL refiner": Layout(REFINER, (("conditioner.embedders.0.model.", True, CLIP_G),)),
}


def header_of(layout: Layout, metadata: Mapping[str, str] | None = None) -> Header:
    """The header of a half-precision file in this layout."""
    with torch.device("meta"):
        tensors: dict[str, Tensor] = dict(layout.extra)
        nets = ((PREFIXES["unet"], UNet(layout.unet)), (PREFIXES["vae"], Autoencoder(AutoencoderConfig())))
        for prefix, net in nets:
            tensors |= {prefix + key: value for key, value in net.state_dict().items()}
        for prefix, opened, config in layout.towers:
            state = TextEncoder(config).state_dict()
            written = open_clip_keys(state) if opened else state
            tensors |= {prefix + key: value for key, value in written.items()}
    infos = {key: TensorInfo("F16", tuple(value.shape), 0, value.numel() * 2) for key, value in tensors.items()}
    return Header(Path("full.safetensors"), infos, metadata or {})
