"""The one door for model files: a checked header and tensors that are views of the mapped file.

Pickles go through torch's restricted reader (`weights_only=True`, mapped where the file is a zip archive), after
`weights.pickles` has followed them without executing anything, and only if both find the very same tensors. Names
beyond those the reader knows by itself get an empty stand-in. There is no other way in, and no fallback.

For example:

    with open_model(path) as file:
        weight = file.tensor("model.diffusion_model.out.2.weight")   # no bytes are read before it is used
"""

from __future__ import annotations

import errno
import mmap
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.schema.errors import BadFile
from modules.weights import pickles
from modules.weights.headers import Header, TensorInfo, read_header

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


class _StandIn:
    """Takes the place of what a trainer left in a checkpoint beside the weights; does nothing and keeps its state."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class ModelFile:
    """An open model file. Its tensors keep the mapping alive, so they may outlive `close()`."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._maps: dict[Path, mmap.mmap] = {}
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        self._joined: tuple[TensorInfo, Tensor] | None = None

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the mappings; the system unmaps them with the last tensor."""
        self._maps, self._pickled, self._joined = {}, {}, None

    def tensor(self, key: str) -> Tensor:
        """One tensor as a view of the file (pages are read when touched; writing to it changes only this process).

        Weights stored as scaled 8-bit numbers (`scale_weight` beside them) come back multiplied out, in float32.

        Raises:
            KeyError: no tensor is called so.
            BadFile: the file can no longer be mapped.
        """
        info = self.header.tensors[key]
        if info.dtype.startswith("F8_") and key.endswith(".weight"):
            scale = self._scale_of(key)
            if scale is not None:
                return self._view(info).to(torch.float32) * scale
        return self._view(info)

    def place(self, key: str) -> tuple[str, int]:
        """Where a tensor begins: file and byte. Reading in this order, a disk need not jump about."""
        info = self.header.tensors[key]
        first = info.parts[0] if info.parts else info
        return str(first.file or self.header.path), first.begin

    def let_go(self, key: str) -> None:
        """Take the pages of a tensor out of memory; they are read again if it is. Only where nobody wrote to it."""
        info = self.header.tensors[key]
        if not hasattr(mmap, "MADV_DONTNEED"):  # Windows keeps them until memory is short
            return
        for part in info.parts or (info,):
            data = self._maps.get(part.file or self.header.path)
            begin, end = -(-part.begin // mmap.PAGESIZE) * mmap.PAGESIZE, part.end // mmap.PAGESIZE * mmap.PAGESIZE
            if data is not None and not part.key and begin < end:
                data.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(key without the prefix, tensor) for every key that starts with `prefix`, one after the other."""
        for key in self.header.tensors:
            if key.startswith(prefix):
                yield key[len(prefix) :], self.tensor(key)

    def will_need(self) -> None:
        """Let the system begin to read everything, in the order of the disk; nets ask for it in theirs."""
        for file in {info.file or self.header.path for info in _leaves(self.header) if not info.key}:
            if hasattr(mmap, "MADV_WILLNEED"):
                self._mapped(file).madvise(mmap.MADV_WILLNEED)

    def check(self) -> None:
        """Open every pickle of the model now, so that what is wrong with it shows before anything else is let go.

        Archives are mapped, not read. The older layout cannot be mapped: it was checked to its end by the header.

        Raises:
            BadFile: one of them is refused.
        """
        for file in {info.file or self.header.path for info in _leaves(self.header) if info.key}:
            if zipfile.is_zipfile(file):
                self._unpickled(file)

    def _scale_of(self, key: str) -> Tensor | None:
        info = self.header.tensors.get(key.removesuffix(".weight") + ".scale_weight")
        return self._view(info).to(torch.float32) if info and prod(info.shape) == 1 else None

    def _view(self, info: TensorInfo) -> Tensor:
        if info.transposed:
            return self._view(replace(info, transposed=False, shape=info.shape[::-1])).t()
        if info.parts:
            if self._joined is None or self._joined[0] is not info:  # asked for thirds of it one after the other
                self._joined = (info, torch.cat([self._view(part) for part in info.parts]))
            return self._joined[1].view(info.shape)
        file = info.file or self.header.path
        if info.key:
            return self._unpickled(file)[info.key].reshape(info.shape)
        dtype = DTYPES[info.dtype]
        if info.begin == info.end:
            return torch.empty(info.shape, dtype=dtype)
        data = self._mapped(file)
        if info.end > len(data):
            raise BadFile(f"{file.name} changed while it was being opened; try again.")
        if info.begin % dtype.itemsize == 0 and sys.byteorder == "little":
            count = (info.end - info.begin) // dtype.itemsize
            return torch.frombuffer(data, dtype=dtype, count=count, offset=info.begin).view(info.shape)
        raw = torch.frombuffer(data, dtype=torch.uint8, count=info.end - info.begin, offset=info.begin)
        if sys.byteorder == "big":
            raw = raw.view(-1, dtype.itemsize).flip(1)
        return raw.clone().view(dtype).view(info.shape)

    def _mapped(self, path: Path) -> mmap.mmap:
        mapped = self._maps.get(path)
        if mapped is None:
            try:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                    raise MemoryError(f"{path.name} cannot be mapped") from None
                raise BadFile(f"{path.name} can no longer be read: {error}.") from None
            if path == self.header.path and len(mapped) != self.header.size:
                raise BadFile(f"{path.name} changed while it was being opened; try again.")
            self._maps[path] = mapped
        return mapped

    def _unpickled(self, path: Path) -> dict[str, Tensor]:
        if path not in self._pickled:
            self._pickled[path] = load_pickle(path)
        return self._pickled[path]


def open_model(path: Path) -> ModelFile:
    """Open a model file, or a folder in the diffusers layout, for reading.

    Raises:
        BadFile: it is no intact model file; the sentence says what it is and what to do.
    """
    return open_header(read_header(path))


def open_header(header: Header) -> ModelFile:
    """Open the files behind a header, which may be put together of several (weights.assembly); BadFile as above."""
    file = ModelFile(header)
    file.check()
    return file


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by flat key, through torch's restricted reader; an archive's are mapped, not read.

    Raises:
        BadFile: it holds anything but tensors and plain values, or is damaged.
    """
    contents = pickles.scan(path)
    root = pickles.unwrap(_restricted(path, contents))
    tensors: dict[str, Tensor] = {}
    for key, record in contents.tensors.items():
        found = _at(root, record.place)
        same = isinstance(found, Tensor) and found.layout == torch.strided and tuple(found.shape) == record.shape
        if not same or found.dtype != DTYPES[record.dtype]:
            raise BadFile(f"{path.name} reads differently the second time ({key!r:.80}); it was refused.")
        tensors[key] = found.detach()
    return tensors


def plain_values(path: Path) -> dict[str, Any]:
    """What a pickle says at its top level beside tensors: text, numbers, lists of them; {} where it is no dict.

    Raises:
        BadFile: as `load_pickle`.
    """
    root = _restricted(path, pickles.scan(path))
    if not isinstance(root, Mapping):
        return {}
    return {key: value for key, value in root.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 100 and all(isinstance(one, (int, float, str)) for one in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _restricted(path: Path, contents: pickles.Contents) -> Any:
    """What torch's restricted reader makes of a pickle that was scanned."""
    stand_ins: list[Any] = [(_StandIn, name) for name in sorted(contents.names) if pickles.is_stubbed(name)]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=not contents.legacy)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError:
        raise BadFile(f"{path.name} holds more than weights; it was refused: get a safetensors version.") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise BadFile(f"{path.name} is damaged ({reason}); download it again.") from None


def _at(root: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        if isinstance(root, _StandIn):
            root = root.state
        if isinstance(root, Mapping):
            root = root.get(step)
        elif isinstance(root, (list, tuple)) and isinstance(step, int) and step < len(root):
            root = root[step]
        else:
            return None
    return root


def _leaves(header: Header) -> Iterator[TensorInfo]:
    for info in header.tensors.values():
        yield from info.parts or (info,)
