"""Checkpoints are found wherever they lie, listed whatever they hold, and answer to any of their names."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from modules.schema.errors import NotFound
from modules.schema.folders import Folders
from modules.weights.catalogue import Catalogue
from tests.opened import opened
from tests.weights.malformed import HTML, LFS
from tests.weights.tiny import write_keys, write_raw, write_tiny_sd15


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders.under(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, test_seed) -> Path:
    """One sound checkpoint, to be copied."""
    return write_tiny_sd15(
        tmp_path_factory.mktemp("sound") / "sound.safetensors",
        test_seed,
        metadata={"modelspec.resolution": "256x128", "easel.default_cfg_scale": "4.5"},
    )


def put(sound: Path, folders: Folders, *names: str) -> list[Path]:
    paths = [folders.checkpoint_dirs[0] / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sound, path)
    return paths


def catalogue_of(folders: Folders) -> Catalogue:
    return Catalogue(folders, folders.database)


def names(catalogue: Catalogue) -> list[str]:
    return [view.name for view in catalogue.checkpoints(refresh=True)]


def test_no_folder_is_an_empty_list(folders):
    catalogue = catalogue_of(folders)
    assert catalogue.checkpoints() == []
    with pytest.raises(NotFound, match=r"There is no checkpoint in .*Stable-diffusion"):
        catalogue.default()
    with pytest.raises(NotFound, match="put one there"):
        catalogue.find("x")


def test_a_view_tells_what_lists_need(folders, sound):
    (path,) = put(sound, folders, "mine.safetensors")
    (view,) = catalogue_of(folders).checkpoints()
    assert (view.name, view.title, view.path) == ("mine", "mine.safetensors", str(path))
    assert (view.size, view.family) == (path.stat().st_size, "sd1")
    assert (view.resolution, view.cfg_scale) == ((256, 128), 4.5)
    assert view.sha256 is None
    assert view.problem is None


def test_folders_are_walked_in_natural_order(folders, sound):
    put(sound, folders, "b10.safetensors", "B2.safetensors", "z/a.safetensors", "z/y/c.safetensors", "a.safetensors",
        ".hidden/x.safetensors", ".y.safetensors", "v.vae.safetensors", "notes.txt")  # fmt: skip
    assert names(catalogue_of(folders)) == ["z_y_c", "z_a", "a", "B2", "b10"]


def test_links_are_followed_and_loops_end(folders, sound, tmp_path):
    root = folders.checkpoint_dirs[0]
    put(sound, folders, "real.safetensors")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(sound, elsewhere / "far.safetensors")
    (root / "link").symlink_to(elsewhere)
    (root / "one.safetensors").symlink_to(root / "real.safetensors")
    (root / "broken.safetensors").symlink_to(tmp_path / "nowhere")
    (elsewhere / "back").symlink_to(root)
    os.mkfifo(root / "pipe.safetensors")
    assert names(catalogue_of(folders)) == ["link_far", "one", "real"]


def test_a_model_in_diffusers_folders_is_one_entry(folders, sound):
    put(sound, folders, "pipe/unet/diffusion_pytorch_model.safetensors", "x.safetensors")
    (folders.checkpoint_dirs[0] / "pipe" / "model_index.json").write_text("{}")
    assert names(catalogue_of(folders)) == ["pipe", "x"]


def test_damaged_files_are_listed_with_what_is_wrong(folders, sound):
    root = folders.checkpoint_dirs[0]
    (cut,) = put(sound, folders, "cut.safetensors")
    os.truncate(cut, 100_000)
    (root / "empty.safetensors").touch()
    (root / "page.safetensors").write_bytes(HTML)
    (root / "pointer.safetensors").write_bytes(LFS)
    (root / "old.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
    write_raw(root / "lie.safetensors", b"{", length=2**63)
    write_keys(root / "lora.safetensors", {"x.lora_up.weight": (4, 4), "x.lora_down.weight": (4, 4)})
    problems = {view.name: view.problem or "" for view in catalogue_of(folders).checkpoints()}
    for name, words in {
        "cut": "incomplete", "empty": "empty", "page": "web page", "pointer": "LFS pointer", "old": "damaged",
        "lie": "header of", "lora": "models/Lora",
    }.items():  # fmt: skip
        assert words in problems[name]


def test_unchanged_files_are_not_looked_at_again(folders, sound):
    (path,) = put(sound, folders, "a.safetensors")
    assert catalogue_of(folders).checkpoints()[0].problem is None
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert catalogue_of(folders).checkpoints()[0].problem is None  # same size and time: believed
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert catalogue_of(folders).checkpoints()[0].problem is not None


def test_new_and_removed_files_show_without_restart(folders, sound):
    catalogue = catalogue_of(folders)
    assert catalogue.checkpoints() == []
    (path,) = put(sound, folders, "late.safetensors")
    assert catalogue.find("late").path == str(path)
    path.unlink()
    assert catalogue.checkpoints(refresh=True) == []


def test_a_checkpoint_answers_to_all_its_names(folders, sound):
    put(sound, folders, "sub/My Model v2.safetensors", "other.safetensors")
    catalogue = catalogue_of(folders)
    view = catalogue.find("sub_My Model v2")
    digest = catalogue.hash_of(view)
    for name in (
        "sub_My Model v2", "sub/My Model v2.safetensors", "My Model v2.safetensors", "My Model v2", digest,
        digest[:10], f"sub/My Model v2.safetensors [{digest[:10]}]", f"My Model v2 [{digest[:10]}]", "Model v2",
        "My Model v2 [0000000000]", "My Model v2.safetensors [feedbeef]", view.path,
    ):  # fmt: skip
        assert catalogue.find(name).path == view.path, name
    (listed,) = [v for v in catalogue.checkpoints() if v.path == view.path]
    assert listed.title == f"sub/My Model v2.safetensors [{digest[:10]}]"
    assert listed.short_hash == digest[:10]
    (again,) = [v for v in catalogue_of(folders).checkpoints() if v.path == view.path]
    assert again == listed


def test_the_old_hash_is_a_name(folders, sound):
    from modules.weights.hashing import old_hash

    (path,) = put(sound, folders, "m.safetensors")
    assert old_hash(path) != "e3b0c442"
    assert catalogue_of(folders).find(old_hash(path)).name == "m"


def test_exact_names_win_over_parts_and_short_titles_over_long(folders, sound):
    put(sound, folders, "anime.safetensors", "a/anime-long-name.safetensors", "anime2.safetensors")
    catalogue = catalogue_of(folders)
    assert catalogue.find("anime").title == "anime.safetensors"
    assert catalogue.find("anim").title == "anime.safetensors"
    assert catalogue.find("long").title == "a/anime-long-name.safetensors"


@pytest.mark.parametrize("name", ["anmie", "", "   ", "[]", "x" * 10_000])
def test_an_unknown_name_is_answered_with_the_nearest(folders, sound, name):
    put(sound, folders, "anime.safetensors", "photo.safetensors")
    with pytest.raises(NotFound, match=r"Nearest: (anime|photo)"):
        catalogue_of(folders).find(name)


def test_the_shipped_model_is_chosen_only_when_alone(folders, sound):
    catalogue = catalogue_of(folders)
    put(sound, folders, "postcards.safetensors")
    assert catalogue.default().name == "postcards"
    (broken,) = put(sound, folders, "a-broken.safetensors")
    broken.write_bytes(b"")
    catalogue.checkpoints(refresh=True)
    assert catalogue.default().name == "postcards"
    put(sound, folders, "zebra.safetensors", "yak.safetensors")
    catalogue.checkpoints(refresh=True)
    assert catalogue.default().name == "yak"
    assert catalogue.default("postcards").name == "postcards"
    assert catalogue.default("removed since").name == "yak"


MANY = 100 if os.environ.get("TEST_FULL") else 12  # folders of a hundred files each


def test_many_unchanged_files_are_listed_without_opening_one(folders, tmp_path):
    raw = write_raw(
        tmp_path / "x", {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ).read_bytes()
    root = folders.checkpoint_dirs[0]
    for n in range(MANY):
        (root / f"folder {n}").mkdir(parents=True)
        for k in range(100):
            (root / f"folder {n}" / f"model {k}.safetensors").write_bytes(raw)
    first = catalogue_of(folders)
    while not all(view.problem for view in first.checkpoints(refresh=True)):  # looked at in the background
        time.sleep(0.2)
    again = catalogue_of(folders)  # a new process, in effect
    with opened() as names:
        assert len(again.checkpoints()) == 100 * MANY
    assert not [name for name in names if name.endswith(".safetensors")]
    (root / "folder 7" / "model 7.safetensors").write_bytes(raw + b"x")
    with opened() as names:
        assert len(again.checkpoints(refresh=True)) == 100 * MANY
    assert {name for name in names if name.endswith(".safetensors")} == {str(root / "folder 7" / "model 7.safetensors")}
