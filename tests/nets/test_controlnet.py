"""ControlNet beside a U-Net, against diffusers' with the same random weights, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modules.nets.controlnet import ControlNet, scaled
from modules.nets.layers import timestep_embedding
from modules.nets.unet import UNet, UNetConfig
from modules.weights.build import control_blueprint, fill
from modules.weights.controls import read_control
from modules.weights.reading import open_header
from tests.nets.diffusers_keys import translated, unet_key
from tests.nets.test_parity import relative
from tests.weights.tiny import randomise

SD1 = UNetConfig(model_channels=32, channel_mult=(1, 2, 4, 4), context_dim=48, num_heads=8)
SD2 = UNetConfig(
    model_channels=32, channel_mult=(1, 2, 4, 4), context_dim=64, linear_projection=True, num_heads=None, head_dim=16
)
SDXL = UNetConfig(
    model_channels=32, channel_mult=(1, 2, 4), context_dim=64, input_depths=(0, 0, 2, 2, 3, 3), middle_depth=3,
    output_depths=(3, 3, 3, 2, 2, 2, 0, 0, 0), adm_channels=80 + 6 * 8, linear_projection=True, num_heads=None,
    head_dim=16,
)  # fmt: skip


def arguments(config: UNetConfig) -> dict[str, Any]:
    """How diffusers asks for nets of this shape."""
    widths = tuple(config.model_channels * mult for mult in config.channel_mult)
    found: dict[str, Any] = {
        "in_channels": 4, "block_out_channels": widths, "layers_per_block": 2,
        "cross_attention_dim": config.context_dim, "use_linear_projection": config.linear_projection,
    }  # fmt: skip
    heads = tuple(config.heads(width) for width in widths)
    if config.adm_channels is None:
        return found | {"attention_head_dim": heads}
    return found | {
        "attention_head_dim": heads, "transformer_layers_per_block": (1, 2, 3), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": config.adm_channels,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    }  # fmt: skip


def pair(config: UNetConfig) -> tuple[Any, Any]:
    """diffusers' U-Net and ControlNet."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    asked = arguments(config)
    up: dict[str, Any] = {}
    if config.adm_channels is not None:
        up = {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
    return UNet2DConditionModel(out_channels=4, **asked, **up).eval(), ControlNetModel(**asked).eval()


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_unet_with_a_controlnet_equals_diffusers(family: str, tmp_path: Path, test_seed: int) -> None:
    """Their file is read as users have it, in the diffusers layout."""
    config = {"SD1": SD1, "SD2": SD2, "SDXL": SDXL}[family]
    generator = torch.Generator().manual_seed(test_seed)
    unet: Any = randomise(UNet(config), generator)
    their_unet, theirs = pair(config)
    state = unet.state_dict()
    levels = len(config.channel_mult)
    attended = range(levels - 1) if config.adm_channels else range(1, levels)

    def name(key: str) -> str:
        if key.startswith("add_embedding.linear_"):
            return f"label_emb.0.{0 if '_1.' in key else 2}.{key.rpartition('.')[2]}"
        return unet_key(key, 2, attended)

    their_unet.load_state_dict(translated(their_unet.state_dict(), name, state.__getitem__))
    for parameter in theirs.parameters():  # the zero convolutions too
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 / fan_in) ** 0.5
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, path)
    facts = read_control(path)
    assert facts.fits(vars(config))
    control, component = control_blueprint(facts, config)
    with open_header(facts.header) as file:
        fill(control, file, component, torch.device("cpu"), torch.float32)

    x = torch.randn(2, 4, 16, 24, generator=generator)
    context = torch.randn(2, 77, config.context_dim, generator=generator)
    hint = torch.rand(2, 3, 128, 192, generator=generator)
    t = torch.tensor([3.0, 801.0])
    y, added = None, None
    if config.adm_channels:
        pooled, ids = torch.randn(2, 80, generator=generator), torch.randint(0, 900, (2, 6), generator=generator)
        y = torch.cat([pooled, timestep_embedding(ids.flatten(), 8).view(2, -1)], dim=1)
        added = {"text_embeds": pooled, "time_ids": ids}
    with torch.inference_mode():
        found = control(x, control.looked(hint), t, context, y)
        down, middle = theirs(x, t, context, hint, 1.0, added_cond_kwargs=added, return_dict=False)
        assert len(found.skips) == len(down) == (9 if config.adm_channels else 12)
        for mine, other in zip((*found.skips, found.middle), (*down, middle)):
            assert relative(mine, other) < 1e-4
        answer = unet(x, t, context, y, control=found)
        expected = their_unet(
            x, t, context, added_cond_kwargs=added, down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample  # fmt: skip
        assert relative(answer, expected) < 1e-4
        assert relative(unet(x, t, context, y), expected) > 0.05


def test_residuals_count_as_they_are_told_to(test_seed: int) -> None:
    net: Any = randomise(ControlNet(SD1), torch.Generator().manual_seed(test_seed))
    x, hint = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        found = net(x, net.looked(hint), torch.tensor([500.0]), torch.zeros(1, 77, 48))
    scales = [0.825 ** (12 - i) for i in range(13)]
    less = scaled(found, scales, pooled=False)
    assert torch.equal(less.middle, found.middle)
    assert torch.equal(less.skips[0], found.skips[0] * 0.825**12)
    pooled = scaled(found, [2.0] * 13, pooled=True)
    torch.testing.assert_close(pooled.skips[3], 2 * found.skips[3].mean(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize("size", ["mid", "small"])
def test_smaller_nets_of_sdxl_equal_diffusers(size: str, tmp_path: Path, test_seed: int) -> None:
    """As published: one transformer a block instead of ten, or none at all and half a middle; they fit all the same."""
    from diffusers import ControlNetModel

    generator = torch.Generator().manual_seed(test_seed)
    asked: dict[str, Any] = arguments(SDXL) | {"transformer_layers_per_block": (0, 1, 1)}
    if size == "small":
        asked |= {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
    theirs: Any = ControlNetModel(**asked).eval()
    for parameter in theirs.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 / fan_in) ** 0.5
    path = tmp_path / f"{size}.safetensors"
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, path)
    facts = read_control(path)
    assert facts.fits(vars(SDXL))
    assert facts.config["middle_depth"] == (1 if size == "mid" else None)
    control, component = control_blueprint(facts, SDXL)
    with open_header(facts.header) as file:
        fill(control, file, component, torch.device("cpu"), torch.float32)
    x, hint = torch.randn(1, 4, 16, 16, generator=generator), torch.rand(1, 3, 128, 128, generator=generator)
    context, t = torch.randn(1, 77, 64, generator=generator), torch.tensor([301.0])
    pooled, ids = torch.randn(1, 80, generator=generator), torch.randint(0, 900, (1, 6), generator=generator)
    y = torch.cat([pooled, timestep_embedding(ids.flatten(), 8).view(1, -1)], dim=1)
    with torch.inference_mode():
        found = control(x, control.looked(hint), t, context, y)
        added = {"text_embeds": pooled, "time_ids": ids}
        down, middle = theirs(x, t, context, hint, 1.0, added_cond_kwargs=added, return_dict=False)
    for mine, other in zip((*found.skips, found.middle), (*down, middle), strict=True):
        assert relative(mine, other) < 1e-4


def test_a_net_without_transformers_has_its_middle(test_seed: int) -> None:
    """Nothing is between the two blocks of the middle, which keep their numbers."""
    config = UNetConfig(
        model_channels=32, channel_mult=(1, 2, 4), input_depths=(0,) * 6, middle_depth=0, adm_channels=32,
        linear_projection=True,
    )  # fmt: skip
    net: Any = randomise(ControlNet(config), torch.Generator().manual_seed(test_seed))
    assert {key.split(".")[1] for key in net.state_dict() if key.startswith("middle_block.")} == {"0", "2"}
    with torch.inference_mode():
        found = net(
            torch.randn(1, 4, 9, 7), net.looked(torch.rand(1, 3, 72, 56)), torch.tensor([9.0]), torch.zeros(1, 1, 1),
            torch.zeros(1, 32),
        )  # fmt: skip
    assert [skip.shape[-2:] for skip in found.skips][:4] == [(9, 7), (9, 7), (9, 7), (5, 4)]
