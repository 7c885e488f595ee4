"""Checkpoints merged into a new one, tensor by tensor, so that memory holds one of each and no more.

    recipe = Recipe("Weighted sum", 0.3)
    made = plan(recipe, a.header, b.header)         # BadRequest here costs nothing: no weight has been read
    for chunk in made.chunks([a, b]): ...           # the bytes of a safetensors file

Rules are A1111's: the keys are those of A; one takes part if its name contains "model" and B has it; with "Add
difference" a key that C lacks adds nothing; where A has 9 (inpainting) or 8 (instruct-pix2pix) input channels and the
others 4, the first four are merged. The arithmetic is in float32, each result in A's number type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from torch import Tensor

from modules.schema.errors import BadRequest
from modules.weights import assembly
from modules.weights.headers import BITS, Header, TensorInfo
from modules.weights.reading import DTYPES, ModelFile

Method = Literal["Weighted sum", "Add difference", "No interpolation"]
VAE = "first_stage_model."
NEVER_MERGED = "cond_stage_model.transformer.text_model.embeddings.position_ids"
WIDER = {9: "inpainting", 8: "instruct-pix2pix"}
CHUNK = 64 * 2**20


@dataclass(frozen=True)
class Recipe:
    """`half`: float32 tensors are written in float16. `discard`: keys this expression is found in are left out."""

    method: Method = "No interpolation"
    multiplier: float = 0.0
    half: bool = False
    discard: str = ""


@dataclass(frozen=True)
class Merge:
    """What will be written: number type and shape per key, and which keys take part. `kind`: "inpainting",
    "instruct-pix2pix" or ""; `size` in bytes."""

    recipe: Recipe
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    merged: frozenset[str]
    baked: Mapping[str, TensorInfo] = field(default_factory=dict)
    kind: str = ""

    @property
    def size(self) -> int:
        return sum(prod(shape) * BITS[dtype] // 8 for dtype, shape in self.tensors.values())

    def chunks(
        self, files: Sequence[ModelFile], vae: ModelFile | None = None, metadata: Mapping[str, str] | None = None
    ) -> Iterator[memoryview | bytes]:
        """The bytes of the new file. `files`: A, B and C as far as the method asks for them; `vae`: to bake in."""
        yield self._header(metadata or {})
        for key, (dtype, shape) in self.tensors.items():
            value = self._value(key, files, vae).to(DTYPES[dtype]).reshape(shape).contiguous()
            if value.numel():
                data = value.reshape(-1).view(torch.uint8).numpy().data
                yield from (data[place : place + CHUNK] for place in range(0, len(data), CHUNK))

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        place = 0
        for key, (dtype, shape) in self.tensors.items():
            end = place + prod(shape) * BITS[dtype] // 8
            entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": (place, end)}
            place = end
        raw = json.dumps(entries, ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)  # tensors begin at multiples of 8, so that they can be mapped
        return len(raw).to_bytes(8, "little") + raw

    def _value(self, key: str, files: Sequence[ModelFile], vae: ModelFile | None) -> Tensor:
        if vae is not None and key in self.baked:
            return vae.tensor(key)
        a = files[0].tensor(key)
        if key not in self.merged:
            return a
        m, b = self.recipe.multiplier, files[1].tensor(key).to(torch.float32)
        whole = a.to(torch.float32)
        part = whole[:, : b.shape[1]] if a.shape != b.shape else whole
        if self.recipe.method == "Weighted sum":
            mixed = (1 - m) * part + m * b
        else:
            c = files[2].header.tensors.get(key)
            mixed = part + m * (b - files[2].tensor(key).to(torch.float32)) if c else part
        if a.shape == b.shape:
            return mixed
        return torch.cat([mixed, whole[:, b.shape[1] :]], dim=1)


def plan(
    recipe: Recipe, a: Header, b: Header | None = None, c: Header | None = None, vae: Header | None = None
) -> Merge:
    """What a merge will give, from headers alone.

    Raises:
        BadRequest: the models do not fit together, the expression is none, or a model is missing.
    """
    if recipe.method != "No interpolation" and b is None:
        raise BadRequest(f"{recipe.method} needs a secondary model (B); choose one.", field="secondary_model_name")
    if recipe.method == "Add difference" and c is None:
        raise BadRequest("Add difference needs a tertiary model (C); choose one.", field="tertiary_model_name")
    unwanted = _expression(recipe.discard)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    merged, kind = set(), ""
    for key, info in a.tensors.items():
        if _is_scale(a, key) or (unwanted and unwanted.search(key)):
            continue
        other = b.tensors.get(key) if b and recipe.method != "No interpolation" else None
        floating = info.dtype[0] in "FB" and info.dtype != "BOOL"
        if other and "model" in key and key != NEVER_MERGED and floating and other.dtype != "BOOL":
            assert b is not None
            kind = _fits(key, a, info, b, other) or kind
            if c and recipe.method == "Add difference" and key in c.tensors and c.tensors[key].shape != other.shape:
                raise _misfit(key, c, c.tensors[key].shape, b, other.shape)
            merged.add(key)
        # A scaled 8-bit weight comes multiplied out; in 8 bits again it would be another number.
        dtype = "F16" if info.dtype.startswith("F8_") and _scale(a, key) else info.dtype
        tensors[key] = ("F16" if recipe.half and dtype == "F32" else dtype, info.shape)
    baked = {}
    if vae is not None:
        theirs = assembly.vae_tensors(vae)
        baked = {key: info for key, info in theirs.items() if key in tensors}
        for key, info in baked.items():
            if info.shape != tensors[key][1]:
                raise _misfit(key, a, tensors[key][1], vae, info.shape)
            tensors[key] = ("F16" if recipe.half and info.dtype == "F32" else info.dtype, info.shape)
    if not tensors:
        raise BadRequest("Nothing would be left: the expression discards every tensor.", field="discard_weights")
    return Merge(recipe, tensors, frozenset(merged), baked, kind)


def name_of(recipe: Recipe, a: str, b: str = "", c: str = "") -> str:
    """The name A1111 gives a merge."""
    m = round(recipe.multiplier, 2)
    if recipe.method == "Weighted sum":
        return f"{round(1 - m, 2)}({a}) + {m}({b})"
    return f"{a} + {m}({b} - {c})" if recipe.method == "Add difference" else a


def _expression(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern else None
    except (re.error, RecursionError, OverflowError) as error:
        raise BadRequest(f"{pattern!r:.80} is no regular expression: {error}.", field="discard_weights") from None


def _fits(key: str, a: Header, mine: TensorInfo, b: Header, theirs: TensorInfo) -> str:
    """What the model becomes by a wider first layer ("" for nothing); BadRequest where shapes do not fit."""
    if mine.shape == theirs.shape:
        return ""
    if len(mine.shape) == len(theirs.shape) >= 2 and (mine.shape[0], *mine.shape[2:]) == (
        theirs.shape[0],
        *theirs.shape[2:],
    ):
        if theirs.shape[1] == 4 and mine.shape[1] in WIDER:
            return WIDER[mine.shape[1]]
        if mine.shape[1] == 4 and theirs.shape[1] in WIDER:
            raise BadRequest(
                f"{b.path.name} is an {WIDER[theirs.shape[1]]} model and {a.path.name} is not; choose it as model A.",
                field="primary_model_name",
            )
    raise _misfit(key, a, mine.shape, b, theirs.shape)


def _misfit(key: str, a: Header, mine: tuple[int, ...], b: Header, theirs: tuple[int, ...]) -> BadRequest:
    return BadRequest(
        f"{a.path.name} and {b.path.name} are of different families: {key} is {list(mine)} in one, {list(theirs)} in "
        "the other; choose models of one family."
    )


def _scale(header: Header, key: str) -> TensorInfo | None:
    return header.tensors.get(key.removesuffix(".weight") + ".scale_weight") if key.endswith(".weight") else None


def _is_scale(header: Header, key: str) -> bool:
    """Whether a key only belongs to scaled 8-bit weights, which the new file does not hold."""
    if key.endswith((".scale_weight", ".scale_input")):
        return key.rpartition(".")[0] + ".weight" in header.tensors
    return key.rpartition(".")[2] == "scaled_fp8"
