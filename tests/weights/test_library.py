"""Every model file is found and told apart by what it holds, wherever it lies; lists never wait for the disk."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.weights.library import Library
from tests.opened import opened
from tests.weights.tiny import tiny_tensors, write_keys, write_tiny_sd15

VAE = "first_stage_model."
FULL = pytest.mark.skipif(not os.environ.get("TEST_FULL"), reason="a minute long: TEST_FULL=1 runs it")


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders.under(tmp_path)


@pytest.fixture
def library(folders) -> Iterator[Library]:
    library = Library(folders, folders.database)
    yield library
    library.close()


def fill(folders: Folders, seed: int) -> None:
    """One file of each kind, all of them in the wrong folder too."""
    root = folders.checkpoint_dirs[0]
    write_tiny_sd15(root / "sub/one.safetensors", seed)
    save_file(
        {k.removeprefix(VAE): v for k, v in tiny_tensors(seed).items() if k.startswith(VAE)}, root / "v.safetensors"
    )
    torch.save({"emb": torch.ones(3, 768)}, root / "word.pt")
    write_keys(
        root / "style.safetensors",
        {"lora_unet_x_attn2_to_k.lora_down.weight": (4, 768), "lora_unet_x_attn2_to_k.lora_up.weight": (320, 4)},
        {"ss_output_name": "style", "ss_v2": "False", "ssmd_cover_images": "x" * 1000},
    )
    for folder in (folders.lora, folders.embeddings, folders.models / "ESRGAN", folders.models / "hypernetworks"):
        folder.mkdir(parents=True)
    (root / "style.safetensors").rename(folders.lora / "style.safetensors")
    torch.save({320: ({"linear.0.weight": torch.ones(2, 2)}, {"linear.0.weight": torch.ones(2, 2)}), "step": 3},
               folders.models / "hypernetworks/hn.pt")  # fmt: skip
    torch.save({"params_ema": {"conv_first.weight": torch.ones(8, 3, 3, 3)}}, folders.models / "ESRGAN/x4.pth")
    Image.new("RGB", (8, 8)).save(folders.embeddings / "drawn.png")
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}}, folders.embeddings / "old.pt")
    Image.new("RGB", (8, 8)).save(folders.embeddings / "old.preview.png")
    (folders.lora / "page.safetensors").write_bytes(b"<!DOCTYPE html>")


def test_kinds_are_told_by_content(library, folders, test_seed):
    fill(folders, test_seed)
    library.scan()
    found = {view.name: (view.kind, view.place, view.misplaced, view.family) for view in library.files()}
    assert found == {
        "sub/one": ("checkpoint", "Stable-diffusion", False, "SD 1.x"),
        "v": ("vae", "Stable-diffusion", True, None),
        "word": ("embedding", "Stable-diffusion", True, "sd1"),
        "style": ("lora", "Lora", False, "sd1"),
        "page": ("lora", "Lora", False, None),
        "hn": ("hypernetwork", "hypernetworks", False, None),
        "x4": ("upscaler", "ESRGAN", False, None),
        "drawn": ("embedding", "embeddings", False, None),
        "old": ("embedding", "embeddings", False, "sd1"),
    }
    problems = {view.name: view.problem for view in library.files() if view.problem}
    assert list(problems) == ["page"]
    assert "web page" in (problems["page"] or "")
    (style,) = [view for view in library.files("lora") if view.name == "style"]
    assert style.metadata == {"ss_output_name": "style", "ss_v2": "False"}


def test_files_come_and_go_without_a_restart(library, folders, test_seed):
    library.start()
    library.wait()
    assert library.files() == []
    path = write_tiny_sd15(folders.checkpoint_dirs[0] / "one.safetensors", test_seed)
    library.wait()
    (view,) = library.files("checkpoint")
    path.with_suffix(".json").write_text(json.dumps({"notes": "mine", "description": "small"}))
    Image.new("RGB", (8, 8)).save(path.with_suffix(".preview.png"))
    library.wait()
    (view,) = library.files("checkpoint")
    assert (view.notes, view.description) == ("mine", "small")
    assert library.preview(view.path) == path.with_suffix(".preview.png")
    path.unlink()
    library.wait()
    assert library.files() == []
    with pytest.raises(NotFound):
        library.preview(view.path)
    with pytest.raises(NotFound):
        library.ask_hash("/etc/passwd")


def test_hashes_are_taken_in_the_background_and_kept(library, folders, test_seed):
    path = write_tiny_sd15(folders.lora / "one.safetensors", test_seed)
    library.start()
    library.wait()
    library.ask_hash(str(path))
    deadline = time.monotonic() + 30
    while not library.get(str(path)).autov3 and time.monotonic() < deadline:
        time.sleep(0.01)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert library.get(str(path)).sha256 == hashlib.sha256(data).hexdigest()
    assert library.get(str(path)).autov3 == hashlib.sha256(data[start:]).hexdigest()
    again = Library(folders, folders.database)
    again.scan()
    assert again.get(str(path)) == library.get(str(path))


def test_hashes_of_a1111s_cache_are_taken_over_for_unchanged_files(library, folders, test_seed):
    root = folders.checkpoint_dirs[0]
    write_tiny_sd15(root / "sub/one.safetensors", test_seed)
    write_tiny_sd15(root / "two.safetensors", test_seed)
    time_of_one = os.stat(root / "sub/one.safetensors").st_mtime
    hashes = {
        "checkpoint/sub/one.safetensors": {"mtime": time_of_one, "sha256": "ab" * 32},
        "checkpoint/two.safetensors": {"mtime": 5.0, "sha256": "cd" * 32},
        "checkpoint/../../x": {"mtime": 5.0, "sha256": 7}, "nonsense": [],
    }  # fmt: skip
    (folders.data / "cache.json").write_text(json.dumps({"hashes": hashes}))
    library.scan()
    assert {view.name: view.sha256 for view in library.files()} == {"sub/one": "ab" * 32, "two": None}


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=FULL)])
def test_unchanged_files_are_listed_again_without_opening_one(library, folders, count):
    sample = write_keys(folders.data / "x.safetensors", {"a.lora_down.weight": (1, 1), "a.lora_up.weight": (1, 1)})
    for n in range(100):
        (folders.lora / f"{n:02}").mkdir(parents=True)
    for n in range(count):
        os.link(sample, folders.lora / f"{n % 100:02}" / f"{n}.safetensors")
    library.scan()
    with opened() as names:
        library.scan()
    assert len(library.files("lora")) == count
    assert not [name for name in names if name.endswith(".safetensors")]
    with opened() as names:
        assert len(Library(folders, folders.database).files()) == 0  # asked before it looked: it does not wait
    assert not names


def test_links_to_nowhere_folders_and_pipes_are_passed_over(library, folders, tmp_path):
    root = folders.checkpoint_dirs[0]
    root.mkdir(parents=True)
    (root / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (root / "folder.safetensors").mkdir()
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.safetensors")
    library.scan()
    assert library.files() == []
