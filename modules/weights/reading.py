"""The one door for model files: a checked header and tensors that are views of the mapped file.

For example:

    with open_model(path) as file:
        weight = file.tensor("model.diffusion_model.out.2.weight")   # no bytes are read before it is used
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.schema.errors import BadFile
from modules.weights.headers import Header, TensorInfo, read_header

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


class ModelFile:
    """An open model file. Its tensors keep the mapping alive, so they may outlive `close()`."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._map: mmap.mmap | None = None

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the mapping; the system unmaps it with the last tensor."""
        self._map = None

    def tensor(self, key: str) -> Tensor:
        """One tensor as a view of the file (pages are read when touched; writing to it changes only this process).

        Raises:
            KeyError: no tensor is called so.
            BadFile: the file can no longer be mapped.
        """
        return self._view(self.header.tensors[key])

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(key without the prefix, tensor) for every key that starts with `prefix`, one after the other."""
        for key, info in self.header.tensors.items():
            if key.startswith(prefix):
                yield key[len(prefix) :], self._view(info)

    def _view(self, info: TensorInfo) -> Tensor:
        dtype = DTYPES[info.dtype]
        if info.begin == info.end:
            return torch.empty(info.shape, dtype=dtype)
        data = self._mapped()
        if info.begin % dtype.itemsize == 0 and sys.byteorder == "little":
            count = (info.end - info.begin) // dtype.itemsize
            return torch.frombuffer(data, dtype=dtype, count=count, offset=info.begin).view(info.shape)
        raw = torch.frombuffer(data, dtype=torch.uint8, count=info.end - info.begin, offset=info.begin)
        if sys.byteorder == "big":
            raw = raw.view(-1, dtype.itemsize).flip(1)
        return raw.clone().view(dtype).view(info.shape)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            try:
                with self.header.path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise BadFile(f"{self.header.path.name} can no longer be read: {error}.") from None
            if len(mapped) != self.header.size:
                raise BadFile(f"{self.header.path.name} changed while it was being opened; try again.")
            self._map = mapped
        return self._map


def open_model(path: Path) -> ModelFile:
    """Open a model file for reading.

    Raises:
        BadFile: it is no intact safetensors file; the sentence says what it is and what to do.
    """
    return ModelFile(read_header(path))
