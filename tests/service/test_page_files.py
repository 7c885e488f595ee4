"""ui-config.json, presets.json and their neighbours: what is spoiled costs itself alone, and is kept."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.frontends.ui import forms
from modules.schema.errors import BadRequest, NotFound
from modules.schema.folders import Folders
from modules.schema.settings import SECTION_OF, Settings
from modules.service.generation import GenerationService
from modules.service.presets import Preset, PresetStore
from modules.service.settings_store import SettingsStore
from modules.service.styles import StyleStore
from modules.service.ui_config import UiConfig

STARTS = int(os.environ.get("MUTATIONS", "300"))
SETTINGS = {"eta_ddim": 0.5, "emphasis": "No norm", "tiling": True, "s_churn": 2.0, "their own": [1, {"a": 2}]}
CONFIG = {
    "txt2img/Sampling steps/value": 31, "txt2img/Width/maximum": 4096, "txt2img/CFG Scale/value": 5.5,
    "img2img/Denoising strength/value": 0.4, "txt2img/Batch size/visible": False, "theirs/Field/value": "x",
}  # fmt: skip
STYLES = 'name,prompt,negative_prompt\r\nphoto,a photo of {prompt},drawing\r\nink,"ink, paper",colour\r\nlast,end,\r\n'


def write(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(SETTINGS, indent=4), "utf-8")
    (folder / "ui-config.json").write_text(json.dumps(CONFIG, indent=4), "utf-8")
    (folder / "styles.csv").write_text(STYLES, "utf-8-sig")


def spoil(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    way = rng.randrange(5)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if way == 2:
        return data[:at] + b"\0" * rng.randrange(1, 40) + data[at + rng.randrange(20) :]
    if way == 3:
        return data[:at] + data[at + rng.randrange(1, 9) :]
    return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]


def told(settings: Settings, config: UiConfig) -> dict[str, object]:
    """All that the page and the engine make of both files, by key."""
    found: dict[str, object] = {key: settings.option(key) for key in SECTION_OF}
    for tab in forms.FORMS:
        found |= {f"{tab}/{path}": look for path, look in forms.looks_of(config.known, tab).items()}
    return found


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]


def test_spoiled_files_cost_one_key_at_most_and_are_kept(tmp_path: Path, test_seed: int) -> None:
    """As at a start: everything that reads these files is made anew, each time over another spoiled one."""
    rng = random.Random(test_seed)
    write(tmp_path)
    copies = tmp_path / "copies"

    def start() -> tuple[SettingsStore, UiConfig, StyleStore]:
        settings = SettingsStore(tmp_path / "config.json", copies)
        return settings, UiConfig(tmp_path / "ui-config.json", copies), StyleStore([tmp_path / "styles.csv"], copies)

    settings, config, styles = start()
    before = told(settings.settings, config)
    assert before["txt2img/steps"] == forms.Look(value=31)
    good = {path.name: path.read_bytes() for path in copies.iterdir()}
    for number in range(STARTS):
        name = ("config.json", "ui-config.json", "styles.csv")[number % 3]
        write(tmp_path)
        bad = spoil((tmp_path / name).read_bytes(), rng)
        (tmp_path / name).write_bytes(bad)
        settings, config, styles = start()
        assert len(differing(told(settings.settings, config), before)) <= 1, (number, name, bad)
        if name == "styles.csv":
            # No copy knows rows that were never written here; those before the damage are all there.
            whole = STYLES.encode("utf-8-sig")
            same = next((k for k, (x, y) in enumerate(zip(bad, whole)) if x != y), min(len(bad), len(whole)))
            rows = [line.split(",")[0] for line in whole[:same].decode("utf-8-sig", "ignore").split("\r\n")[1:-1]]
            assert {row for row in rows if row} <= set(styles.known()) or styles.listed().warnings, bad
        for warning in (*settings.warnings, *config.warnings):
            assert name in warning
        kept = [path.read_bytes() for path in tmp_path.glob("*.bad-*")]
        assert all(data == bad for data in kept)
        if any("damaged" in warning for warning in (*settings.warnings, *config.warnings)):
            assert kept
        assert (tmp_path / name).read_bytes() == bad  # nothing is repaired behind the owner's back
        for path in (*tmp_path.glob("*.bad-*"), *copies.iterdir()):
            path.unlink()
        for copy, data in good.items():
            (copies / copy).write_bytes(data)


def test_a_service_starts_on_spoiled_files_and_says_so(
    folders: Folders, open_service: Callable[..., GenerationService], test_seed: int
) -> None:
    rng = random.Random(test_seed)
    write(folders.data)
    open_service().close()
    for name in ("config.json", "ui-config.json"):
        write(folders.data)
        (folders.data / name).write_bytes((folders.data / name).read_bytes()[: -rng.randrange(3, 30)])
        service = open_service()
        assert any(name in warning for warning in service.warnings)
        assert service.settings.sampling.eta_ddim == 0.5
        assert service.ui_config.known["txt2img/Sampling steps/value"] == 31
        service.close()


def test_a_changed_default_joins_the_others_in_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    config = UiConfig(tmp_path / "ui-config.json", tmp_path / "copies")
    config.change({"txt2img/Height/value": 640, "txt2img/CFG Scale/value": None})
    left = {key: value for key, value in CONFIG.items() if key != "txt2img/CFG Scale/value"}
    assert json.loads((tmp_path / "ui-config.json").read_text("utf-8")) == {**left, "txt2img/Height/value": 640}


def store(folder: Path) -> PresetStore:
    return PresetStore(folder / "presets.json", folder / "copies")


def preset(*families: str, tab: str = "txt2img", **values: object) -> Preset:
    return Preset(tab=tab, values=values, families=families)


def test_presets_are_kept_exported_and_read_again(tmp_path: Path) -> None:
    presets = store(tmp_path)
    presets.save({"portrait": preset("sdxl", width=832, prompt="a face"), "wide": preset(width=1216)})
    assert store(tmp_path).listed() == presets.listed()
    assert list(presets.listed()) == ["portrait", "wide"]
    given = (tmp_path / "presets.json").read_bytes()
    other = store(tmp_path / "other")
    assert other.take_in(given) == ["portrait", "wide"]
    assert other.listed() == presets.listed()
    presets.delete("wide")
    assert list(store(tmp_path).listed()) == ["portrait"]
    with pytest.raises(NotFound):
        presets.delete("wide")


def test_a_family_begins_with_one_preset_of_a_tab(tmp_path: Path) -> None:
    presets = store(tmp_path)
    presets.save({"a": preset("sdxl", "sd15"), "b": preset("sdxl", tab="img2img")})
    presets.save({"c": preset("sdxl")})
    assert {name: found.families for name, found in presets.listed().items()} == {
        "a": ("sd15",), "b": ("sdxl",), "c": ("sdxl",),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", " ", " a", "a\nb", "x" * 101])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        store(tmp_path).save({name: preset()})
    assert not (tmp_path / "presets.json").exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b'{"a": 1}', b'{"a": {"tab": 3}}', b"\xff" * 9, b"[" * 99999])
def test_a_file_without_presets_is_refused_and_changes_nothing(tmp_path: Path, data: bytes) -> None:
    presets = store(tmp_path)
    presets.save({"a": preset()})
    with pytest.raises(BadRequest):
        presets.take_in(data)
    assert list(store(tmp_path).listed()) == ["a"]


def test_a_damaged_preset_costs_itself_only(tmp_path: Path) -> None:
    store(tmp_path).save({"a": preset(steps=5), "b": preset(steps=6)})
    raw = json.loads((tmp_path / "presets.json").read_text("utf-8"))
    (tmp_path / "presets.json").write_text(json.dumps({**raw, "a": "broken"}), "utf-8")
    again = store(tmp_path)
    assert list(again.listed()) == ["b"]
    again.save({"c": preset()})
    assert json.loads((tmp_path / "presets.json").read_text("utf-8"))["a"] == "broken"
