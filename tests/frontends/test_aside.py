"""The Save button's folder and log.csv, names of zips, and what of a pasted infotext is taken, without a browser."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from modules.frontends import serve
from modules.frontends.ui import app, forms
from modules.frontends.ui.panel import opening
from modules.prompt.styles import Style
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from tests.frontends.stand_in import StandIn

OLD = "prompt,seed,width,height,sampler,cfgs,steps,filename,negative_prompt"


@pytest.fixture
def desk() -> Iterator[StandIn]:
    service = StandIn(pace=0)
    yield service
    service.close()


@pytest.fixture
def client(desk: StandIn) -> Iterator[TestClient]:
    with TestClient(serve.build_app(desk), base_url="http://127.0.0.1:7860") as client:
        yield client


def drawn(desk: StandIn, **more: Any) -> list[Any]:
    job = desk.submit(GenerationRequest(prompt='a "cat", old', width=96, height=64, seed=5, steps=3, **more))
    list(desk.follow(job))
    return list(desk.job(job).images)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def test_a_saved_picture_is_a_copy_with_a_row_in_the_log(desk: StandIn, client: TestClient) -> None:
    first, second = drawn(desk, n_iter=2)
    told = client.post("/easel/save", json={"ids": [first.id, second.id]}).json()
    folder = desk.folders.data / "log" / "images"
    assert told == {"paths": [f"log/images/{Path(one.path).name}" for one in (first, second)], "problem": ""}
    for record in (first, second):
        assert (folder / Path(record.path).name).read_bytes() == client.get(f"/pictures/{record.id}").content
    rows = table(folder / "log.csv")
    assert list(rows[0]) == [*OLD.split(","), "sd_model_name", "sd_model_hash"]
    assert [(row["prompt"], row["seed"], row["width"], row["steps"]) for row in rows] == [
        ('a "cat", old', "5", "96", "3"), ('a "cat", old', "6", "96", "3"),
    ]  # fmt: skip
    assert rows[0]["filename"] == Path(first.path).name
    # Once more: it is there already, so nothing is added.
    assert client.post("/easel/save", json={"ids": [first.id]}).json()["paths"] == told["paths"][:1]
    assert len(table(folder / "log.csv")) == 2


def test_another_picture_of_that_name_gets_a_number_and_an_old_log_its_columns(
    desk: StandIn, client: TestClient
) -> None:
    (record,) = drawn(desk)
    folder = desk.folders.data / "log" / "images"
    folder.mkdir(parents=True)
    name = Path(record.path).name
    (folder / name).write_bytes(b"mine")
    (folder / "log.csv").write_text(f'{OLD}\r\n"a, dog",1,512,512,Euler,7,20,dog.png,\r\n', "utf-8")
    (path,) = client.post("/easel/save", json={"ids": [record.id]}).json()["paths"]
    assert path == f"log/images/{name.replace('.png', '-1.png')}"
    assert (folder / name).read_bytes() == b"mine"
    old, new = table(folder / "log.csv")
    assert (old["prompt"], old["filename"], old["sd_model_name"]) == ("a, dog", "dog.png", "")
    assert new["filename"] == name.replace(".png", "-1.png")


def test_a_log_of_something_else_is_left_alone_and_told_of(desk: StandIn, client: TestClient) -> None:
    (record,) = drawn(desk)
    folder = desk.folders.data / "log" / "images"
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text("time,weather\n", "utf-8")
    told = client.post("/easel/save", json={"ids": [record.id]}).json()
    assert "other columns" in told["problem"]
    assert (desk.folders.data / told["paths"][0]).is_file()
    assert (folder / "log.csv").read_text("utf-8") == "time,weather\n"


def test_where_it_is_saved_and_what_a_zip_is_called_are_settings(desk: StandIn, client: TestClient) -> None:
    (record,) = drawn(desk)
    desk.change_settings({
        "outdir_save": "kept", "use_save_to_dirs_for_ui": True, "directories_filename_pattern": "[width]/[seed]",
        "save_write_log_csv": False, "grid_zip_filename_pattern": "all of [seed]",
    })  # fmt: skip
    (path,) = client.post("/easel/save", json={"ids": [record.id]}).json()["paths"]
    assert path == f"kept/96/5/{Path(record.path).name}"
    assert not (desk.folders.data / "kept" / "log.csv").exists()
    assert client.post("/easel/zip", json={"ids": [record.id]}).headers["x-name"] == "all%20of%205"
    assert client.post("/easel/save", json={"ids": ["none"]}).status_code == 404


def test_from_elsewhere_nothing_is_written_here(desk: StandIn) -> None:
    (record,) = drawn(desk)
    with TestClient(serve.build_app(desk, serve.Sharing(shared=True)), base_url="http://127.0.0.1:7860") as far:
        assert far.post("/easel/save", json={"ids": [record.id]}).status_code == 403
    assert not (desk.folders.data / "log").exists()


# ---- what is pasted ----

TOLD = "a cat, oil\nSteps: 20, Sampler: Euler, CFG scale: 5, Seed: 3, Size: 96x64, Model: dream"


def pasted(**changes: Any) -> dict[str, Any]:
    views = StandIn.checkpoints(None)  # type: ignore[arg-type]
    settings = Settings().with_options(changes)
    styles = {"oil": Style("oil", "oil")}
    return forms.values_from_infotext(TOLD, "txt2img", settings, views, "postcards", styles)


def test_fields_that_are_not_wanted_stay_as_they_are() -> None:
    assert (pasted()["seed"], pasted()["width"]) == ("3", 96)
    kept = pasted(infotext_skip_pasting=["Seed", "Size-1", "Hires steps"])
    assert {"seed", "width", "hires.hr_second_pass_steps"}.isdisjoint(kept)
    assert kept["height"] == 64


def test_another_model_is_taken_or_not() -> None:
    assert pasted()["override_settings"] == ["Model: dream"]
    assert pasted(disable_weights_auto_swap=True)["override_settings"] == []


@pytest.mark.parametrize(
    ("how", "prompt", "styles"),
    [("Apply", "a cat", ["oil"]), ("Ignore", "a cat, oil", None), ("Discard", "a cat", None),
     ("Apply if any", "a cat", ["oil"])],
)  # fmt: skip
def test_styles_are_found_in_a_prompt_as_asked(how: str, prompt: str, styles: list[str] | None) -> None:
    found = pasted(infotext_styles=how)
    assert (found["prompt"], found.get("styles")) == (prompt, styles)


# ---- what is shown ----


def test_lists_and_tabs_follow_the_settings(desk: StandIn) -> None:
    assert app.tab_order(("History", "img2img", "nothing"))[:3] == ["history", "img2img", "txt2img"]
    assert sorted(app.tab_order(())) == sorted(app.tab_order(("settings",)))
    desk.change_settings({"hide_samplers": ["Euler", "DDIM"]})
    _, values = opening(desk, "txt2img", "{}")
    shown = values[list(forms.FORMS["txt2img"]).index("sampler")]["choices"]
    names = [name for name, _ in shown] if isinstance(shown[0], tuple) else shown
    assert ("Euler" in names, "Euler a" in names) == (False, True)
    _, values = opening(desk, "txt2img", '{"sampler": "DDIM"}')  # what is chosen is never hidden
    shown = values[list(forms.FORMS["txt2img"]).index("sampler")]["choices"]
    assert "DDIM" in str(shown)
    view = desk.checkpoints()[0].model_copy(update={"name": "sub/dream", "title": "sub/dream [12]"})
    assert forms.checkpoint_choices([view]) == [("sub/dream [12]", "sub/dream")]
    assert forms.checkpoint_choices([view], short=True) == [("dream", "sub/dream")]
