"""Text towers in a checkpoint: which layout they are written in, and their sizes off tensor shapes.

Two layouts exist. Hugging Face's CLIPTextModel (below `transformer.`, files by NovelAI lack `text_model.`) is that of
the net itself; OpenCLIP's (below `model.`) has other names, query, key and value in one tensor, and the projection as
the matrix x is multiplied with. Heads are not in the weights: OpenAI's CLIP-L and OpenCLIP's towers have heads of 64
channels, small CLIP-L models of 32 unless their metadata (`easel.text_heads`) says how many.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from modules.weights.facts import Component, Part, TowerFacts
from modules.weights.families.shapes import Shapes, number
from modules.weights.headers import Header

VOCABULARY = 49408
POSITIONS = "embeddings.position_embedding.weight"
PROJECTION = "text_projection.weight"

_TOP = {
    "embeddings.token_embedding.weight": Part("token_embedding.weight"),
    POSITIONS: Part("positional_embedding"),
    "final_layer_norm.weight": Part("ln_final.weight"),
    "final_layer_norm.bias": Part("ln_final.bias"),
}
_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
_THIRDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class HuggingFace:
    """`inner` is "text_model." or nothing; the projection lies beside it."""

    inner: str

    def __call__(self, name: str) -> Part:
        return Part(name if name == PROJECTION else self.inner + name)


@dataclass(frozen=True)
class OpenClip:
    """`linear`: the projection was saved as the weight of a linear layer, already transposed."""

    linear: bool

    def __call__(self, name: str) -> Part:
        if name == PROJECTION:
            return Part(name) if self.linear else Part("text_projection", transposed=True)
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            return _TOP[name]
        layer, stem, leaf = match.groups()
        block = f"transformer.resblocks.{layer}."
        if stem in _THIRDS:
            return Part(f"{block}attn.in_proj_{leaf}", third=_THIRDS.index(stem))
        return Part(f"{block}{_LAYER[stem]}.{leaf}")


def find(header: Header, base: str) -> tuple[str, HuggingFace | OpenClip] | None:
    """(prefix, layout) of the tower below a key such as "cond_stage_model."; None where there is none."""
    opened = base + "model."
    if opened + "positional_embedding" in header.tensors:
        return opened, OpenClip(linear=opened + PROJECTION in header.tensors)
    for inner in ("text_model.", ""):
        if f"{base}transformer.{inner}{POSITIONS}" in header.tensors:
            return f"{base}transformer.", HuggingFace(inner)
    return None


def read(
    shape: Shapes,
    bases: tuple[str, ...],
    name: Literal["clip_l", "clip_h", "clip_g"],
    *,
    layer: int = 1,
    norm: bool = True,
    pooled: bool = False,
    clip_skip: Literal["always", "asked", "never"] = "never",
) -> TowerFacts:
    """The tower below the first of `bases` that has one; the rest is as in `TowerFacts`."""
    found = next((f for f in (find(shape.header, base) for base in bases) if f), None)
    if found is None:
        raise shape.odd(f"its text encoder has no {bases[0]}…{POSITIONS}")
    prefix, layout = found

    def at(own_name: str, dims: int) -> tuple[int, ...]:
        part = layout(own_name)
        sizes = shape(prefix + part.key, dims)
        return sizes[::-1] if part.transposed else sizes

    vocab, width = at("embeddings.token_embedding.weight", 2)
    if vocab != VOCABULARY:
        raise shape.odd(f"its text encoder knows {vocab:,} tokens, CLIP's vocabulary has {VOCABULARY:,}")
    positions = at(POSITIONS, 2)[0]
    if positions < 77:
        raise shape.odd(f"its text encoder has {positions} positions, 77 are needed")
    first_layer = layout("encoder.layers.0.layer_norm1.weight").key
    layers = shape.indices(prefix + first_layer[: first_layer.index("0.")])
    heads = _heads(shape, name, width)
    config: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "mlp": at("encoder.layers.0.mlp.fc1.weight", 2)[0],
        "activation": "quick_gelu" if name == "clip_l" else "gelu",
        "vocab": vocab,
        "positions": positions,
        "projection": at(PROJECTION, 2)[0] if pooled else None,
    }
    return TowerFacts(
        name=name,
        component=Component(prefix, config, layout),
        tokenizer="clip" if name == "clip_l" else "open_clip",
        layer=layer,
        norm=norm,
        pooled=pooled,
        clip_skip=clip_skip,
    )


def _heads(shape: Shapes, name: str, width: int) -> int:
    said = number(shape.header.metadata, "easel.text_heads") if name == "clip_l" else None
    dim = 32 if name == "clip_l" and width < 512 else 64
    heads = int(said or width // dim)
    if not heads or width % heads:
        raise shape.odd(f"a text width of {width} cannot be split into {heads} heads")
    return heads
