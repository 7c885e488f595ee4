"""Stable Diffusion 1.x: LDM U-Net, AutoencoderKL, CLIP-L text encoder; and small models in the same layout.

Rombach et al., arXiv:2112.10752. Every size is read off tensor shapes. Heads cannot be: the side-car decides, then the
file's own metadata (`easel.unet_head_dim`, `easel.text_heads`), then a rule:

| net | real size | small model |
|---|---|---|
| U-Net (1x1-convolution projections) | 8 heads | model_channels < 128: heads of 32 channels |
| text encoder | width >= 512: heads of 64 channels (768 -> 12) | heads of 32 channels (128 -> 4) |
| native size without metadata | 512x512 | 128x128 |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from modules.schema.errors import BadFile
from modules.weights.facts import Component, ModelFacts
from modules.weights.headers import Header, TensorInfo
from modules.weights.sidecar import SideCar

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
CLIP_VOCABULARY = 49408
SMALL = 128
"""Below this many model channels no SD 1.x release exists: the rule of the small models holds."""


def recognise(header: Header, sidecar: SideCar) -> ModelFacts | None:
    """The facts of an SD 1.x checkpoint, or None where the file has no LDM U-Net.

    Raises:
        BadFile: it has one, but a part is missing or its sizes fit no SD 1.x net.
    """
    if UNET + "input_blocks.0.0.weight" not in header.tensors:
        return None
    _complete(header)
    reader = _Shapes(header)
    unet = _unet(reader, header, sidecar)
    text = _text(reader, header)
    if unet["context_dim"] != text["width"]:
        raise reader.odd(
            f"its U-Net expects text {unet['context_dim']} wide, its text encoder makes it {text['width']}"
        )
    vae = _vae(reader)
    if vae["embed_dim"] != unet["in_channels"] or vae["in_channels"] != 3:
        raise reader.odd(f"its autoencoder has {vae['embed_dim']} latent channels, its U-Net {unet['in_channels']}")
    return ModelFacts(
        family="sd1",
        label="SD 1.x",
        unet=Component(UNET, unet),
        vae=Component(VAE, vae),
        text=Component(TEXT, text, _text_key),
        scale_factor=sidecar.scale_factor or 0.18215,
        prediction=sidecar.prediction or _prediction(header),
        resolution=_resolution(header.metadata, 512 if unet["model_channels"] >= SMALL else 128),
        cfg_scale=_number(header.metadata, "easel.default_cfg_scale"),
        warnings=sidecar.warnings,
    )


def _text_key(key: str) -> str:
    """Files by NovelAI lack `text_model.`."""
    return key.removeprefix("text_model.")


def _complete(header: Header) -> None:
    missing = [
        what
        for what, tail in (("text encoder", TEXT), ("autoencoder (VAE)", VAE))
        if not any(key.startswith(tail) for key in header.tensors)
    ]
    if missing:
        raise BadFile(
            f"{header.path.name} has a U-Net, but no {' and no '.join(missing)}; "
            "choose a checkpoint that holds all three in one file."
        )


class _Shapes:
    """Looks shapes up by key; a missing or odd one is a BadFile that names it."""

    def __init__(self, header: Header) -> None:
        self.name = header.path.name
        self.tensors = header.tensors
        self._children: dict[str, set[str]] = {}
        for key in header.tensors:
            for match in re.finditer(r"\.(\d{1,3})(?=\.)", key):
                self._children.setdefault(key[: match.start() + 1], set()).add(match[1])

    def odd(self, reason: str) -> BadFile:
        return BadFile(f"{self.name} looks like an SD 1.x checkpoint, but {reason}; get it again from its source.")

    def __call__(self, key: str, dims: int) -> tuple[int, ...]:
        info: TensorInfo | None = self.tensors.get(key)
        if info is None:
            raise self.odd(f"{key} is missing")
        if len(info.shape) != dims or 0 in info.shape:
            raise self.odd(f"{key} has the shape {list(info.shape)}")
        return info.shape

    def indices(self, prefix: str) -> int:
        """How many numbered children a key has: 3 for prefix.0 … prefix.2; a gap is odd."""
        found = self._children.get(prefix, set())
        if found != {str(n) for n in range(len(found))}:
            raise self.odd(f"the numbers behind {prefix} have gaps")
        return len(found)

    def groups(self, channels: int, where: str) -> int:
        if channels % 32:
            raise self.odd(f"{where} has {channels} channels, which 32 normalisation groups do not divide")
        return channels


def _unet(shape: _Shapes, header: Header, sidecar: SideCar) -> dict[str, Any]:
    model_channels, in_channels = shape(UNET + "input_blocks.0.0.weight", 4)[:2]
    shape.groups(model_channels, "the U-Net")
    blocks = shape.indices(UNET + "input_blocks.")

    widths: list[list[int]] = [[]]  # per level, per residual block
    depths: list[int] = []
    for n in range(1, blocks):
        block = f"{UNET}input_blocks.{n}."
        if block + "0.op.weight" in header.tensors:
            widths.append([])
            continue
        widths[-1].append(shape(block + "0.out_layers.3.weight", 4)[0])
        depths.append(shape.indices(block + "1.transformer_blocks."))
    per_level = len(widths[0])
    if not per_level or any(len(level) != per_level or len(set(level)) != 1 for level in widths):
        raise shape.odd("the levels of its U-Net are uneven")
    if any(level[0] % model_channels for level in widths):
        raise shape.odd("the widths of its U-Net are no multiples of its first")
    outputs = shape.indices(UNET + "output_blocks.")
    if outputs != len(widths) * (per_level + 1):
        raise shape.odd(f"its U-Net has {outputs} output blocks instead of {len(widths) * (per_level + 1)}")
    if UNET + "label_emb.0.0.weight" in header.tensors:
        raise shape.odd("its U-Net asks for a class vector")
    middle = shape.indices(UNET + "middle_block.1.transformer_blocks.")

    attention = [key for key in header.tensors if key.startswith(UNET) and key.endswith(".attn2.to_k.weight")]
    projections = [key for key in header.tensors if key.startswith(UNET) and key.endswith(".proj_in.weight")]
    if not attention or not projections:
        raise shape.odd("its U-Net has no cross-attention")
    config = {
        "in_channels": in_channels,
        "out_channels": shape(UNET + "out.2.weight", 4)[0],
        "model_channels": model_channels,
        "channel_mult": tuple(level[0] // model_channels for level in widths),
        "num_res_blocks": per_level,
        "input_depths": tuple(depths),
        "middle_depth": middle or None,
        "output_depths": tuple(shape.indices(f"{UNET}output_blocks.{n}.1.transformer_blocks.") for n in range(outputs)),
        "context_dim": shape(attention[0], 2)[1],
        "linear_projection": len(header.tensors[projections[0]].shape) == 2,
    }
    return config | _unet_heads(shape, header, sidecar, config)


def _unet_heads(shape: _Shapes, header: Header, sidecar: SideCar, config: dict[str, Any]) -> dict[str, int | None]:
    said = _number(header.metadata, "easel.unet_head_dim")
    if sidecar.num_heads:
        heads, dim = sidecar.num_heads, None
    elif sidecar.head_dim:
        heads, dim = None, sidecar.head_dim
    elif said:
        heads, dim = None, int(said)
    elif config["model_channels"] >= SMALL:
        heads, dim = 8, None
    else:
        heads, dim = None, 32
    for mult in config["channel_mult"]:
        channels = mult * config["model_channels"]
        if channels % (heads or dim or 1) or channels < (heads or dim or 1):
            parts = f"{heads} heads" if heads else f"heads of {dim}"
            raise shape.odd(f"{channels} channels cannot be split into {parts}")
    return {"num_heads": heads, "head_dim": dim}


def _vae(shape: _Shapes) -> dict[str, Any]:
    ch, in_channels = shape(VAE + "encoder.conv_in.weight", 4)[:2]
    shape.groups(ch, "the autoencoder")
    levels = shape.indices(VAE + "encoder.down.")
    if not 1 <= levels <= 8:
        raise shape.odd(f"its autoencoder has {levels} levels")
    widths = [shape(f"{VAE}encoder.down.{level}.block.0.conv2.weight", 4)[0] for level in range(levels)]
    if any(width % ch for width in widths):
        raise shape.odd("the widths of its autoencoder are no multiples of its first")
    return {
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": shape.indices(VAE + "encoder.down.0.block."),
        "z_channels": shape(VAE + "decoder.conv_in.weight", 4)[1],
        "embed_dim": shape(VAE + "post_quant_conv.weight", 4)[1],
        "in_channels": in_channels,
    }


def _text(shape: _Shapes, header: Header) -> dict[str, Any]:
    tower = TEXT + "text_model." if any(key.startswith(TEXT + "text_model.") for key in header.tensors) else TEXT
    vocab, width = shape(tower + "embeddings.token_embedding.weight", 2)
    if vocab != CLIP_VOCABULARY:
        raise shape.odd(f"its text encoder knows {vocab:,} tokens, CLIP's vocabulary has {CLIP_VOCABULARY:,}")
    positions = shape(tower + "embeddings.position_embedding.weight", 2)[0]
    if positions < 77:
        raise shape.odd(f"its text encoder has {positions} positions, 77 are needed")
    heads = int(_number(header.metadata, "easel.text_heads") or width // (64 if width >= 512 else 32))
    if not heads or width % heads:
        raise shape.odd(f"a text width of {width} cannot be split into {heads} heads")
    return {
        "width": width,
        "layers": shape.indices(tower + "encoder.layers."),
        "heads": heads,
        "mlp": shape(tower + "encoder.layers.0.mlp.fc1.weight", 2)[0],
        "vocab": vocab,
        "positions": positions,
    }


def _prediction(header: Header) -> str:
    said = header.metadata.get("modelspec.prediction_type", "")
    return "v" if said in ("v", "v_prediction") else "eps"


def _resolution(metadata: Mapping[str, str], otherwise: int) -> tuple[int, int]:
    """`modelspec.resolution` is "512x768" (or "512")."""
    match = re.fullmatch(r"(\d{2,5})(?:x(\d{2,5}))?", metadata.get("modelspec.resolution", "").strip())
    if match:
        width, height = int(match[1]), int(match[2] or match[1])
        if 64 <= min(width, height) <= max(width, height) <= 16384:
            return width, height
    return otherwise, otherwise


def _number(metadata: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(metadata.get(key, ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 < value <= 1000 else None
