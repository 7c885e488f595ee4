"""What a PyTorch pickle (.ckpt, .pt, .bin, .pth) holds, read off its instructions without obeying one of them.

A pickle is a program for a small stack machine. Here its instructions move plain records about: a name stays a name, a
tensor becomes (number type, shape, storage), and nothing is imported, called or built. That is enough to list a file,
to refuse it in one sentence, and to know before the real reader starts what it will find. The weights themselves are
read by `weights.reading` through torch's own restricted reader.

    contents = scan(path)                # BadFile with one sentence for whatever is no plain file of tensors
    contents.tensors["out.2.weight"]     # TensorRecord(dtype="F32", shape=(4, 320, 3, 3), …)

Two layouts are known: the zip archive of torch >= 1.6 (`<root>/data.pkl` and one member per storage) and the older
stream of five pickles with the storages behind them.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from modules.schema.errors import BadFile

MAX_PICKLE = 64 * 2**20
"""Bytes of the pickle itself; a full-size SDXL file has 1 MB of them, one with optimiser states some more."""
MAX_OPCODES = 4_000_000
MAX_MEMBERS = 50_000
MAX_ENTRIES = 200_000
MAX_DEPTH = 8
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

STORAGES: dict[str, str] = {
    "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

REAL = frozenset({
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter", "torch.Size", "torch.device", "__builtin__.set", "builtins.set", "_codecs.encode",
    *(f"torch.{name}Storage" for name in STORAGES),
    *(f"torch.{name}" for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8",
                                   "uint8", "bool", "float", "half", "double", "long", "int", "short")),
})  # fmt: skip
"""Names that torch's restricted reader knows by itself and that a file of weights needs."""
STUBBED = frozenset({
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray", "numpy.dtypes.Float64DType",
    "torch.nn.modules.container.ParameterDict",
})  # fmt: skip
"""Names in genuine files whose objects nobody needs: an empty stand-in of ours takes their place, the real ones never
come to life. So does every name of `pytorch_lightning`, whose trainers left their settings in checkpoints."""


@dataclass(frozen=True)
class TensorRecord:
    """`place` is where the tensor lies among nested dicts and lists; `nbytes` what its shape takes when dense."""

    dtype: str
    shape: tuple[int, ...]
    place: tuple[Any, ...] = ()

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]


@dataclass(frozen=True)
class Contents:
    """The tensors of a file by flat key, and every name its pickle mentions. `legacy`: the older stream layout.
    `words`: lists of texts that lie beside the weights, by key."""

    tensors: Mapping[str, TensorRecord]
    names: frozenset[str]
    legacy: bool
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def is_stubbed(name: str) -> bool:
    """Whether a name is replaced by the empty stand-in."""
    return name in STUBBED or name.split(".", 1)[0] in ("pytorch_lightning", "lightning_fabric")


def scan(path: Path) -> Contents:
    """Read what a pickle file holds; nothing in it is executed.

    Raises:
        BadFile: it is damaged, or holds anything but tensors and plain values; a foreign name is named.
    """
    name = path.name
    try:
        with path.open("rb") as file:
            legacy = file.read(4) != b"PK\x03\x04"
            file.seek(0)
            root, names = _legacy(file, os.fstat(file.fileno()).st_size) if legacy else _zip(file)
        weights = unwrap(root)
        return Contents(dict(_flat(weights)), names, legacy, _words(weights))
    except _Refused as error:
        raise BadFile(f"{name} {error}") from None
    except zipfile.BadZipFile as error:
        raise BadFile(f"{name} is damaged or incomplete ({str(error).lower()}); download it again.") from None
    except (ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, struct.error, MemoryError,
            RecursionError, NotImplementedError, RuntimeError, AttributeError, UnicodeError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise BadFile(f"{name} is damaged: its pickle cannot be followed ({reason}); download it again.") from None
    except OSError as error:
        raise BadFile(f"{name} cannot be read: {error.strerror or error}.") from None


WRAPPERS = frozenset({"model", "params", "params_ema", "params-ema", "net", "model_state_dict", "weights", "module"})


def unwrap(root: Any) -> Any:
    """The dict of weights inside what a trainer saved: below `state_dict` (also twice), or below a lone wrapper."""
    for _ in range(MAX_DEPTH):
        if not isinstance(root, Mapping):
            break
        inner = root.get("state_dict")
        if inner is None and len(root) == 1:
            ((key, only),) = root.items()
            inner = only if isinstance(key, str) and key in WRAPPERS else None
        if not isinstance(inner, Mapping):
            break
        root = inner
    return root


class _Refused(Exception):
    """Why a file is not taken: the rest of a sentence that begins with its name."""


class _Name(str):
    """A global's dotted name: "os.system"."""

    __slots__ = ()


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


class _Thing:
    """An object that nobody needs; `state` is what BUILD gave it."""

    def __init__(self) -> None:
        self.state: Any = None


class _Mark:
    pass


_MARK = _Mark()
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "FLOAT", "BINFLOAT",
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Machine:
    """Follows the instructions of one pickle with records instead of objects."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.storages: dict[str, _Storage] = {}

    def run(self, data: io.BytesIO) -> Any:
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        arg: Any  # of the type its instruction has
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise _Refused("has a pickle longer than any model's; it is not read.")
            op = opcode.name
            if op in _LITERALS:
                stack.append(arg)
            elif op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op in ("PROTO", "FRAME"):
                pass
            elif op == "STOP":
                return stack.pop()
            elif op == "MARK":
                stack.append(_MARK)
            elif op == "POP":
                stack.pop()
            elif op == "POP_MARK":
                _to_mark(stack)
            elif op == "DUP":
                stack.append(stack[-1])
            elif op in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"):
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}[op]())
            elif op == "DICT":
                items = _to_mark(stack)
                stack.append({})
                _set(stack[-1], items)
            elif op in ("LIST", "TUPLE", "FROZENSET"):
                items = _to_mark(stack)
                stack.append(tuple(items) if op == "TUPLE" else items)
            elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
                size = int(op[-1])
                stack[-size:] = [tuple(stack[-size:])]
            elif op == "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            elif op in ("APPENDS", "ADDITEMS"):
                items = _to_mark(stack)
                _extend(stack[-1], items)
            elif op == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            elif op == "SETITEMS":
                items = _to_mark(stack)
                _set(stack[-1], items)
            elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[int(arg)] = stack[-1]
            elif op == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif op in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[int(arg)])
            elif op == "GLOBAL":
                stack.append(self.name(arg.replace(" ", ".", 1)))
            elif op == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise _Refused("is damaged: its pickle names something that is no name; download it again.")
                stack.append(self.name(f"{module}.{attribute}"))
            elif op in ("REDUCE", "NEWOBJ"):
                args, what = stack.pop(), stack.pop()
                stack.append(self.made(what, args))
            elif op == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], _Thing):
                    stack[-1].state = state
            elif op == "BINPERSID":
                stack.append(self.storage(stack.pop()))
            else:
                raise _Refused(f"uses the pickle instruction {op}, which no file of weights needs; it was refused.")
        raise _Refused("is damaged: its pickle has no end; download it again.")

    def name(self, dotted: str) -> _Name:
        if dotted not in REAL and not is_stubbed(dotted):
            raise _Refused(f"holds code ({dotted!r:.80}), not only weights; it was refused: get a safetensors version.")
        self.names.add(dotted)
        return _Name(dotted)

    def made(self, what: Any, args: Any) -> Any:
        """What calling a name would have given, as a record."""
        if not isinstance(what, _Name) or not isinstance(args, tuple):
            raise _Refused("calls something that is no name; it was refused: get a safetensors version.")
        if what == "collections.OrderedDict":
            made: dict[Any, Any] = {}
            for pair in args[0] if args and isinstance(args[0], list) else ():
                _set(made, list(pair))
            return made
        if what == "torch._utils._rebuild_tensor_v2":
            return self.tensor(*args[:4])
        if what in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
            return args[0] if args else _Thing()
        return _Thing()

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any) -> TensorRecord:
        if not isinstance(storage, _Storage) or not all(map(_naturals, ((offset,), shape, stride))):
            raise _Refused("is damaged: one of its tensors is not described as a tensor; download it again.")
        if len(shape) != len(stride) or len(shape) > 8:
            raise _Refused("is damaged: one of its tensors has an impossible shape; download it again.")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride)) if all(shape) else -1
        if last >= storage.count or prod(shape) > storage.count:
            raise _Refused("is damaged: one of its tensors reaches beyond its storage; download it again.")
        return TensorRecord(storage.dtype, tuple(shape))

    def storage(self, pid: Any) -> _Storage:
        """A persistent id: ("storage", storage type, key, location, number of elements[, view])."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise _Refused("refers to something outside the file, which is not followed; it was refused.")
        _, kind, key, _, count = pid[:5]
        dtype = STORAGES.get(kind.removeprefix("torch.").removesuffix("Storage")) if isinstance(kind, _Name) else None
        if dtype is None or not isinstance(key, str) or not _naturals((count,)):
            raise _Refused("has weights of a number type that is not known here; get a safetensors version.")
        made = _Storage(dtype, key, count)
        if self.storages.setdefault(key, made) != made:
            raise _Refused("is damaged: it describes one storage in two ways; download it again.")
        return made


def _to_mark(stack: list[Any]) -> list[Any]:
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is _MARK:
            items = stack[place + 1 :]
            del stack[place:]
            return items
    raise ValueError("no mark")


def _set(target: Any, items: list[Any]) -> None:
    if isinstance(target, _Thing):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items for what is no dict")
    for key, value in zip(items[::2], items[1::2]):
        # Hashing a tuple of tuples of … can take forever; no file of weights has such keys.
        if not isinstance(key, (str, int, float, bool, bytes, type(None))):
            raise _Refused("has dict keys other than text and numbers, which no file of weights needs; it was refused.")
        target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, _Thing):
        raise ValueError("items for what is no list")


def _naturals(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _zip(file: io.BufferedReader) -> tuple[Any, frozenset[str]]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size = file.seek(0, os.SEEK_END)
        if not members or len(members) > MAX_MEMBERS:
            raise _Refused(f"is an archive of {len(members):,} files, not a model; it was refused.")
        if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
            raise _Refused("is a compressed archive, as no model is saved; unpack it, or download the model itself.")
        if archive.comment or min(m.header_offset for m in members) != 0:
            raise _Refused("is two files in one; it was refused: download it again from its source.")
        if sum(m.file_size for m in members) > size or len({m.filename for m in members}) != len(members):
            raise _Refused("is an archive whose parts lie upon each other; it was refused.")
        if any(m.filename.startswith(("/", "\\")) or ".." in m.filename.split("/") for m in members):
            raise _Refused("is an archive that names places outside itself; it was refused.")
        pickles = [m for m in members if m.filename.rpartition("/")[2] == "data.pkl"]
        if any(m.filename.rpartition("/")[2] == "constants.pkl" or "/code/" in m.filename for m in members):
            raise _Refused("is a TorchScript program, not a file of weights; get the weights as safetensors.")
        if len(pickles) != 1:
            raise _Refused("is an archive without weights of PyTorch in it; unpack it, or download the model itself.")
        if pickles[0].file_size > MAX_PICKLE:
            raise _Refused(f"has a pickle of {pickles[0].file_size:,} bytes, at most {MAX_PICKLE:,} are read.")
        machine = _Machine()
        root = machine.run(io.BytesIO(archive.read(pickles[0])))
        sizes = {m.filename: m.file_size for m in members}
        folder = pickles[0].filename[: -len("data.pkl")]
        for storage in machine.storages.values():
            if sizes.get(f"{folder}data/{storage.key}", -1) < storage.count * SIZES[storage.dtype]:
                raise _Refused("is damaged: a part of its weights is missing; download it again.")
    return root, frozenset(machine.names)


def _legacy(file: io.BufferedReader, size: int) -> tuple[Any, frozenset[str]]:
    head = io.BytesIO(file.read(MAX_PICKLE))
    machine = _Machine()
    if machine.run(head) != LEGACY_MAGIC:
        raise _Refused("is a pickle, but not one of PyTorch; it was refused: get a safetensors version.")
    machine.run(head)  # the protocol's number
    machine.run(head)  # byte order and sizes of the machine that saved it
    root = machine.run(head)
    keys = machine.run(head)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(machine.storages):
        raise _Refused("is damaged: its list of storages does not fit its tensors; download it again.")
    end = head.tell() + sum(8 + s.count * SIZES[s.dtype] for s in machine.storages.values())
    if end > size:
        raise _Refused(f"is incomplete: it promises {end:,} bytes, the file has {size:,}; download it again.")
    return root, frozenset(machine.names)


def _words(root: Any) -> dict[str, tuple[str, ...]]:
    found = root.items() if isinstance(root, Mapping) else ()
    return {
        str(key): tuple(map(str, value))
        for key, value in found
        if isinstance(value, list) and value and all(isinstance(word, str) for word in value)
    }


def _flat(root: Any) -> Iterator[tuple[str, TensorRecord]]:
    """Every tensor below nested dicts, lists and stand-ins, its key joined with dots."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    visited = 0
    while waiting:
        place, value = waiting.pop()
        visited += 1
        if visited > MAX_ENTRIES:  # things that hold each other many times over would never end
            raise _Refused("holds more entries than any model has; it was refused.")
        if isinstance(value, TensorRecord):
            # torch's ParameterDict keeps its items one level deeper
            key = ".".join(str(step) for step in place if step != "_parameters")
            yield key, TensorRecord(value.dtype, value.shape, place)
        elif len(place) < MAX_DEPTH:
            inner = value.state if isinstance(value, _Thing) else value
            if isinstance(inner, Mapping):
                waiting += [((*place, k), v) for k, v in reversed(list(inner.items()))]
            elif isinstance(inner, (list, tuple)) and len(inner) <= 10_000:
                waiting += [((*place, n), v) for n, v in reversed(list(enumerate(inner)))]
