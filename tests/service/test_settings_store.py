"""Settings survive whatever happens to their file."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from modules.schema.errors import BadRequest, DiskTrouble
from modules.schema.settings import SECTION_OF, Settings
from modules.service.settings_store import SettingsStore
from tests.imaging.faults import FailingDisk

COUNT = int(os.environ.get("MUTATIONS", "40"))
CHANGES = {"eta_ddim": 0.5, "emphasis": "No norm", "save_to_dirs": False, "samples_filename_pattern": "[seed]-[steps]"}
THEIRS = {"gradio_theme": "Soft", "ui_reorder_list": ["seed"], "nested": {"a": {"b": 1}}, "日本": "語"}


def store(folder: Path, **more: object) -> SettingsStore:
    return SettingsStore(folder / "config.json", folder / "copies", **more)  # type: ignore[arg-type]


def written(folder: Path) -> SettingsStore:
    """A file as A1111 leaves it, with keys we do not know, changed by us a few times."""
    (folder / "config.json").write_text(json.dumps(THEIRS, indent=4, ensure_ascii=False), "utf-8")
    found = store(folder)
    for key, value in CHANGES.items():
        found.change({key: value})
    return found


def differing(one: Settings, other: Settings) -> list[str]:
    return [key for key in SECTION_OF if one.option(key) != other.option(key)]


def test_settings_come_back_and_foreign_keys_stay(tmp_path: Path) -> None:
    before = written(tmp_path).settings
    again = store(tmp_path)
    assert again.settings == before
    assert again.warnings == []
    assert again.settings.sampling.eta_ddim == 0.5
    again.change({"s_churn": 1.0})
    raw = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert raw == {**THEIRS, **CHANGES, "s_churn": 1.0}


def test_without_a_file_there_are_defaults_and_nothing_is_written(tmp_path: Path) -> None:
    found = store(tmp_path)
    assert found.settings == Settings()
    assert list(tmp_path.iterdir()) == []


def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    found = written(tmp_path)
    before, content = found.settings, (tmp_path / "config.json").read_bytes()
    for changes in ({"nothing": 1}, {"eta_ddim": 7}, {"eta_ddim": 0.1, "emphasis": "Loud"}):
        with pytest.raises(BadRequest):
            found.change(changes)
    assert found.settings == before
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_wrong_value_costs_itself_only_and_is_told(tmp_path: Path) -> None:
    written(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**raw, "eta_ddim": "lots", "s_noise": [1]}), "utf-8")
    for _ in range(2):
        found = store(tmp_path)
        assert found.settings == Settings().with_options({**CHANGES, "eta_ddim": 0.0})
        assert len(found.warnings) == 1
        assert "eta_ddim, s_noise" in found.warnings[0]
    kept = list(tmp_path.glob("config.json.bad-*"))
    assert len(kept) == 1
    assert '"lots"' in kept[0].read_text("utf-8")


def mutations(data: bytes, rng: random.Random) -> list[bytes]:
    found = [data[: len(data) * k // COUNT] for k in range(COUNT)]
    for _ in range(COUNT):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        found.append(bytes(flipped))
    for _ in range(20):
        at = rng.randrange(len(data))
        found.append(data[:at] + b"\0" * rng.randrange(1, 50) + data[at + rng.randrange(20) :])
    found += [
        b"", b"\0" * 5000, b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"3", b'"x"', b"\xff\xfe\x00",
        b"\xef\xbb\xbf", data.decode().encode("utf-16"), b"\xef\xbb\xbf" + data, data + data, data.replace(b",", b""),
        data.replace(b'"', b"'"), data.replace(b"\n", b"\r\n"), data[:-1] + b',"eta_ddim": 0.5}',
        b" " * (17 * 2**20) + data,
    ]  # fmt: skip
    return found


def test_a_damaged_file_never_costs_more_than_one_setting(tmp_path: Path, test_seed: int) -> None:
    rng = random.Random(test_seed)
    before = written(tmp_path).settings
    good = (tmp_path / "config.json").read_bytes()
    for number, bad in enumerate(mutations(good, rng)):
        for old in tmp_path.glob("*.bad-*"):
            old.unlink()
        (tmp_path / "config.json").write_bytes(bad)
        kept = {p.name: p.read_bytes() for p in (tmp_path / "copies").iterdir()}
        found = store(tmp_path)
        assert len(differing(found.settings, before)) <= 1, (number, bad[:200])
        if found.warnings:
            assert [p.read_bytes() for p in tmp_path.glob("*.bad-*")] == [bad], number
        assert (tmp_path / "config.json").read_bytes() == bad  # nothing is repaired behind the owner's back
        for path in (tmp_path / "copies").iterdir():
            path.unlink()
        for name, content in kept.items():
            (tmp_path / "copies" / name).write_bytes(content)


def test_without_a_good_copy_a_cut_file_still_tells_what_it_holds(tmp_path: Path) -> None:
    before = written(tmp_path).settings
    good = (tmp_path / "config.json").read_bytes()
    for path in (tmp_path / "copies").iterdir():
        path.unlink()
    (tmp_path / "config.json").write_bytes(good[:-30])  # the last value is cut
    found = store(tmp_path)
    assert differing(found.settings, before) == ["samples_filename_pattern"]
    assert "damaged" in found.warnings[0]
    found.change({"s_churn": 2.0})
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["ui_reorder_list"] == ["seed"]


def test_a_number_that_was_cut_is_not_taken_for_another(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{\n    "eta_ddim": 0.5,\n    "s_tmax": 15', "utf-8")  # of 150
    assert store(tmp_path).settings == Settings().with_options({"eta_ddim": 0.5})


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*SECTION_OF, "theirs"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4),
    )
)
def test_any_json_is_read_and_only_what_fits_is_taken(tmp_path_factory: pytest.TempPathFactory, raw: dict) -> None:
    folder = tmp_path_factory.mktemp("settings")
    (folder / "config.json").write_text(json.dumps(raw), "utf-8")
    found = store(folder)
    for key in SECTION_OF:
        try:
            expected = Settings().with_options({key: raw[key]}).option(key) if key in raw else Settings().option(key)
        except BadRequest:
            expected = Settings().option(key)
        assert found.settings.option(key) == expected
    found.change({"eta_ddim": 0.25})
    assert store(folder).settings == found.settings


def test_whatever_write_fails_the_settings_are_the_old_or_the_new_ones(tmp_path: Path) -> None:
    before = written(tmp_path).settings
    after = before.with_options({"s_churn": 3.0})
    content = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    whole = FailingDisk()
    store(tmp_path, disk=whole).change({"s_churn": 3.0})
    assert len(whole.calls) > 10
    for code in (errno.ENOSPC, errno.EIO, errno.EROFS):
        for k in range(1, len(whole.calls) + 1):
            for path in tmp_path.rglob("*"):
                if path.is_file():
                    path.unlink()
            for path, data in content.items():
                path.write_bytes(data)
            disk = FailingDisk(k, code)
            found = store(tmp_path, disk=disk)
            try:
                found.change({"s_churn": 3.0})
            except DiskTrouble as error:
                told = error.message
                assert store(tmp_path).settings in (before, after)
            else:
                told = "holds until"
                assert store(tmp_path).settings == after
            assert "holds until" in told
            assert found.settings == after  # the change is in force either way
            assert [p.name for p in tmp_path.rglob("*.part")] == []


def test_five_good_copies_are_kept(tmp_path: Path) -> None:
    found = written(tmp_path)
    for number in range(10):
        found.change({"s_churn": float(number)})
    names = sorted(p.name for p in (tmp_path / "copies").iterdir())
    assert names == [f"config.json.good-{n}" for n in range(1, 6)]
    newest = json.loads((tmp_path / "copies" / "config.json.good-1").read_text("utf-8"))
    assert newest["s_churn"] == 9.0


def test_an_option_belongs_to_one_section() -> None:
    """config.json is flat: the second of two of the same name would never be heard."""
    keys = [key for field in Settings.model_fields.values() for key in field.annotation.model_fields]  # type: ignore[union-attr]
    assert [key for key in set(keys) if keys.count(key) > 1] == []
