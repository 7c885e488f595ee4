"""Styles on disk: what users edit elsewhere is seen, what cannot be read is never lost."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from modules.prompt.styles import Style, read_styles, write_styles
from modules.schema.errors import BadRequest, DiskTrouble, NotFound
from modules.service.styles import StyleStore
from tests.imaging.faults import FailingDisk


def store(folder: Path, *names: str, **more: object) -> StyleStore:
    return StyleStore([folder / name for name in names or ("styles.csv",)], folder / "copies", **more)  # type: ignore[arg-type]


def test_a_style_is_saved_changed_and_deleted_as_a1111_reads_it(tmp_path: Path) -> None:
    styles = store(tmp_path)
    assert styles.listed().styles == ()
    assert list(tmp_path.iterdir()) == []
    styles.save("photo", "photo of {prompt}", 'drawing, "x"\nnext line')
    styles.save("ink", "ink", "")
    styles.save("photo", "a photo of {prompt}", "")
    data = (tmp_path / "styles.csv").read_bytes()
    assert data == b"\xef\xbb\xbfname,prompt,negative_prompt\r\nphoto,a photo of {prompt},\r\nink,ink,\r\n"
    assert styles.apply(["photo", "none"], "a cat", "") == ("a photo of a cat", "")
    styles.delete("photo")
    assert [view.name for view in styles.listed().styles] == ["ink"]
    assert (tmp_path / "styles.csv.bak").read_bytes() == data
    with pytest.raises(NotFound):
        styles.delete("photo")


def test_each_style_stays_in_its_file_and_new_ones_go_into_the_first(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(write_styles([Style("oil", "oil")]))
    styles = store(tmp_path, "a.csv", "b.csv")
    styles.save("oil", "thick oil", "")
    styles.save("new", "n", "")
    assert read_styles((tmp_path / "a.csv").read_bytes()) == {"new": Style("new", "n")}
    assert read_styles((tmp_path / "b.csv").read_bytes()) == {"oil": Style("oil", "thick oil")}
    assert [(view.name, view.file) for view in styles.listed().styles] == [("new", "a.csv"), ("oil", "b.csv")]


def test_what_another_program_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    styles = store(tmp_path)
    styles.save("mine", "m", "")
    (tmp_path / "styles.csv").write_bytes(write_styles([Style("theirs", "t")]))
    styles.save("mine", "m", "")
    assert list(styles.known()) == ["theirs", "mine"]


def test_a_file_that_cannot_be_understood_is_never_written_over(tmp_path: Path) -> None:
    damaged = b"name,prompt\nph\xff\xfeoto,x\n"
    (tmp_path / "a.csv").write_bytes(damaged)
    (tmp_path / "b.csv").write_bytes(write_styles([Style("oil", "oil")]))
    styles = store(tmp_path, "a.csv", "b.csv")
    listed = styles.listed()
    assert [view.name for view in listed.styles] == ["oil"]
    assert len(listed.warnings) == 1
    with pytest.raises(DiskTrouble, match=r"a\.csv is not UTF-8 text.*Nothing was saved"):
        styles.save("new", "n", "")
    styles.save("oil", "thick oil", "")
    assert (tmp_path / "a.csv").read_bytes() == damaged


@pytest.mark.parametrize("name", ["", "  ", "#note", "x" * 201])
def test_names_that_a_file_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest) as raised:
        store(tmp_path).save(name, "p", "")
    assert raised.value.field == "name"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    store(tmp_path).save("ink", "ink", "")
    refused, calls = 0, 1
    for k in range(1, 100):
        disk = FailingDisk(k, errno.ENOSPC)
        before = read_styles(path.read_bytes())["ink"].prompt
        try:
            store(tmp_path, disk=disk).save("ink", f"ink {k}", "")
        except DiskTrouble:
            refused += 1
            # A failure after the new file stands under its name is told too; whole it is in either case.
            assert read_styles(path.read_bytes())["ink"].prompt in (before, f"ink {k}")
        calls = len(disk.calls)
        if k > calls:
            break
    assert k > calls
    assert refused >= 8
    assert not list(tmp_path.rglob("*.part"))


def test_five_good_copies_lie_aside(tmp_path: Path) -> None:
    styles = store(tmp_path)
    for k in range(8):
        styles.save("ink", f"ink {k}", "")
    copies = sorted((tmp_path / "copies").iterdir())
    assert [read_styles(copy.read_bytes())["ink"].prompt for copy in copies] == [f"ink {k}" for k in (7, 6, 5, 4, 3)]
