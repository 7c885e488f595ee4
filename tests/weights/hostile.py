"""Pickles that would run something if anybody obeyed them: each would make a file, the canary, and nothing else."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

MAGIC = 0x1950A86A20F9469CFC6C
CODE = {
    "builtins.exec", "builtins.eval", "__builtin__.eval", "runpy._run_code", "timeit.timeit", "cProfile.run", "pdb.run",
    "profile.run", "code.InteractiveInterpreter", "numpy.f2py.crackfortran.myeval", "torch._inductor.codecache.exec",
}  # fmt: skip
PLACES = {
    "os.mkdir", "posix.mkdir", "os.makedirs", "builtins.open", "_io.open", "io.open", "posix.system", "nt.system",
    "subprocess.Popen", "subprocess.run", "os.system", "shutil.rmtree", "pathlib.Path.touch", "torch.load",
    "torch.jit.load", "torch.hub.load", "torch.save", "torch.storage._load_from_bytes", "numpy.load", "pickle.loads",
    "importlib.import_module", "functools.partial", "operator.methodcaller", "builtins.getattr", "builtins.__import__",
    "webbrowser.open", "ctypes.CDLL", "logging.config.fileConfig", "distutils.spawn.spawn", "collections.abc.Callable",
    "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "torch._tensor._rebuild_from_type_v2",
    "collections.defaultdict", "collections.OrderedDict.fromkeys", "pytorch_lightningx.run", "numpyx.dtype",
}  # fmt: skip
CALLABLES = sorted(CODE | PLACES)


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _args(name: str, canary: Path) -> bytes:
    """A tuple of one argument that makes the callable leave the canary, where it can."""
    code = f"open({str(canary)!r}, 'w').close()"
    return _text(code if name in CODE else f"touch {canary}" if name.endswith(("system", "spawn")) else str(canary))


def routes(name: str, canary: Path) -> dict[str, bytes]:
    """Every way of the pickle language to have something called, without PROTO and STOP; each leaves one object."""
    module, _, attribute = name.rpartition(".")
    argument = _args(name, canary)
    plain = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"
    return {
        "GLOBAL": plain + argument + b"\x85R",
        "STACK_GLOBAL": _text(module) + _text(attribute) + b"\x93" + argument + b"\x85R",
        "STACK_GLOBAL dotted": _text(name.split(".")[0]) + _text(name.split(".", 1)[1]) + b"\x93" + argument + b"\x85R",
        "INST": b"(" + argument + b"i" + module.encode() + b"\n" + attribute.encode() + b"\n",
        "OBJ": b"(" + plain + argument + b"o",
        "NEWOBJ": plain + argument + b"\x85\x81",
        "NEWOBJ_EX": plain + argument + b"\x85}\x92",
        "from the memo": plain + b"q\x070h\x07" + argument + b"\x85R",
        "from the memo by MEMOIZE": plain + b"\x940" + b"h\x00" + argument + b"\x85R",
        "BUILD": b"ccollections\nOrderedDict\n)R}" + _text("__reduce__") + plain + b"sb",
        "a name alone": plain,
        "as a key": b"}" + plain + b"K\x01s",
        "EXT1": b"\x82\x01" + argument + b"\x85R",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": b"P" + name.encode() + b"\n",
        "BINPERSID": plain + argument + b"\x85RQ",
        "storage type": b"(" + _text("storage") + plain + _text("0") + _text("cpu") + b"K\x04tQ",
    }


def wrapped(body: bytes, container: str, canary: Path) -> bytes:
    """A pickle body as the file that a careless program would open."""
    one = b"\x80\x02" + body + b"."
    beside = b"\x80\x02}" + _text("state_dict") + b"}" + _text("x") + body + b"ss."
    if container == "bare":
        return one
    if container == "stream":
        return pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + beside + pickle.dumps([], 2)
    if container == "stream's first":
        return one + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickle.dumps({}, 2) + pickle.dumps([], 2)
    if container == "stream's keys":
        return pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickle.dumps({}, 2) + one
    if container == "stream + archive":
        return wrapped(body, "stream", canary) + good_archive()
    if container == "archive + archive":
        return good_archive() + archive(one)
    return archive(beside if container == "archive" else one, name="data.pkl" if container == "rootless" else None)


CONTAINERS = (
    "archive", "stream", "bare", "stream's first", "stream's keys", "stream + archive", "archive + archive", "rootless",
)  # fmt: skip


def archive(pickled: bytes, name: str | None = None, compress: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as made:
        made.writestr(name or "archive/data.pkl", pickled)
        made.writestr("archive/version" if name is None else "version", b"3\n")
    return out.getvalue()


def good_archive() -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": {"x": torch.ones(4)}}, out)
    return out.getvalue()


def hostile(canary: Path, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what it tries, bytes of a file): every callable and every route in several containers, others for each seed."""
    chance = random.Random(seed)
    for name in CALLABLES:
        ways = routes(name, canary)
        for route in ["GLOBAL", *chance.sample(sorted(ways), 3)]:
            container = chance.choice(CONTAINERS)
            yield f"{name} by {route} in {container}", wrapped(ways[route], container, canary)
    for route in routes("os.mkdir", canary):
        for container in ("archive", "stream"):
            name = chance.choice(sorted(PLACES))
            yield f"{name} by {route} in {container}", wrapped(routes(name, canary)[route], container, canary)
    yield from odd()


def odd() -> Iterator[tuple[str, bytes]]:
    """Pickles that would run nothing and yet cost time, memory, or a reader that believes them."""
    laughs = b"\x80\x02" + b"]" + b"".join(b"q" + bytes([n]) + b"0](h" + bytes([n]) * 1 + b"h" + bytes([n]) + b"e"
                                          for n in range(60)) + b"."  # fmt: skip
    yield "lists of lists", archive(laughs)
    tuples = b"\x80\x02)" + b"".join(
        b"q" + bytes([n]) + b"0h" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)
    )
    yield "a key that takes forever", archive(b"\x80\x02}" + tuples[2:] + b"K\x01s.")
    yield "a huge string that is not there", archive(b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"x.")
    yield "a huge number", archive(b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"x.")
    yield "marks without end", archive(b"\x80\x02" + b"(" * 200_000)
    yield "nothing on the stack", archive(b"\x80\x02000.")
    yield "unknown memo", archive(b"\x80\x02h\x09.")
    yield "no end", archive(b"\x80\x02}")
    yield "noise", archive(bytes(range(256)))
    yield "no pickle", archive(b"x", name="readme.txt")
    yield "a bomb", archive(b"\x80\x02" + b"]" * 30_000_000, compress=zipfile.ZIP_DEFLATED)
    yield "a place outside", archive(b"\x80\x02}.", name="../data.pkl")
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x04tQ"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("

    def tensor(offset: bytes, shape: bytes, stride: bytes) -> bytes:
        return archive(b"\x80\x02}" + _text("x") + rebuild + storage + offset + shape + stride + b"\x89}tRs.")

    yield "storage that is not there", tensor(b"K\x00", b"K\x04\x85", b"K\x01\x85")
    yield "beyond its storage", tensor(b"K\x02", b"K\x04\x85", b"K\x01\x85")
    yield "negative place", tensor(b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85")
    yield "a wide stride", tensor(b"K\x00", b"K\x02\x85", b"J\xff\xff\xff\x7f\x85")
    yield "a stride of nothing", tensor(b"K\x00", b"J\x00\x00\x00\x7f\x85", b"K\x00\x85")
    good = good_archive()
    for n in range(1, 12):
        yield f"cut at {n}/12", good[: len(good) * n // 12]
