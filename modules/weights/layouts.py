"""Other programs' names for the same tensors: how the keys of diffusers and of Hugging Face's CLIP are called in LDM.

Pure functions from key to key, from a file's own keys (so any number of blocks will do). What they cannot say with a
name alone, a `Move` says: three tensors that become one, a matrix that is stored the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

UNET = "model.diffusion_model."
VAE = "first_stage_model."


@dataclass(frozen=True)
class Move:
    """The LDM tensor `name` is made of the tensors `keys`, one upon the other along the first dimension.

    `transposed`: stored as its transpose. `square`: a matrix (c, c) that LDM keeps as a 1x1 convolution (c, c, 1, 1).
    """

    name: str
    keys: tuple[str, ...]
    transposed: bool = False
    square: bool = False


_UNET_HEADS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def is_diffusers_unet(keys: Iterable[str]) -> bool:
    found = set(keys)
    return "conv_in.weight" in found and any(key.startswith("down_blocks.0.resnets.0.") for key in found)


def is_diffusers_vae(keys: Iterable[str]) -> bool:
    return "decoder.up_blocks.0.resnets.0.norm1.weight" in set(keys)


def unet_moves(keys: Iterable[str]) -> list[Move]:
    """The keys of a diffusers U-Net under their LDM names (without prefix)."""
    keys = list(keys)
    found = set(keys)
    first = (m for m in map(_BLOCK.match, keys) if m and m[1] == "down" and m[2] == "0" and m[3] == "resnets")
    per_level = len({m[4] for m in first})
    moves = []
    for key in keys:
        name = _unet_name(key, per_level, found)
        if name:
            moves.append(Move(name, (key,)))
    return moves


def _unet_name(key: str, per_level: int, found: set[str]) -> str | None:
    head, _, tail = key.rpartition(".")
    if head in _UNET_HEADS:
        return f"{_UNET_HEADS[head]}.{tail}"
    middle = _MIDDLE.fullmatch(key)
    if middle:
        kind, index, rest = middle[1], int(middle[2]), middle[3]
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * index}.{_renamed(rest, _RESNET)}"
    block = _BLOCK.fullmatch(key)
    if not block:
        return None
    way, level, kind, index, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    first = level * (per_level + 1) + index
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (per_level + 1)}.0.{rest.replace('conv.', 'op.', 1)}"
    if kind == "upsamplers":
        attended = any(k.startswith(f"up_blocks.{level}.attentions.{per_level}.") for k in found)
        return f"output_blocks.{level * (per_level + 1) + per_level}.{2 if attended else 1}.{rest}"
    place = f"input_blocks.{1 + first}" if way == "down" else f"output_blocks.{first}"
    return f"{place}.1.{rest}" if kind == "attentions" else f"{place}.0.{_renamed(rest, _RESNET)}"


_CONTROL = re.compile(r"controlnet_(?:cond_embedding\.(conv_in|conv_out|blocks\.(\d+))|down_blocks\.(\d+)|mid_block)\.")


def is_diffusers_control(keys: Iterable[str]) -> bool:
    return "controlnet_cond_embedding.conv_in.weight" in set(keys)


def control_moves(keys: Iterable[str]) -> list[Move]:
    """The keys of a diffusers ControlNet under their LDM names (without prefix)."""
    keys = list(keys)
    blocks = len({m[2] for m in map(_CONTROL.match, keys) if m and m[2]})
    moves = unet_moves(keys)
    for key in keys:
        match = _CONTROL.match(key)
        if match is None:
            continue
        part, block, level = match.groups()
        if part:
            number = 0 if part == "conv_in" else 2 * (blocks + 1) if part == "conv_out" else 2 * (int(block) + 1)
            place = f"input_hint_block.{number}"
        else:
            place = f"zero_convs.{level}.0" if level else "middle_block_out.0"
        moves.append(Move(f"{place}.{key[match.end() :]}", (key,)))
    return moves


_VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "query": "q", "key": "k", "value": "v",
    "to_out.0": "proj_out", "proj_attn": "proj_out",
}  # fmt: skip
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_SHORTCUT = {"conv_shortcut": "nin_shortcut"}


def vae_moves(keys: Iterable[str]) -> list[Move]:
    """The keys of a diffusers autoencoder under their LDM names (without prefix)."""
    keys = list(keys)
    levels = len({m[2] for m in map(_VAE_BLOCK.match, keys) if m and m[1] == "decoder"})
    moves = []
    for key in keys:
        block, middle = _VAE_BLOCK.fullmatch(key), _VAE_MIDDLE.fullmatch(key)
        if block:
            side, level, kind, index, rest = block[1], int(block[2]), block[3], block[4], block[5]
            level = levels - 1 - level if side == "decoder" else level
            place = f"{side}.{'up' if side == 'decoder' else 'down'}.{level}"
            if kind == "resnets":
                moves.append(Move(f"{place}.block.{index}.{_renamed(rest, _SHORTCUT)}", (key,)))
            else:
                moves.append(Move(f"{place}.{kind.removesuffix('rs')}.{rest}", (key,)))
        elif middle and middle[2] == "resnets":
            moves.append(Move(f"{middle[1]}.mid.block_{int(middle[3]) + 1}.{_renamed(middle[4], _SHORTCUT)}", (key,)))
        elif middle:
            name = f"{middle[1]}.mid.attn_1.{_renamed(middle[4], _VAE_ATTENTION)}"
            moves.append(Move(name, (key,), square=key.endswith(".weight") and "group_norm" not in key))
        elif key.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")):
            moves.append(Move(key.replace("conv_norm_out", "norm_out"), (key,)))
    return moves


_TOWER = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_TEXT_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def is_clip_text(keys: Iterable[str]) -> bool:
    found = set(keys)
    return any(f"{head}encoder.layers.0.self_attn.q_proj.weight" in found for head in ("text_model.", ""))


def clip_moves(keys: Iterable[str]) -> list[Move]:
    """The keys of a Hugging Face CLIP text model as SD1 and SDXL name those of CLIP-L (the prefix is not added)."""
    return [Move(key, (key,)) for key in keys if key.startswith("text_model.") and not key.endswith(".position_ids")]


def open_clip_moves(keys: Iterable[str], layers: int = 0) -> list[Move]:
    """The keys of a Hugging Face CLIP text model under open_clip's names.

    `layers`: how many the tower must have; where the file has one less, its last stands twice.
    """
    moves, depth = [], 0
    for key in keys:
        layer = _TEXT_LAYER.fullmatch(key)
        if key in _TOWER:
            moves.append(Move(_TOWER[key], (key,)))
        elif key == "text_projection.weight":
            moves.append(Move("text_projection", (key,), transposed=True))
        elif layer:
            depth = max(depth, int(layer[1]) + 1)
            moves += _layer_move(key, layer[1], layer[2], layer[3])
    # diffusers leaves the last layer of SD 2's tower out, since only the last but one is ever read. With the last one
    # twice, "last but one" is the right layer again.
    if depth and depth == layers - 1:
        last, more = f"transformer.resblocks.{depth - 1}.", f"transformer.resblocks.{depth}."
        moves += [Move(more + m.name[len(last) :], m.keys) for m in moves if m.name.startswith(last)]
    return moves


def _layer_move(key: str, number: str, part: str, tail: str) -> list[Move]:
    place = f"transformer.resblocks.{number}."
    if part in _LAYER:
        return [Move(f"{place}{_LAYER[part]}.{tail}", (key,))]
    if part == "self_attn.q_proj":  # speaks for all three
        three = tuple(key.replace("q_proj", f"{letter}_proj") for letter in "qkv")
        return [Move(f"{place}attn.in_proj_{tail}", three)]
    return []


def _renamed(rest: str, names: dict[str, str]) -> str:
    head, _, tail = rest.rpartition(".")
    return f"{names.get(head, head)}.{tail}"
