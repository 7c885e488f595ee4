"""Which key of an LDM file holds which weight of a diffusers net (layout formulas, any number of levels)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_key(key: str, per_level: int, attention_levels: Iterable[int]) -> str:
    """diffusers' name → LDM's. `attention_levels`: the output-side levels (0 = lowest) that have transformers."""
    stem, _, leaf = key.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{leaf}"
    side, rest = key.split(".", 1)
    if side == "mid_block":
        part, index, tail = rest.split(".", 2)
        return f"middle_block.1.{tail}" if part == "attentions" else f"middle_block.{int(index) * 2}.{_resnet(tail)}"
    level, part, index, tail = re.fullmatch(r"(\d+)\.(\w+)\.(\d+)\.(.+)", rest).groups()  # type: ignore[union-attr]
    level, index = int(level), int(index)
    if side == "down_blocks":
        if part == "downsamplers":
            return f"input_blocks.{(level + 1) * (per_level + 1)}.0.op.{leaf}"
        block = f"input_blocks.{1 + level * (per_level + 1) + index}"
    elif part == "upsamplers":
        place = 2 if level in attention_levels else 1
        return f"output_blocks.{level * (per_level + 1) + per_level}.{place}.conv.{leaf}"
    else:
        block = f"output_blocks.{level * (per_level + 1) + index}"
    return f"{block}.1.{tail}" if part == "attentions" else f"{block}.0.{_resnet(tail)}"


def _resnet(tail: str) -> str:
    name, leaf = tail.split(".")
    return f"{_RESNET[name]}.{leaf}"


def vae_key(key: str, levels: int) -> str:
    """diffusers' name → LDM's, whose decoder counts its levels the other way round."""
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    for theirs, ours in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = key.replace(f"mid_block.attentions.0.{theirs}", f"mid.attn_1.{ours}")
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def translated(
    theirs: Mapping[str, Tensor], name: Callable[[str], str], ours: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    """A diffusers state dict with the values of ours (1x1 convolutions become linear layers where theirs are)."""
    return {key: ours(name(key)).reshape(value.shape) for key, value in theirs.items()}


def vae_arguments(widths: tuple[int, ...]) -> dict[str, Any]:
    """What makes a diffusers AutoencoderKL of SD 1's shape."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": 4,
    }
