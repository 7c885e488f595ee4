"""Which layer of the loaded nets a key of an adapter file means, whoever's names it uses.

The map is made from the nets themselves: each layer is entered under every name programs call it by, so any number of
blocks will do and nothing is parsed back out of underscores. Names are flat (dots become underscores) and have a
scope, the net:

| scope | names |
|---|---|
| unet | LDM's path, and diffusers' path (`down_blocks_0_attentions_0_...`) |
| te1, te2 | Hugging Face CLIP's path (`text_model_encoder_layers_0_self_attn_q_proj`); `te` where there is one tower |

A key is taken apart into (scope, name, part) by `split_key`:

| who | example |
|---|---|
| kohya, LyCORIS | `lora_unet_<name>.lora_down.weight`, `lora_te1_<name>.alpha`, `oft_unet_...`, `lycoris_...` |
| diffusers | `unet.<path>.attn1.processor.to_q_lora.up.weight`, `text_encoder.<p>.q_proj.lora_linear_layer.up.weight` |
| PEFT | `unet.<path>.lora_A.weight`, `base_model.model.<path>.lora_B.default.weight`, `....lora_magnitude_vector` |
| LDM, ComfyUI | `diffusion_model.<path>.lora_up.weight`, `text_encoders.clip_l.transformer.<path>.lora_up.weight` |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from modules.nets.unet import Downsample, ResBlock, SpatialTransformer, UNet, Upsample
from modules.weights.adapters.table import PART_NAMES

# ------------------------------------------------------------------------------------------------ keys of a file

_FLAT = re.compile(r"(?:lora|oft|lycoris)_(unet|te[12]?)_")
_RENAMED_PARTS = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_A.default.weight": "lora_down.weight",
    "lora_B.default.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
    "lora_magnitude_vector.default.weight": "lora_magnitude_vector",
}
_DOTTED_PARTS = {name: name for name in PART_NAMES if name != "weight"} | _RENAMED_PARTS
_DOTTED = re.compile(
    r"(.+?)(?:\.|_(?=lora\.(?:up|down)\.))("
    + "|".join(map(re.escape, sorted(_DOTTED_PARTS, key=len, reverse=True)))
    + ")"
)
_SCOPES = {
    "unet.": "unet", "model.diffusion_model.": "unet", "diffusion_model.": "unet",
    "text_encoder.": "te1", "text_encoder_2.": "te2",
    "text_encoders.clip_l.transformer.": "te1", "text_encoders.clip_h.transformer.": "te1",
    "text_encoders.clip_g.transformer.": "te2",
}  # fmt: skip


@dataclass(frozen=True)
class LayerName:
    """A layer as a file calls it. `scope` "" means: the U-Net, or else the first text encoder."""

    scope: str
    name: str

    def __str__(self) -> str:
        return f"{self.scope}_{self.name}" if self.scope else self.name


@lru_cache(1 << 16)
def split_key(key: str) -> tuple[LayerName, str] | None:
    """(layer, part under kohya's or LyCORIS's name) of a key of an adapter file; None where it is none.

    >>> split_key("unet.mid_block.attentions.0.proj_in.lora_A.weight")
    (LayerName(scope='unet', name='mid_block_attentions_0_proj_in'), 'lora_down.weight')
    """
    flat = _FLAT.match(key)
    if flat or key.startswith("lycoris_"):
        name, _, part = key.partition(".")
        part = _RENAMED_PARTS.get(part, part)
        if part not in PART_NAMES:
            return None
        if flat:
            return LayerName(flat[1], name[flat.end() :]), part
        return LayerName("", name.removeprefix("lycoris_")), part
    dotted = _DOTTED.fullmatch(key)
    if dotted is None:
        return None
    path, part = dotted[1].removeprefix("base_model.model."), _DOTTED_PARTS[dotted[2]]
    scope = ""
    for prefix, net in _SCOPES.items():
        if path.startswith(prefix):
            scope, path = net, path[len(prefix) :]
            break
    path = path.replace(".processor.", ".")
    if path.endswith("attn1.to_out") or path.endswith("attn2.to_out"):  # diffusers' processors leave the index out
        path += ".0"
    path = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path) if ".self_attn." in path else path
    return LayerName(scope, path.replace(".", "_")), part


# ------------------------------------------------------------------------------------------------ layers of the nets

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A layer of a loaded net: `net` is "unet", or a text encoder, "te1" or "te2"; `path` as in `named_modules`."""

    net: str
    path: str

    @property
    def is_text(self) -> bool:
        return self.net != "unet"


Keymap = Mapping[LayerName, Target]


def keymap(unet: UNet, towers: Sequence[nn.Module]) -> Keymap:
    """Every name of every layer with weights."""
    found: dict[LayerName, Target] = {}

    def enter(scope: str, name: str, target: Target) -> None:
        found.setdefault(LayerName(scope, name.replace(".", "_")), target)

    renamed = diffusers_names(unet)
    for path, module in unet.named_modules():
        if _has_weight(module):
            for name in dict.fromkeys((path, renamed.get(path, path))):
                enter("unet", name, Target("unet", path))
                enter("", name, Target("unet", path))
    for number, tower in enumerate(towers, 1):
        for path, module in tower.named_modules():
            if _has_weight(module):
                target = Target(f"te{number}", path)
                name = path if path == "text_projection" else f"text_model.{path}"
                for scope in (f"te{number}", *(("te",) if len(towers) == 1 else ()), ""):
                    enter(scope, name, target)
    return found


def diffusers_names(unet: UNet) -> dict[str, str]:
    """LDM path of a layer -> its diffusers path, for the layers that are called differently there."""
    per_level = unet.config.num_res_blocks
    found = dict(_ENDS)
    for side, stages in (("input", unet.input_blocks), ("output", unet.output_blocks)):
        for number, stage in enumerate(stages):
            if side == "input":
                level, index = divmod(number - 1, per_level + 1)
            else:
                level, index = divmod(number, per_level + 1)
            block = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
            if number or side == "output":
                _enter_stage(found, f"{side}_blocks.{number}", stage, block, index)
    _enter_stage(found, "middle_block", unet.middle_block, "mid_block", 0)
    return found


def _enter_stage(found: dict[str, str], path: str, stage: nn.Module, block: str, index: int) -> None:
    resnets = 0
    for position, child in stage.named_children():
        here = f"{path}.{position}"
        if isinstance(child, ResBlock):
            place = f"{block}.resnets.{index + resnets}"
            found |= {f"{here}.{own}": f"{place}.{theirs}" for own, theirs in _RESNET.items()}
            resnets += 1
        elif isinstance(child, SpatialTransformer):
            for inner, module in child.named_modules():
                if _has_weight(module):
                    found[f"{here}.{inner}"] = f"{block}.attentions.{index}.{inner}"
        elif isinstance(child, Downsample):
            found[f"{here}.op"] = f"{block}.downsamplers.0.conv"
        elif isinstance(child, Upsample):
            found[f"{here}.conv"] = f"{block}.upsamplers.0.conv"


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter)


# ------------------------------------------------------------------------------------------------ blocks

_BLOCK = re.compile(r"(input|middle|output)_block(?:s\.(\d+))?\.")


def block_of(target: Target) -> str:
    """The block a layer lies in, as block weights name it: BASE (text encoders), IN00, M00, OUT11; "" for the rest."""
    if target.is_text:
        return "BASE"
    match = _BLOCK.match(target.path)
    if match is None:
        return ""
    return "M00" if match[1] == "middle" else f"{'IN' if match[1] == 'input' else 'OUT'}{int(match[2]):02d}"
