"""PyTorch pickles: weights come out bit for bit, listings agree with the reader, and nothing in a file is ever run."""

from __future__ import annotations

import pickle
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.schema.errors import BadFile
from modules.weights.headers import read_header
from modules.weights.pickles import scan
from modules.weights.reading import load_pickle, open_model
from tests.weights.hostile import CALLABLES, archive, hostile, routes, wrapped
from tests.weights.tiny import tiny_tensors


def saved(path: Path, what: object, zipped: bool = True) -> Path:
    torch.save(what, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(door: Callable[[Path], object], path: Path) -> str:
    """The sentence a file is refused with, or nothing where it is not."""
    try:
        door(path)
    except BadFile as error:
        return error.message
    return ""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trainers_file_comes_back_bit_for_bit(tmp_path, test_seed, zipped):
    tensors = tiny_tensors(test_seed)
    key = next(iter(tensors))
    tensors[key] = tensors[key].half()
    what = {
        "epoch": 3, "global_step": np.float64(17), "loops": {"a": [1, (2, 3)]}, "lr": np.ones(3),
        "state_dict": {**tensors, "none": None}, "optimizer_states": [{"state": {0: {"exp": torch.ones(2)}}}],
    }  # fmt: skip
    with open_model(saved(tmp_path / "m.ckpt", what, zipped)) as file:
        assert set(file.header.tensors) == set(tensors)
        for name, tensor in tensors.items():
            assert file.header.tensors[name].shape == tuple(tensor.shape)
            assert file.tensor(name).dtype == tensor.dtype
            assert torch.equal(file.tensor(name), tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_an_archive_is_mapped_not_read(tmp_path):
    path = saved(tmp_path / "m.ckpt", {"x": torch.ones(200_000)})
    tensor = open_model(path).tensor("x")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    places = [[int(n, 16) for n in one[0].split("-")] for one in maps]
    assert any(a <= tensor.data_ptr() < b for a, b in places)


def test_views_of_one_storage_and_nested_places(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    what = {
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.ones(2, 768))}),
        "views": [base, base.t(), base[1]], 320: ({"w": torch.zeros(2)}, {"w": torch.ones(2)}),
    }  # fmt: skip
    found = load_pickle(saved(tmp_path / "m.pt", what))
    assert set(found) == {"string_to_param.*", "views.0", "views.1", "views.2", "320.0.w", "320.1.w"}
    assert torch.equal(found["views.1"], base.t())
    assert torch.equal(found["320.1.w"], torch.ones(2))


def test_the_canary_sings_where_a_pickle_is_obeyed(tmp_path):
    """Else the next tests would show nothing."""
    canary = tmp_path / "canary"
    pickle.loads(wrapped(routes("builtins.exec", canary)["GLOBAL"], "bare", canary))
    assert canary.exists()


def test_hostile_files_are_refused_in_a_sentence_and_nothing_runs(tmp_path, test_seed):
    canary, path = tmp_path / "canary", tmp_path / "bad.ckpt"
    count = 0
    for what, content in hostile(canary, test_seed):
        path.write_bytes(content)
        start = time.process_time()
        for door in (read_header, open_model, load_pickle):
            message = refusal(door, path)
            assert re.fullmatch(r"bad\.ckpt [^\n]{10,280}[.]", message), (what, door, message)
        assert time.process_time() - start < 60, what
        assert not canary.exists(), what
        count += 1
    assert count >= 200


@pytest.mark.parametrize("name", CALLABLES)
def test_a_foreign_name_is_named(tmp_path, name):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(wrapped(routes(name, tmp_path / "canary")["GLOBAL"], "archive", path))
    with pytest.raises(BadFile) as caught:
        read_header(path)
    assert repr(name) in caught.value.message


def test_torchs_reader_refuses_what_the_scan_would_let_pass(tmp_path, monkeypatch, test_seed):
    """The scan only explains: with its list of names torn open, the restricted reader still runs nothing."""
    canary, path = tmp_path / "canary", tmp_path / "bad.ckpt"
    monkeypatch.setattr("modules.weights.pickles.REAL", frozenset(CALLABLES) | {"collections.OrderedDict"})
    for name in CALLABLES:
        path.write_bytes(wrapped(routes(name, canary)["GLOBAL"], "archive", canary))
        assert refusal(load_pickle, path) or load_pickle(path) == {}, name
        assert not canary.exists(), name


def test_a_lightning_callback_does_not_come_to_life(tmp_path):
    body = b"}X\x05\x00\x00\x00callsc" + b"pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)R}bs"
    path = tmp_path / "m.ckpt"
    path.write_bytes(archive(b"\x80\x02" + body + b"."))
    assert scan(path).tensors == {}
    assert scan(path).names == {"pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"}
    assert "pytorch_lightning" not in sys.modules
