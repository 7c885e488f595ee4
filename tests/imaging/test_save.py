"""Saving: whole or not at all, never over another picture, one clear sentence when the disk refuses."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import threading
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from modules.imaging.metadata import read_infotext
from modules.imaging.naming import NameFields
from modules.imaging.save import (
    DISK,
    Disk,
    NameTaken,
    kept_as,
    safe_write,
    save_named,
    sweep_leftovers,
    time_of_a_file,
)
from modules.schema.errors import DiskTrouble
from modules.schema.settings import Saving
from tests.imaging.faults import FailingDisk

CODES = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES]


def picture(colour: int = 0) -> Image.Image:
    return Image.new("RGB", (16, 8), (colour % 256, colour // 256 % 256, 0))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_file_is_written_whole_and_no_second_one_stays(tmp_path: Path) -> None:
    safe_write(tmp_path / "a" / "b" / "c.txt", b"hello")
    assert files(tmp_path) == {"a/b/c.txt": b"hello"}


def test_a_taken_name_is_left_alone_unless_asked(tmp_path: Path) -> None:
    path = safe_write(tmp_path / "a.txt", b"first")
    with pytest.raises(NameTaken, match=r"a\.txt is there already"):
        safe_write(path, b"second")
    assert files(tmp_path) == {"a.txt": b"first"}
    safe_write(path, b"third", overwrite=True)
    assert files(tmp_path) == {"a.txt": b"third"}


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(NameTaken):
        safe_write(tmp_path / "a.txt", b"x")
    assert not (tmp_path / "elsewhere.txt").exists()


@pytest.mark.parametrize("no_links", [False, True], ids=["links", "no-links"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_whatever_call_fails_the_file_is_whole_or_absent(tmp_path: Path, overwrite: bool, no_links: bool) -> None:
    data, old = bytes(range(256)) * 8, b"old"
    whole = FailingDisk(no_links=no_links)
    (tmp_path / "dry").mkdir()
    safe_write(tmp_path / "dry" / "new" / "x.bin", data, disk=whole)
    assert len(whole.calls) > 8
    for code in CODES:
        for k in range(1, len(whole.calls) + 3):
            folder = tmp_path / f"{code}-{k}"
            folder.mkdir()
            target = folder / "new" / "x.bin"
            if overwrite:
                target.parent.mkdir()
                target.write_bytes(old)
            disk = FailingDisk(k, code, no_links)
            failed = None
            try:
                safe_write(target, data, overwrite=overwrite, disk=disk)
            except DiskTrouble as error:
                failed = error
            assert failed is None or "x.bin" in failed.message
            left = files(folder)
            if "remove" in disk.calls[k - 1 : k]:  # the one fault that leaves a temporary file, for the sweep
                left.pop(next((name for name in left if name.endswith(".part")), ""), None)
            if failed is None:
                assert left == {"new/x.bin": data}, (code, k, disk.calls)
            elif overwrite:
                assert left in ({"new/x.bin": old}, {"new/x.bin": data}), (code, k, disk.calls)
            else:
                assert left == {}, (code, k, disk.calls)


def test_whatever_call_fails_a_numbered_picture_is_whole_or_absent(tmp_path: Path) -> None:
    saving, fields = Saving(), NameFields(seed=5)
    whole = FailingDisk()
    save_named(picture(), "x", fields, saving, tmp_path / "dry", disk=whole)
    for code in CODES:
        for k in range(1, len(whole.calls) + 1):
            root = tmp_path / f"{code}-{k}"
            root.mkdir()
            disk = FailingDisk(k, code)
            try:
                path = save_named(picture(), "x", fields, saving, root, disk=disk)
            except DiskTrouble:
                assert files(root) == {}, (code, k, disk.calls)
            else:
                assert [p for p in files(root) if not p.endswith(".part")] == [kept_as(path, root)]
            # Once the disk is well again, so is saving.
            again = save_named(picture(), "x", fields, saving, root)
            with Image.open(again) as saved:
                saved.load()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EROFS, "cannot be written to"),
        (errno.EIO, "Input/output error"),
        (errno.ENAMETOOLONG, "too long"),
    ],
)
def test_the_sentence_says_what_is_wrong(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(DiskTrouble, match=words) as caught:
        safe_write(tmp_path / "x.bin", b"x" * 100, disk=FailingDisk(2, code))
    assert caught.value.message.count(".") <= 2 + tmp_path.as_posix().count(".")


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_bytes(b"mine")
    with pytest.raises(DiskTrouble, match="not a folder"):
        save_named(picture(), "", NameFields(), Saving(), tmp_path)
    assert files(tmp_path) == {"outputs": b"mine"}


def test_pictures_are_numbered_on_and_named_as_a1111_names_them(tmp_path: Path) -> None:
    now = datetime(2026, 11, 20, 12, 0)
    fields = NameFields(seed=1234567, prompt="a red: house", now=now)
    first = save_named(picture(), "hello\nSteps: 2", fields, Saving(), tmp_path)
    second = save_named(picture(), "", fields, Saving(), tmp_path)
    folder = tmp_path / "outputs" / "txt2img-images" / "2026-11-20"
    assert [first, second] == [folder / "00000-1234567.png", folder / "00001-1234567.png"]
    (folder / "00041-other.jpg").write_bytes(b"")
    assert save_named(picture(), "", fields, Saving(), tmp_path).name == "00042-1234567.png"
    assert save_named(picture(), "", fields, Saving(), tmp_path, basename="grid").name == "grid-0000-1234567.png"
    with Image.open(first) as saved:
        assert read_infotext(saved) == "hello\nSteps: 2"
    plain = Saving(save_to_dirs=False)
    assert kept_as(save_named(picture(), "", fields, plain, tmp_path), tmp_path) == (
        "outputs/txt2img-images/00000-1234567-a red_ house.png"
    )
    unnumbered = Saving(save_images_add_number=False, samples_filename_pattern="[steps]/[seed]")
    names = [kept_as(save_named(picture(), "", fields, unnumbered, tmp_path), folder) for _ in range(3)]
    assert names == ["0/1234567.png", "0/1234567-1.png", "0/1234567-2.png"]


def test_without_the_setting_no_infotext_is_written(tmp_path: Path) -> None:
    path = save_named(picture(), "secret", NameFields(), Saving(enable_pnginfo=False), tmp_path)
    assert b"secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("format", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF")]
)
def test_pictures_are_saved_in_the_format_asked_for(tmp_path: Path, format: str, kind: str) -> None:
    saving = Saving(samples_format=format, jpeg_quality=95)  # type: ignore[arg-type]
    for k in range(2):
        path = save_named(picture(), "a cat", NameFields(seed=7), saving, tmp_path)
        assert path.name == f"0000{k}-7.{format}"
        with Image.open(path) as image:
            assert (image.format, read_infotext(image)) == (kind, "a cat")


def test_what_a_format_cannot_hold_is_a_png(tmp_path: Path) -> None:
    wide = Image.new("RGB", (16384, 2))
    assert save_named(wide, "", NameFields(), Saving(samples_format="webp"), tmp_path).suffix == ".png"


def test_one_folder_for_all_wins_over_that_of_a_task(tmp_path: Path) -> None:
    saving = Saving(outdir_samples="all", save_to_dirs=False)
    assert save_named(picture(), "", NameFields(), saving, tmp_path).parent == tmp_path / "all"
    words = Saving(directories_filename_pattern="[prompt_words]", directories_max_prompt_words=2)
    path = save_named(picture(), "", NameFields(prompt="one, two three"), words, tmp_path)
    assert path.parent.name == "one two"


def test_pictures_may_go_to_a_folder_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "big disk"
    path = save_named(picture(), "", NameFields(), Saving(outdir_txt2img_samples=str(elsewhere)), tmp_path / "data")
    assert path.is_relative_to(elsewhere)
    assert kept_as(path, tmp_path / "data") == str(path)


def _save_many(root: str, start: int, count: int, go: object = None) -> None:
    if go is not None:
        go.wait()  # type: ignore[attr-defined]
    for k in range(start, start + count):
        save_named(picture(k), "", NameFields(seed=k), Saving(), Path(root))


def test_two_processes_of_threads_never_overwrite_and_share_no_number(tmp_path: Path) -> None:
    processes, threads, each = 2, 8, 6
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    others = [
        context.Process(target=_save_in_threads, args=(str(tmp_path), number * 1000, threads, each, go))
        for number in range(processes)
    ]
    for process in others:
        process.start()
    go.set()
    for process in others:
        process.join(60)
        assert process.exitcode == 0
    found = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    # Names differ by seed, so nothing but the reservation keeps two pictures from the same number.
    assert [int(p.name.split("-")[0]) for p in found] == list(range(processes * threads * each))
    for path in found:
        seed = int(path.stem.split("-")[1])
        with Image.open(path) as image:
            assert image.getpixel((0, 0)) == (seed % 256, seed // 256, 0)


def test_a_number_published_between_counting_and_reserving_is_not_taken_again(tmp_path: Path) -> None:
    class Hurried(Disk):
        """Somebody else's number 0 appears just before ours is reserved."""

        def create(self, path: Path) -> int:
            (path.parent / "00000-other.png").touch()
            return super().create(path)

    assert save_named(picture(), "", NameFields(seed=1), Saving(), tmp_path, disk=Hurried()).name == "00001-1.png"


def _save_in_threads(root: str, start: int, threads: int, each: int, go: object) -> None:
    running = [threading.Thread(target=_save_many, args=(root, start + t * each, each, go)) for t in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def test_the_sweep_takes_our_old_leftovers_only(tmp_path: Path) -> None:
    old, new, others = tmp_path / "d" / ".easel-00001.part", tmp_path / ".easel-ab.part", tmp_path / "my.part"
    old.parent.mkdir()
    for path in (old, new, others):
        path.write_bytes(b"x")
    os.utime(old, (100, 100))
    os.utime(others, (100, 100))
    assert sweep_leftovers(tmp_path, 1000) == 1
    assert set(files(tmp_path)) == {".easel-ab.part", "my.part"}


def test_what_is_being_written_now_is_no_leftover(tmp_path: Path) -> None:
    half = tmp_path / ".easel-ab.part"
    for _ in range(300):
        started = time_of_a_file()
        os.close(os.open(half, os.O_CREAT | os.O_WRONLY))
        assert sweep_leftovers(tmp_path, started) == 0
        half.unlink()


def test_a_leftover_does_not_keep_pictures_from_being_saved(tmp_path: Path) -> None:
    first = save_named(picture(), "", NameFields(), Saving(), tmp_path)
    (first.parent / ".easel-00001.part").write_bytes(b"half")
    assert save_named(picture(), "", NameFields(), Saving(), tmp_path).name.startswith("00002")


ODD = [
    "ü" * 300, "\U0001f3f3\ufe0f\u200d\U0001f308" * 90, "e\u0301" * 200, "日本" * 100, "\u202eabc", "a\0b", "a\nb",
    "\ud800", "CON", "con.txt", "..", ". .", "", "x" * 300, "a/../../b", "C:\\x", "\\\\host\\x", "a:b", "nul", "-", "~",
    "~/x", "a\u2028b\u2066c\ufeff\x85d", "%s", "[seed", "ﷺ" * 90,
]  # fmt: skip


def test_odd_prompts_make_names_that_stay_in_their_folder(tmp_path: Path, test_seed: int) -> None:
    rng = random.Random(test_seed)
    odd = ODD + ["".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randrange(1, 200))) for _ in range(60)]
    saving = Saving(samples_filename_pattern="[prompt_spaces]", directories_filename_pattern="[prompt]")
    root = tmp_path / "outputs" / "txt2img-images"
    for text in odd:
        path = save_named(picture(), "", NameFields(prompt=text), saving, tmp_path)
        assert path.exists()
        assert path.resolve().is_relative_to(root.resolve())
        assert len(path.name.encode()) <= 255
        assert not set(path.as_posix()) & set("\n\x85\u2028\u202e\u2066\ufeff")
        with Image.open(path) as image:
            image.load()
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == len(odd)


@pytest.mark.skipif(os.name == "nt", reason="Windows allows less")
def test_names_keep_what_only_windows_forbids_where_that_is_wished(tmp_path: Path) -> None:
    pattern = {"samples_filename_pattern": "[prompt_spaces]", "save_images_add_number": False}
    usual = save_named(picture(), "", NameFields(prompt='a "b": c?'), Saving(**pattern), tmp_path)
    assert usual.name == "a _b__ c_.png"
    loose = Saving(**pattern, unix_filenames_sanitization=True)
    assert save_named(picture(), "", NameFields(prompt='a "b": c?'), loose, tmp_path).name == 'a "b": c?.png'
    for text in ODD:
        path = save_named(picture(), "", NameFields(prompt=text), loose, tmp_path)
        assert path.resolve().is_relative_to((tmp_path / "outputs").resolve())
        assert not any(ord(letter) < 32 for letter in path.name)


def test_the_real_disk_is_the_default() -> None:
    assert type(DISK).__name__ == "Disk"
