"""Files that must be refused: every rule of the safetensors format broken, and whatever else lands in folders."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Log in to download</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2132625432\n"


def malformed(good: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, bytes of a file) made out of a sound file's bytes: 200 or more, others for each seed."""
    chance = random.Random(seed)
    length = int.from_bytes(good[:8], "little")
    raw, data = good[8 : 8 + length], good[8 + length :]
    header: dict[str, Any] = json.loads(raw)
    keys = [key for key in header if key != "__metadata__"]

    def rebuilt(change: Callable[[dict[str, Any], str], None]) -> bytes:
        altered = json.loads(raw)
        change(altered, chance.choice(keys))
        text = json.dumps(altered).encode()
        return len(text).to_bytes(8, "little") + text + data

    def with_raw(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data

    for _ in range(30):
        yield "truncated", good[: chance.randrange(9, len(good) - 1)]
    for size in (1, 7, 8, 9, 8 + length - 1, 8 + length, len(good) - 1):
        yield f"cut to {size} bytes", good[:size]
    for _ in range(4):
        yield "trailing bytes", good + chance.randbytes(chance.randrange(1, 100))
    for lie in (0, 1, 2, length - 1, length + 1, len(good), 100_000_001, 2**31, 2**63, 2**64 - 1):
        yield f"header length {lie}", lie.to_bytes(8, "little") + good[8:]
    for _ in range(80):
        flipped = bytearray(good)
        flipped[8 + chance.randrange(len(raw.rstrip()))] ^= 1 << chance.randrange(8)
        yield "one bit of the header flipped", bytes(flipped)

    def put(field: str, value: Any) -> Callable[[dict[str, Any], str], None]:
        def change(altered: dict[str, Any], key: str) -> None:
            altered[key][field] = value

        return change

    for value in (
        [0, 10**30], [10, 0], [-4, 0], [0.0, 4.0], ["0", "4"], [0], [0, 1, 2], [], None, True, "0", {}, [[0], [1]],
        [0, True], [0, 2**63], [0, 2**64],
    ):  # fmt: skip
        yield f"offsets {value!r}"[:60], rebuilt(put("data_offsets", value))
    for value in (
        [-1, -1], [10**18, 10**18], [2**63], [1.5], ["3"], None, 7, [None], [[2]], [1] * 9, [0], [2**40, 0, 5], True,
        [10**400],
    ):  # fmt: skip
        yield f"shape {value!r}"[:60], rebuilt(put("shape", value))
    for value in ("F33", "", None, 32, ["F32"], "f32", "I32", "BOOL", "F4", "C64", "F32\0", "U8"):
        yield f"dtype {value!r}", rebuilt(put("dtype", value))

    def shifted(altered: dict[str, Any], key: str) -> None:
        altered[key]["data_offsets"] = [n + 4 for n in altered[key]["data_offsets"]]

    def shared(altered: dict[str, Any], key: str) -> None:
        other = next(k for k in keys if k != key and altered[k]["shape"] == altered[key]["shape"])
        altered[key]["data_offsets"] = altered[other]["data_offsets"]

    def without(field: str) -> Callable[[dict[str, Any], str], None]:
        return lambda altered, key: altered[key].pop(field)

    def entry(value: Any) -> Callable[[dict[str, Any], str], None]:
        return lambda altered, key: altered.update({key: value})

    yield "overlapping tensors", rebuilt(shifted)
    yield "two names for one place", rebuilt(lambda altered, key: altered.update(twin=altered[key]))
    norms = [k for k in keys if k.endswith("norm.weight")]
    yield "two tensors in one place", rebuilt(lambda altered, key: shared(altered, norms[0]))
    for field in ("dtype", "shape", "data_offsets"):
        yield f"no {field}", rebuilt(without(field))
    yield "an extra field", rebuilt(put("path", "../../etc/passwd"))
    for value in (None, 3, "x", [], {}):
        yield f"an entry {value!r}", rebuilt(entry(value))
    yield "a tensor missing", rebuilt(lambda altered, key: altered.pop(key))
    for value in ({"a": 1}, {"a": {"b": "c"}}, [], "text", 5, None):
        yield f"metadata {value!r}", rebuilt(lambda altered, key, value=value: altered.update(__metadata__=value))

    yield "a key twice", with_raw(raw.rstrip()[:-1] + b"," + json.dumps(keys[0]).encode() + b":" +
                                  json.dumps(header[keys[0]]).encode() + b"}")  # fmt: skip
    yield "deep nesting", with_raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    yield "deep lists", with_raw(b'{"a":' + b"[" * 100_000)
    yield "many entries", with_raw(b'{"a":[' + b"0," * 2_100_000 + b"0]}")
    yield "a long number", with_raw(b'{"a":' + b"9" * 100_000 + b"}")
    yield "not UTF-8", with_raw(b'{"\xff\xfe":1}')
    yield "no object", with_raw(b"{" + b" " * 100)
    yield "two documents", with_raw(raw.rstrip() + b"{}")
    yield "NaN", with_raw(b'{"a":NaN}')
    yield "no tensors", b"\x02" + bytes(7) + b"{}"

    yield "empty", b""
    yield "web page", HTML
    yield "LFS pointer", LFS
    yield "JSON error", b'{"error":"Repository not found","status":404}'
    yield "pickle", b"\x80\x02}q\x00."
    yield "archive", b"PK\x03\x04" + chance.randbytes(200)
    yield "GGUF", b"GGUF\x03\x00\x00\x00" + chance.randbytes(200)
    for _ in range(6):
        yield "noise", chance.randbytes(chance.randrange(1, 4000))
    yield "zeros", bytes(5000)
