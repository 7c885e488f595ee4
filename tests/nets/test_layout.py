"""The full-size layouts of every family, without memory: keys and parameters as in the released files.

Numbers: spec of the file formats, measured on the original classes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import TextEncoder
from modules.nets.unet import UNet, UNetConfig
from tests.weights import full_size


@pytest.mark.parametrize(
    ("net", "config", "keys", "parameters"),
    [
        (UNet, full_size.SD1, 686, 859_520_964),
        (UNet, replace(full_size.SD1, in_channels=9), 686, 859_535_364),
        (UNet, replace(full_size.SD1, in_channels=8), 686, 859_532_484),
        (UNet, full_size.SD2, 686, 865_910_724),
        (UNet, replace(full_size.SD2, in_channels=9), 686, 865_925_124),
        (UNet, replace(full_size.SD2, in_channels=5), 686, 865_913_604),
        (UNet, full_size.SDXL, 1680, 2_567_463_684),
        (UNet, replace(full_size.SDXL, in_channels=9), 1680, 2_567_478_084),
        (UNet, full_size.REFINER, 1220, 2_259_526_660),
        (UNet, full_size.SSD_1B, 944, 1_331_334_404),
        (UNet, full_size.VEGA, 564, 745_225_604),
        (Autoencoder, AutoencoderConfig(), 248, 83_653_863),
        (TextEncoder, full_size.CLIP_L, 196, 123_060_480),
        (TextEncoder, full_size.CLIP_H, 388, 352_984_064),
        (TextEncoder, full_size.CLIP_G, 517, 694_659_840),
    ],
)
def test_full_size_layout(net, config, keys, parameters):
    with torch.device("meta"):
        state = net(config).state_dict()
    assert len(state) == keys
    assert sum(tensor.numel() for tensor in state.values()) == parameters


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("input_blocks.0.0.weight", (320, 4, 3, 3)),
        ("input_blocks.3.0.op.weight", (320, 320, 3, 3)),
        ("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (640, 768)),
        ("middle_block.1.transformer_blocks.0.ff.net.0.proj.weight", (10240, 1280)),
        ("output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
        ("output_blocks.5.2.conv.weight", (1280, 1280, 3, 3)),
        ("output_blocks.8.0.skip_connection.weight", (640, 960, 1, 1)),
        ("output_blocks.11.1.proj_out.weight", (320, 320, 1, 1)),
        ("time_embed.2.weight", (1280, 1280)),
    ],
)
def test_unet_keys_and_shapes_are_those_of_the_released_files(key, shape):
    with torch.device("meta"):
        assert tuple(UNet(UNetConfig()).state_dict()[key].shape) == shape


def test_vae_decoder_counts_levels_from_full_resolution():
    with torch.device("meta"):
        state = Autoencoder(AutoencoderConfig()).state_dict()
    assert tuple(state["decoder.up.0.block.0.nin_shortcut.weight"].shape) == (128, 256, 1, 1)
    assert "decoder.up.0.upsample.conv.weight" not in state
    assert "encoder.down.3.downsample.conv.weight" not in state
