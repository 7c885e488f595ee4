"""Tensors of a file are views of it, right to the bit; hashes are the file's."""

from __future__ import annotations

import hashlib
import os
import sys

import pytest
import torch
from safetensors.torch import save_file

from modules.schema.errors import BadFile, Cancelled
from modules.weights.hashing import old_hash, sha256_of, short
from modules.weights.reading import open_model
from modules.weights.store import FileStore
from tests.weights.tiny import write_raw

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def test_every_dtype_comes_back_bit_for_bit(tmp_path, test_seed):
    generator = torch.Generator().manual_seed(test_seed)
    tensors = {str(d): (torch.randn(3, 5, generator=generator) * 3).to(d) for d in DTYPES}
    tensors["scalar"], tensors["none"] = torch.tensor(7.0), torch.zeros(3, 0)
    save_file(tensors, tmp_path / "m.safetensors")
    with open_model(tmp_path / "m.safetensors") as file:
        found = dict(file.tensors())
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():  # after close: tensors keep the mapping alive
        assert found[key].dtype == tensor.dtype
        assert found[key].shape == tensor.shape
        assert torch.equal(found[key].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_prefixes_select_and_are_cut(tmp_path):
    save_file({"a.x": torch.ones(1), "a.y": torch.ones(2), "b.x": torch.ones(3)}, tmp_path / "m.safetensors")
    file = open_model(tmp_path / "m.safetensors")
    assert {key: len(tensor) for key, tensor in file.tensors("a.")} == {"x": 1, "y": 2}
    with pytest.raises(KeyError):
        file.tensor("c")


@pytest.mark.parametrize("pad", range(4))
def test_unaligned_tensors_are_right_too(tmp_path, pad):
    values = torch.arange(6, dtype=torch.float32)
    head = {"pad": {"dtype": "U8", "shape": [pad], "data_offsets": [0, pad]},
            "x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [pad, pad + 24]}}  # fmt: skip
    path = write_raw(tmp_path / "m.safetensors", head, bytes(pad) + values.numpy().tobytes())
    assert torch.equal(open_model(path).tensor("x"), values.view(2, 3))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_tensors_are_the_mapped_file_and_writing_never_reaches_it(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(100_000)}, path)
    before = path.read_bytes()
    tensor = open_model(path).tensor("x")
    with open("/proc/self/maps") as maps:
        places = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(str(path))]
    assert any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in places)
    tensor += 1
    assert path.read_bytes() == before


def test_a_file_that_shrinks_between_check_and_use_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(100_000)}, path)
    file = open_model(path)
    os.truncate(path, 1000)
    with pytest.raises(BadFile, match="changed while it was being opened"):
        file.tensor("x")


def test_sha256_is_the_files_and_is_kept_until_it_changes(tmp_path, test_seed):
    content = torch.randint(0, 256, (20_000_000,), generator=torch.Generator().manual_seed(test_seed)).byte().numpy()
    path = tmp_path / "m.safetensors"
    path.write_bytes(content.tobytes())
    store = FileStore(tmp_path / "state" / "db.sqlite3")
    steps: list[tuple[int, int]] = []
    expected = hashlib.sha256(content.tobytes()).hexdigest()
    assert sha256_of(path, store, progress=lambda done, total: steps.append((done, total))) == expected
    assert steps[-1] == (20_000_000, 20_000_000)
    assert len(steps) == 3
    assert sha256_of(path, FileStore(store.database), progress=lambda *_: pytest.fail("hashed twice")) == expected
    path.write_bytes(b"other")
    assert sha256_of(path, store) == hashlib.sha256(b"other").hexdigest()
    assert short(expected) == expected[:10]


def test_hashing_can_be_cancelled_and_then_keeps_nothing(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(bytes(20_000_000))
    store = FileStore(tmp_path / "db.sqlite3")
    asked = iter([False, True])
    with pytest.raises(Cancelled):
        sha256_of(path, store, cancelled=lambda: next(asked))
    assert store.get("sha256", path, path.stat()) is None


def test_hashing_what_is_gone_is_one_sentence(tmp_path):
    with pytest.raises(BadFile, match="cannot be read"):
        sha256_of(tmp_path / "missing")


def test_the_old_hash_is_of_64_kib_at_1_mib(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(bytes(0x100000) + b"\x01" * 0x10000 + b"rest")
    assert old_hash(path) == hashlib.sha256(b"\x01" * 0x10000).hexdigest()[:8]
    path.write_bytes(b"small")
    assert old_hash(path) == "e3b0c442"


@pytest.mark.parametrize("blocked", ["a file where the folder should be", "no database"])
def test_without_a_database_facts_are_kept_while_running(tmp_path, blocked):
    database = tmp_path / "state" / "db.sqlite3"
    if blocked == "no database":
        database.parent.mkdir()
        database.write_bytes(b"this is no database, but it is long enough to look at" * 100)
    else:
        database.parent.write_text("")
    path = tmp_path / "m"
    path.write_text("x")
    store = FileStore(database)
    store.put("kind", path, path.stat(), "value")
    assert store.get("kind", path, path.stat()) == "value"
    assert store.all("kind")[str(path)][1] == "value"
    assert FileStore(database).get("kind", path, path.stat()) is None
