"""What a file is, told from its first bytes; and its header: every tensor's name, number type and shape, checked.

`read_header` is the door for everything that can hold a model: safetensors files, PyTorch's pickles (weights.pickles)
and folders in the diffusers layout (weights.assembly).

Safetensors (https://github.com/huggingface/safetensors): 8 bytes little-endian length N, N bytes of JSON
`{key: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {str: str}}`, then the tensors' bytes without holes.
No tensor library is needed here, so lists can be made without one.

    header = read_header(path)            # BadFile with one sentence, whatever the file holds
    header.tensors["out.2.weight"].shape  # (4, 320, 3, 3)
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from modules.schema.errors import BadFile
from modules.weights import assembly, pickles

MAX_HEADER = 100_000_000
"""Bytes of JSON; the format's own limit."""
MAX_COMMAS = 2_000_000
"""Bounds the elements of the JSON before it is parsed: a full-size SDXL file has 15 000."""
MAX_ELEMENTS = 2**40

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip

FileKind = Literal["safetensors", "zip", "pickle", "gguf", "web page", "lfs pointer", "archive", "empty", "unknown"]

_NOT_A_MODEL: dict[str, str] = {
    "gguf": "is a GGUF file, which this version cannot read; get the safetensors version of the model.",
    "web page": "is a saved web page, not a model; the download needs a login or another link: fetch it again.",
    "lfs pointer": "is a Git LFS pointer, not the model itself; run `git lfs pull`, or download the file again.",
    "empty": "is empty (0 bytes); download it again.",
    "archive": "is a packed archive (7z, RAR or gzip), not a model; unpack it.",
    "unknown": "is no model file: its first bytes are neither a safetensors header nor a PyTorch pickle; "
    "download it again.",
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: `begin` and `end` count bytes from the start of the file (of a pickle: only their number).

    Where names were translated or files put together, `file` says where the tensor lies (else the header's own file)
    and `key` what it is called there (pickles alone are asked by name). One made of several has them in `parts`, to be
    laid one upon the other; `transposed`: the file holds the transpose.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: Path | None = None
    key: str = ""
    parts: tuple[TensorInfo, ...] = ()
    transposed: bool = False


@dataclass(frozen=True)
class Header:
    """The checked header of one file, or of several put together. `size` is the file's, in bytes."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    size: int = 0

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor, or None where there is none."""
        info = self.tensors.get(key)
        return info.shape if info else None


def sniff(path: Path) -> FileKind:
    """What a file is, from its first bytes; BadFile where it cannot be read at all."""
    return _kind(*_first_bytes(path))


def read_header(path: Path) -> Header:
    """Read and check what a file (or a diffusers folder) holds; nothing of the tensors is read, nothing is executed.

    Raises:
        BadFile: in one sentence, whatever else the file is, or whichever rule of its format it breaks.
    """
    if assembly.is_model_folder(path):
        return assembly.read_folder(path, read_header)
    head, size = _first_bytes(path)
    kind = _kind(head, size)
    if kind in ("zip", "pickle"):
        return _pickle_header(path, size)
    if kind != "safetensors":
        raise BadFile(f"{path.name} {_NOT_A_MODEL[kind]}")
    return _safetensors_header(path, head, size)


def _pickle_header(path: Path, size: int) -> Header:
    tensors = {
        key: TensorInfo(record.dtype, record.shape, 0, record.nbytes, key=key)
        for key, record in pickles.scan(path).tensors.items()
    }
    if not tensors:
        raise BadFile(f"{path.name} is a PyTorch pickle without a single tensor; download it again.")
    return Header(path, MappingProxyType(tensors), size=size)


def _safetensors_header(path: Path, head: bytes, size: int) -> Header:
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise BadFile(f"{path.name} claims a header of {length:,} bytes, at most {MAX_HEADER:,} are allowed.")
    if 8 + length > size:
        raise BadFile(
            f"{path.name} is incomplete: its header alone takes {8 + length:,} bytes, the file has {size:,}; "
            "download it again."
        )
    try:
        with path.open("rb") as file:
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise BadFile(f"{path.name} cannot be read: {error.strerror or error}.") from None
    return Header(path, *_check(path.name, raw, 8 + length, size), size=size)


def _first_bytes(path: Path) -> tuple[bytes, int]:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadFile(
                f"{path.name} is a folder, but not a model in the diffusers layout (it has no model_index.json); "
                "choose a model file."
            )
        if not stat.S_ISREG(status.st_mode):  # a pipe would block
            raise BadFile(f"{path.name} is not a regular file; a model is one file.")
        with path.open("rb") as file:
            return file.read(64), status.st_size
    except FileNotFoundError:
        raise BadFile(f"{path.name} is gone; put it back into {path.parent.name}, or choose another model.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"{path.name} cannot be read: {reason}.") from None


def _kind(head: bytes, size: int) -> FileKind:
    if size == 0:
        return "empty"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"version https://git-lfs"):
        return "lfs pointer"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!do", b"<htm", b"<?xml", b"<head", b'{"er', b'{"me', b'{"st')):
        return "web page"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")):
        return "archive"
    return "unknown"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Broken(f"names {twice!r:.80} twice")
    return found


class _Broken(Exception):
    """Which rule of the format is broken; becomes the middle of a sentence."""


def _check(name: str, raw: bytes, start: int, size: int) -> tuple[Mapping[str, TensorInfo], Mapping[str, str]]:
    try:
        if raw.count(b",") > MAX_COMMAS:
            raise _Broken("lists more entries than any model has")
        try:
            parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        except UnicodeDecodeError:
            raise _Broken("is not UTF-8 text") from None
        except (ValueError, RecursionError):
            raise _Broken("is not valid JSON") from None
        if not isinstance(parsed, dict):
            raise _Broken("is not a JSON object")
        metadata = parsed.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise _Broken("has metadata other than text")
        tensors = {key: _tensor(key, entry, start) for key, entry in parsed.items()}
        _check_places(tensors, start, size)
    except _Broken as error:
        raise BadFile(f"{name} is damaged: its header {error}; download it again.") from None
    last = max((t.end for t in tensors.values()), default=start)
    if last > size:
        raise BadFile(
            f"{name} is incomplete: its header promises {last:,} bytes, the file has {size:,}; download it again."
        )
    return MappingProxyType(tensors), MappingProxyType(metadata)


def _tensor(key: str, entry: Any, start: int) -> TensorInfo:
    where = f"at {key!r:.120}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Broken(f"has something other than dtype, shape and data_offsets {where}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _Broken(f"names the unknown number type {dtype!r:.40} {where}")
    if not _naturals(shape) or len(shape) > 8:
        raise _Broken(f"has an impossible shape {where}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Broken(f"has impossible offsets {where}")
    count = prod(shape)
    if count > MAX_ELEMENTS or count * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise _Broken(f"has offsets that do not fit shape and number type {where}")
    return TensorInfo(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_places(tensors: Mapping[str, TensorInfo], start: int, size: int) -> None:
    """Tensors lie one behind the other and fill the file: no overlap, no hole, nothing behind the last."""
    place = start
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin < place:
            raise _Broken(f"lets {key!r:.120} overlap another tensor")
        if info.begin > place:
            raise _Broken(f"leaves a hole before {key!r:.120}")
        place = info.end
    if place < size:
        raise _Broken(f"does not account for the last {size - place:,} bytes")
