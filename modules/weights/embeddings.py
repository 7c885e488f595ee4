"""Textual inversion files: words that stand for rows of a text encoder's input (Gal et al., arXiv:2208.01618).

| file | rows |
|---|---|
| .pt of A1111 and the original code | `string_to_param`: one tensor (n, d) |
| .bin, .pt of diffusers | one tensor (d) or (n, d) under the word itself |
| .safetensors | one tensor under any name; of SDXL `clip_l` (n, 768) and `clip_g` (n, 1280) |
| list of dicts, as some trainers write | the tensors, laid one upon the other |
| picture (.png, .webp, …) | the first form as JSON (`imaging.embedded` reads it) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.schema.errors import BadFile
from modules.weights.reading import open_model

MAX_ROWS = 10_000
PAIR = {"clip_l", "clip_g"}


@dataclass(frozen=True, eq=False)
class Embedding:
    """`rows`: by tower name, where the file says ("clip_l", "clip_g"), else one entry under "": [n, width] float32."""

    name: str
    rows: Mapping[str, Tensor]

    @property
    def vectors(self) -> int:
        return min(rows.shape[0] for rows in self.rows.values())

    def for_towers(self, names: tuple[str, ...], widths: tuple[int, ...]) -> dict[str, Tensor] | None:
        """The rows by the names of a model's towers; None where they fit other towers.

        A file that names no tower fits a model with one, if of its width; one that names two needs both.
        """
        if "" in self.rows:
            found = {names[0]: self.rows[""]} if len(names) == 1 else {}
        else:
            found = dict(self.rows) if set(self.rows) == set(names) else {}
        if set(found) != set(names) or any(found[name].shape[1] != width for name, width in zip(names, widths)):
            return None
        return found


def open_embedding(path: Path, name: str | None = None) -> Embedding:
    """Read an embedding file other than a picture; its name is the file's.

    Raises:
        BadFile: it is damaged, or holds something else.
    """
    with open_model(path) as file:
        tensors = {
            key: tensor.to(torch.float32).clone() for key, tensor in file.tensors() if tensor.is_floating_point()
        }
    return from_tensors(name or path.stem, tensors, path.name)


def from_json(said: Mapping[str, Any], where: str, otherwise: str) -> Embedding:
    """An embedding from what a picture carries; its name is written there, else it is `otherwise`. Raises BadFile."""
    params = said.get("string_to_param")
    if not isinstance(params, dict):
        raise BadFile(f"{where} carries no readable embedding (it names no rows); get it again from its source.")
    tensors = {}
    for key, value in params.items():
        nested = value.get("TORCHTENSOR") if isinstance(value, dict) else None
        try:
            tensors[f"string_to_param.{str(key).replace('.', '_')}"] = torch.tensor(nested, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise BadFile(f"{where} carries rows that are no numbers; get it again from its source.") from None
    return from_tensors(str(said.get("name") or otherwise), tensors, where)


def from_tensors(name: str, tensors: Mapping[str, Tensor], where: str) -> Embedding:
    """An embedding from the tensors of a file, whichever form it has. Raises BadFile; `where` is its file's name."""
    params = {key: tensor for key, tensor in tensors.items() if key.startswith("string_to_param.")}
    found = params or {key: tensor for key, tensor in tensors.items() if not key.startswith("string_to_token")}
    rows = {key.rpartition(".")[2]: _rows(tensor, where) for key, tensor in found.items()}
    rows = {key: tensor for key, tensor in rows.items() if key != "t5xxl"}
    if PAIR & set(rows):
        return Embedding(name, {key: tensor for key, tensor in rows.items() if key in PAIR})
    if not rows:
        raise BadFile(f"{where} is no embedding: it holds no rows of numbers.")
    if len(rows) > 1:
        in_list = all(key.split(".")[0].isdigit() for key in found)
        if not in_list or len({tensor.shape[1] for tensor in rows.values()}) != 1:
            raise BadFile(f"{where} is no embedding: it holds {len(rows)} tensors, and an embedding is one.")
    return Embedding(name, {"": torch.cat([_rows(tensor, where) for tensor in found.values()])})


def _rows(tensor: Tensor, where: str) -> Tensor:
    """[n, d] float32."""
    if tensor.dim() == 1:
        tensor = tensor[None]
    if tensor.dim() != 2 or not 0 < tensor.shape[0] <= MAX_ROWS or not 0 < tensor.shape[1] <= MAX_ROWS:
        raise BadFile(f"{where} is no embedding: it holds a tensor of the shape {list(tensor.shape)}.")
    if not torch.isfinite(tensor).all():
        raise BadFile(f"{where} is damaged: some of its numbers are not finite; get it again from its source.")
    return tensor.float()
