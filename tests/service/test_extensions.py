"""Extensions as the server knows them: listed by what they declare, switched on, and never run by the server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.frontends.ui.language import Languages
from modules.prompt import wildcards
from modules.schema import events as ev
from modules.schema.errors import BadFile, BadRequest
from modules.schema.extensions import declared
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Extensions, Settings
from modules.service.extensions import ExtensionStore
from modules.service.freezing import Freeze
from modules.service.generation import GenerationService
from modules.service.tag_files import TagFiles
from tests.extending import SECTION, switched_on, write_extension


def store(folder: Path, settings: Settings | None = None, **failures: str) -> ExtensionStore:
    return ExtensionStore(folder, lambda: settings or Settings(), lambda: failures)


def test_folders_are_listed_with_what_they_are_and_nothing_is_run(tmp_path: Path) -> None:
    write_extension(tmp_path, "grain", "raise SystemExit", 'needs = ["net"]' + SECTION, name="Film grain")
    (tmp_path / "old" / "scripts").mkdir(parents=True)
    (tmp_path / "old" / "scripts" / "main.py").write_text("raise SystemExit")
    (tmp_path / "words" / "wildcards").mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "extension.py").write_text("")
    write_extension(tmp_path, "odd", "", "needs = ['everything']")
    write_extension(tmp_path, "na;me")
    (tmp_path / ".git").mkdir()
    (tmp_path / "a file").write_text("")
    before = set(sys.modules)
    seen = {each.key: each for each in store(tmp_path).listed()}
    assert list(seen) == ["bare", "grain", "na;me", "odd", "old", "words"]
    grain = seen["grain"]
    assert (grain.name, grain.on, grain.asks, grain.problem) == ("Film grain", False, ("net",), "")
    assert "A1111" in seen["old"].note
    assert seen["words"].brings == ("wildcards",)
    assert "extension.toml is missing" in seen["bare"].problem
    assert "needs.0" in seen["odd"].problem
    assert "rename" in seen["na;me"].problem
    assert not any(name.startswith("easel_extension") for name in set(sys.modules) - before)
    assert store(tmp_path / "none").listed() == ExtensionStore(None, Settings).listed() == []


def test_switching_on_agrees_to_what_is_needed_and_off_forgets_it(tmp_path: Path) -> None:
    write_extension(tmp_path, "one", "", 'needs = ["net", "disk"]')
    write_extension(tmp_path, "two", "")
    write_extension(tmp_path, "odd", "", "author = 3")
    settings = Settings(extensions=Extensions(disabled_extensions=("one", "other")))
    changes = store(tmp_path, settings).switched(["one"])
    assert changes == {"enabled_extensions": {"one": ("net", "disk")}, "disabled_extensions": ["other"]}
    settings = settings.with_options(changes)
    assert [each.key for each in store(tmp_path, settings).active()] == ["one"]
    write_extension(tmp_path, "one", "", 'needs = ["net", "disk", "programs"]')
    (one,) = (each for each in store(tmp_path, settings).listed() if each.key == "one")
    assert (one.on, one.asks) == (False, ("programs",))
    assert store(tmp_path, settings).switched([])["enabled_extensions"] == {}
    for name, why in (("odd", "author"), ("gone", "no such folder"), ("../x", "no such folder")):
        with pytest.raises(BadRequest, match=f"cannot be switched on.*{why}"):
            store(tmp_path).switched([name])


def test_what_the_drawing_process_could_not_load_is_told(tmp_path: Path) -> None:
    write_extension(tmp_path, "one", "1 / 0")
    (seen,) = store(tmp_path, switched_on("one"), one="extension.py cannot be imported.").listed()
    assert seen.failed == "extension.py cannot be imported."
    (seen,) = store(tmp_path, Settings(), one="extension.py cannot be imported.").listed()
    assert seen.failed == ""


def test_sections_are_checked_and_filled_in_before_a_job_is_queued(tmp_path: Path) -> None:
    write_extension(tmp_path, "grain", "", SECTION, name="Film grain")
    known = store(tmp_path, switched_on("grain"))
    asked = GenerationRequest(extensions={"Film Grain": {}})
    assert known.checked(asked).extensions == {"grain": {"strength": 0.5}}
    for sections, said in (
        ({"grain": {"strength": 2}}, "Film grain: Strength is a number from 0 to 1."),
        ({"grain": {"colour": 2}}, "Film grain has no field called 'colour'; it takes strength."),
        ({"rain": {}}, "No extension called 'rain'"),
    ):
        with pytest.raises(BadRequest, match=said):
            known.checked(GenerationRequest(extensions=sections))
    with pytest.raises(BadRequest, match="No extension"):
        store(tmp_path).checked(asked)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", "name: Field required"),
        ('name = "x"\nnam = 1', "nam: Extra inputs"),
        ("name = ", "no TOML"),
        ('name = "x"\n' + SECTION.replace("0.5", "7"), "the default of strength cannot be"),
        ('name = "x"\n' + SECTION.replace("0.5", '"0.5"'), "is of another kind"),
        ('name = "x"\n' + SECTION.replace('"strength"', '"Big Name"'), "section.fields.0.name"),
        ('name = "x"\n' + SECTION.replace("maximum = 1", "maximum = 0"), "needs a minimum below its maximum"),
        ('name = "x"\n' + SECTION + 'infotext = "Steps"\n', "infotexts have 'Steps' already"),
        ('name = "Hires"\n' + SECTION.replace('"Strength"', '"steps"'), "infotexts have 'Hires steps' already"),
        ('name = "x"\n[section]\n' + "\n".join(SECTION.split("\n")[3:]) * 2, "two fields have the same name"),
        ("#" * 200_000, "larger than"),
    ],
)
def test_declarations_that_make_no_sense_are_told(toml: str, said: str) -> None:
    with pytest.raises(BadFile, match=said):
        declared(toml)


KINDS: list[tuple[str, list[tuple[Any, Any]], list[Any]]] = [
    ('kind = "checkbox"\ndefault = true', [(False, False), ("False", False), (1, True), ("true", True)], ["no", 2, []]),
    ('kind = "number"\ndefault = 3', [("4", 4), (5.0, 5), (-7, -7)], [1.5, "x", True, "nan", None]),
    ('kind = "slider"\ndefault = 1\nminimum = 0\nmaximum = 2\nstep = 0.5', [(1.5, 1.5), ("2", 2.0)], [3, -1, "1e400"]),
    ('kind = "text"\ndefault = ""', [("a", "a"), (3, "3")], [True, [], "x" * 10_001]),
    ('kind = "dropdown"\ndefault = "a"\nchoices = ["a", "b"]', [("b", "b")], ["c", 1, None]),
]


@pytest.mark.parametrize(("toml", "good", "bad"), KINDS, ids=[kind[0].split('"')[1] for kind in KINDS])
def test_values_of_each_kind_are_read_from_json_and_from_infotexts(
    toml: str, good: list[tuple[Any, Any]], bad: list[Any]
) -> None:
    if "slider" in toml:
        toml = toml.replace("default = 1", "default = 1.0")
    own = declared(f'name = "x"\n[section]\n[[section.fields]]\nname = "v"\nlabel = "V: 1"\n{toml}')
    for given, value in good:
        found = own.values({"v": given})
        assert found == {"v": value}
        assert type(found["v"]) is type(value)
        assert own.read({"x V 1": str(value)}) == found
    for given in bad:
        with pytest.raises(BadRequest, match="x: V: 1 "):
            own.values({"v": given})
    assert own.read({"Steps": "3"}) is None


def test_data_of_a_disabled_extension_is_not_read(tmp_path: Path) -> None:
    folders = Folders.under(tmp_path)
    assert folders.extensions is not None
    for key in ("one", "two"):
        for kind, name in (("wildcards", "x.txt"), ("tags", "x.csv"), ("localizations", f"{key}.json")):
            place = folders.extensions / key / kind
            place.mkdir(parents=True)
            (place / name).write_text("{}" if kind == "localizations" else f"{key}tag,0,1\n")
    chosen = Extensions(disabled_extensions=("one",))
    flags = {"data_dir": str(tmp_path)}
    found = wildcards.places(folders.wildcards, folders.extensions, chosen.disables)
    assert [path.parent.name for path in found[1:]] == ["two"]
    assert TagFiles(tmp_path, folders.extensions, chosen.disables).find("onetag") == []
    assert len(TagFiles(tmp_path, folders.extensions, chosen.disables).find("twotag")) == 1
    assert {"one", "two"} & set(Languages.of(flags).allowed(chosen.disables).names()) == {"two"}
    everything = Extensions(disable_all_extensions="all")
    assert wildcards.places(folders.wildcards, folders.extensions, everything.disables) == (folders.wildcards,)


@pytest.fixture
def opened(open_service: Callable[..., GenerationService]) -> GenerationService:
    return open_service("process")


def finished(service: GenerationService, **asked: Any) -> list[ev.Event]:
    job = service.submit(GenerationRequest(width=64, height=64, steps=1, **asked))
    return [event for _, event in service.follow(job, timeout=60)]


def test_switching_begins_the_worker_anew_after_the_job_at_hand(opened: GenerationService) -> None:
    assert opened.folders.extensions is not None
    write_extension(opened.folders.extensions, "one", "")
    finished(opened)
    first = opened.stats()["worker"]["pid"]
    job = opened.submit(GenerationRequest(width=64, height=64, steps=20, prompt="step=0.02"))
    next(iter(opened.follow(job)))
    opened.folders.extension_mark.write_text("one")
    opened.change_settings(opened.extensions.switched(["one"]))
    assert not opened.folders.extension_mark.exists()
    assert isinstance([event for _, event in opened.follow(job, timeout=60)][-1], ev.Done)
    assert isinstance(finished(opened)[-1], ev.Done)
    second = opened.stats()["worker"]["pid"]
    assert second != first
    opened.change_settings({"extension_settings": {"one": {"a": 1}}, "jpeg_quality": 70})
    assert isinstance(finished(opened)[-1], ev.Done)
    assert opened.stats()["worker"]["pid"] == second


def test_a_waiting_job_runs_no_extension_that_was_switched_off(opened: GenerationService) -> None:
    assert opened.folders.extensions is not None
    write_extension(opened.folders.extensions, "one", "")
    opened.change_settings(opened.extensions.switched(["one"]))
    given: list[Settings] = []
    submit = opened._worker.submit

    def see(job: str, request: GenerationRequest, settings: Settings, done: frozenset[int]) -> Iterator[ev.Event]:
        given.append(settings)
        return submit(job, request, settings, done)

    opened._worker.submit = see  # type: ignore[method-assign]
    finished(opened)
    opened.hold_queue(True)
    job = opened.submit(GenerationRequest(width=64, height=64, steps=1))
    opened.change_settings(opened.extensions.switched([]))
    opened.hold_queue(False)
    assert isinstance([event for _, event in opened.follow(job, timeout=60)][-1], ev.Done)
    assert [each.extensions.on("one", ()) for each in given] == [True, False]


def test_a_request_cannot_switch_extensions(opened: GenerationService) -> None:
    for key, value in (("enabled_extensions", {"one": []}), ("disable_all_extensions", "none")):
        with pytest.raises(BadRequest, match="owner's setting"):
            opened.submit(GenerationRequest(override_settings={key: value}))


def test_from_outside_extensions_are_not_switched(tmp_path: Path) -> None:
    now, outside = Settings(), Freeze.of({}, extension_access=False)
    for changes in (
        {"enabled_extensions": {"x": []}},
        {"disabled_extensions": ["x"]},
        {"disable_all_extensions": "all"},
    ):
        with pytest.raises(BadRequest, match="--enable-insecure-extension-access"):
            outside.check(now, changes)
        Freeze.of({}).check(now, changes)
    outside.check(now, {"disabled_extensions": [], "enabled_extensions": {}, "jpeg_quality": 3})


def test_jobs_asked_for_while_the_worker_begins_anew_are_all_drawn(opened: GenerationService) -> None:
    for _ in range(3):
        jobs = [opened.submit(GenerationRequest(width=64, height=64, steps=1)) for _ in range(2)]
        opened.renew()
        jobs += [opened.submit(GenerationRequest(width=64, height=64, steps=1)) for _ in range(2)]
        for job in jobs:
            assert isinstance([event for _, event in opened.follow(job, timeout=60)][-1], ev.Done)
