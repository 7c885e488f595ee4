"""What a card is measured by runs from end to end where there is none, with a tiny net."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.benchmarks import bench_speed, gpu_all
from tests.benchmarks.peers import Peer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_speed, "CACHE", tmp_path)


def test_every_part_of_the_run_on_a_card_can_be_rehearsed(cache: None) -> None:
    found = {name: dict(part("tiny")) for name, part in gpu_all.PARTS.items()}
    for way in (
        "sdp", "sdp, CUDA graph", "sdp, queries, keys and values apart", "sdp, float8 weights", "sdp, float8 products",
        "Doggettx", "split", "sub-quadratic",
    ):  # fmt: skip
        assert found["speed"][f"{way}, calls/s"] > 0
    assert found["file"]["MB"] >= 1
    assert {f"{use}, ms" for use in ("normal", "medvram", "lowvram")} <= found["memory"].keys()
    assert found["memory"]["largest difference of answers"] == 0
    assert found["prediction"]["weights, predicted/measured"] > 1
    assert found["compiled"]["ready"] == 1
    assert found["compiled"]["largest difference of answers"] < 1e-4
    assert found["job"]["CUDA graphs, it/s"] > 0
    assert found["placed"]["normal, a step beside one with all weights there"] == 1
    assert found["limit"]["1.0 GB, ladder"] == 0


def test_what_a_part_has_told_stays_whatever_becomes_of_it(tmp_path: Path) -> None:
    program = "import time\nprint('{\"it/s\": 3.5}', flush=True)\nprint('warm')\ntime.sleep(60)"
    found = gpu_all.run("hangs", ["-c", program], tmp_path, 5)
    assert (found["exit code"], found["it/s"]) == (-1, 3.5)
    found = gpu_all.run("fails", ["-c", "raise OSError('no card')"], tmp_path, 30)
    assert (found["exit code"], found["last line"]) == (1, "OSError: no card")


def test_another_program_takes_turns_with_easel(cache: None, tmp_path: Path) -> None:
    """The stand-in says and hears what ComfyUI's adapter does; the words of the program itself are passed over."""
    asked = Namespace(
        cache=tmp_path, device="cpu", peer="stand-in", peer_path=tmp_path, peer_python=sys.executable, rounds=1
    )
    rows = list(bench_speed.beside(asked, "tiny", torch.float32))
    assert [row.name.partition(" beside ")[0] for row in rows] == ["tiny float32 denoiser"] * 2 + [
        "tiny float32 decoder"
    ] * 2
    assert all(row.easel > 0 and row.peer >= 0 for row in rows)
    assert rows[0].name.endswith("stand-in 0, s")


def test_a_program_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named 'comfy'"):
        Peer("comfyui", tmp_path, sys.executable, tmp_path / "x", tmp_path / "y", "float32", "cpu", 1)


def test_every_part_names_a_program_and_a_measure_that_exist() -> None:
    seen = []
    for name, arguments in gpu_all.parts(quick=False).items():
        seen.append(name)
        if "--part" in arguments:
            assert arguments[arguments.index("--part") + 1] in gpu_all.PARTS
            assert arguments[arguments.index("--family") + 1] in bench_speed.FAMILIES
        if arguments[1].startswith("tests."):
            assert (gpu_all.ROOT / (arguments[1].replace(".", "/") + ".py")).exists()
    assert len(seen) >= 18
    assert set(gpu_all.LONGER) <= set(seen)
    assert seen.index("job sd1") < seen.index("tests") < seen.index("compiled sd1")
