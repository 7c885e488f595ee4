"""What ui-config.json does to the forms, what the Settings tab tells, and the files made of pictures."""

from __future__ import annotations

import io
import json
import re
import wave
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modules.frontends import serve
from modules.frontends.ui import defaults, forms, notify
from modules.frontends.ui.look import Look
from modules.imaging.metadata import read_infotext
from modules.schema.errors import BadRequest
from modules.schema.request import GenerationRequest
from modules.schema.settings import SECTION_OF, Settings
from tests.frontends.stand_in import StandIn, gradient

ROOT = Path(__file__).parent.parent.parent


# ---- ui-config.json ----


def test_a_file_that_says_what_we_do_anyway_changes_nothing() -> None:
    """A1111 writes all of its defaults down at the first start."""
    config: dict[str, Any] = {}
    for tab in forms.FORMS:
        for path, value in forms.untouched(tab).items():
            key = forms.config_keys(tab, path)[-1]
            config.setdefault(f"{key}/value", forms.NUMBERED[path][value] if path in forms.NUMBERED else value)
            config[f"{key}/visible"] = True
    for tab in forms.FORMS:
        assert {path: look for path, look in forms.looks_of(config, tab).items() if look.value is not None} == {}


def test_values_ends_steps_and_sight_are_heeded() -> None:
    looks = forms.looks_of(
        {
            "txt2img/Sampling steps/value": 30, "customscript/sampler.py/txt2img/Sampling steps/value": 25,
            "txt2img/Width/maximum": 4096, "txt2img/Width/value": 3072, "txt2img/Width/step": 64,
            "txt2img/Sampling method/value": "Euler a", "txt2img/Seed/value": 7, "txt2img/Batch size/visible": False,
            "txt2img/Hires. fix/value": True, "txt2img/Denoising strength/value": 0.3,
        },
        "txt2img",
    )  # fmt: skip
    values = forms.untouched("txt2img", looks)
    assert (values["steps"], values["sampler"], values["seed"], values["hires"]) == (25, "Euler a", "7", True)
    assert looks["width"] == Look(value=3072, maximum=4096, step=64)
    slider = forms.slider("width", "txt2img", looks["width"])
    assert (slider.maximum, slider.step, slider.value) == (4096, 64, 3072)
    assert forms.slider("batch_size", "txt2img", looks["batch_size"]).visible == "hidden"
    request = forms.request_from_form(values, None, looks=looks)
    assert (request.width, request.hires and request.hires.denoising_strength) == (3072, 0.3)
    with pytest.raises(BadRequest, match="4096"):
        forms.request_from_form(values | {"width": 4104}, None, looks=looks)


def test_img2img_reads_its_own_labels() -> None:
    config = {
        "img2img/Denoising strength/value": 0.4, "img2img/Resize mode/value": "Crop and resize",
        "img2img/Only masked padding, pixels/value": 64, "img2img/Inpaint area/value": "Only masked",
        "customscript/soft_inpainting.py/img2img/Soft inpainting/value": True,
    }  # fmt: skip
    values = forms.untouched("img2img", forms.looks_of(config, "img2img"))
    assert (values["source.denoising_strength"], values["source.resize_mode"]) == (0.4, 1)
    assert values["source.mask.inpaint_full_res_padding"] == 64
    assert values["source.mask.soft"] is True


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Width/value", "wide"), ("Width/value", 99999), ("Width/value", None), ("Width/value", [512]),
        ("Width/maximum", "a"), ("Width/maximum", 3), ("Width/minimum", -5), ("Width/step", 0), ("Width/visible", "no"),
        ("Sampling method/value", "No such"), ("Seed/value", "x"), ("Styles/value", 3), ("Hires. fix/value", "yes"),
        ("Sampling steps/value", True), ("Width/value", float("nan")), ("Width/maximum", float("inf")),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_passed_over(field: str, value: Any) -> None:
    assert forms.looks_of({f"txt2img/{field}": value}, "txt2img") == {}


def test_the_forms_of_now_become_the_defaults_and_back(desk: StandIn, client: TestClient) -> None:
    draft = forms.untouched("txt2img") | {"steps": 33, "prompt": "a cat", "sampler": "Euler"}
    other = forms.untouched("img2img") | {"source.resize_mode": 2, "source.denoising_strength": 0.5}
    told = client.post("/easel/defaults", json={"drafts": {"txt2img": draft, "img2img": other}}).json()
    assert {(one["tab"], one["label"], one["value"]) for one in told} == {
        ("txt2img", "Sampling method", "Euler"), ("txt2img", "Sampling steps", 33),
        ("img2img", "Resize mode", "Resize and fill"), ("img2img", "Denoising strength", 0.5),
    }  # fmt: skip
    written = json.loads(desk.folders.ui_config_file.read_text("utf-8"))
    assert written["txt2img/Sampling steps/value"] == 33
    assert "txt2img/Prompt/value" not in written
    defaults.keep(desk, {tab: forms.untouched(tab) for tab in forms.FORMS})
    assert client.get("/easel/defaults").json() == []
    assert json.loads(desk.folders.ui_config_file.read_text("utf-8")) == {}


# ---- settings ----


def test_every_option_says_what_it_does_and_lists_know_their_files(client: TestClient) -> None:
    options = {o["key"]: o for section in client.get("/easel/settings").json() for o in section["options"]}
    assert [key for key, option in options.items() if not option["hint"]] == []
    assert options["sd_vae"]["choices"][:2] == ["Automatic", "None"]
    assert options["upscaler_for_img2img"]["choices"][0] == "None"
    assert "tiling" in options["quicksettings_list"]["choices"]
    assert "Euler" in options["s_churn"]["readers"]
    assert "Euler a" not in options["s_churn"]["readers"]
    assert "Karras" in options["rho"]["readers"]


def test_options_that_nothing_reads_are_not_there() -> None:
    """Every key is named somewhere outside the list of settings, by Python or by the page's scripts."""
    here = {ROOT / "modules/schema/settings.py", ROOT / "modules/frontends/ui/hints.py"}
    sources = [*(ROOT / "modules").rglob("*.py"), *(ROOT / "modules").rglob("*.js")]
    text = "\n".join(path.read_text("utf-8") for path in sources if path not in here)
    schema = (ROOT / "modules/schema/settings.py").read_text("utf-8")
    words = set(re.findall(r"\w+", text))
    # Written once in the schema alone would be a setting that changes nothing.
    assert [key for key in SECTION_OF if key not in words and schema.count(key) < 2] == []


# ---- files of pictures ----


@pytest.fixture(scope="module")
def pictures(desk: StandIn) -> list[Any]:
    job = desk.submit(GenerationRequest(prompt="a cat", width=96, height=64, n_iter=3, seed=5, steps=1))
    list(desk.follow(job))
    return list(desk.job(job).images)


def test_a_zip_holds_every_picture_under_its_name(client: TestClient, pictures: list[Any]) -> None:
    ids = [record.id for record in pictures]
    answer = client.post("/easel/zip", json={"ids": [*ids, ids[0]]})
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    names = [Path(record.path).name for record in pictures]
    assert archive.namelist() == [*names, names[0].replace(".png", "-1.png")]
    for record in pictures:
        assert archive.read(Path(record.path).name) == client.get(f"/pictures/{record.id}").content
    assert client.post("/easel/zip", json={"ids": ["nothing"]}).status_code == 404
    assert client.post("/easel/zip", json={"ids": []}).status_code == 422


@pytest.mark.parametrize(
    ("rows", "size", "last"), [(-1, (192, 128), (0, 64)), (1, (288, 64), (192, 0)), (3, (96, 192), (0, 128))]
)
def test_a_grid_shows_all(
    desk: StandIn, client: TestClient, pictures: list[Any], rows: int, size: tuple[int, int], last: tuple[int, int]
) -> None:
    desk.change_settings({"n_rows": rows})
    data = client.post("/easel/grid", json={"ids": [record.id for record in pictures]}).content
    grid = Image.open(io.BytesIO(data))
    assert grid.size == size
    assert "a cat" in (read_infotext(grid) or "")
    cell = grid.crop((*last, last[0] + 96, last[1] + 64))
    assert cell.tobytes() == gradient(96, 64, pictures[2].seed).tobytes()


def test_folders_are_shown_to_who_sits_there_only(desk: StandIn, client: TestClient, pictures: list[Any]) -> None:
    with TestClient(serve.build_app(desk, serve.Sharing(shared=True)), base_url="http://127.0.0.1:7860") as far:
        answer = far.post("/easel/folder", json={"id": pictures[0].id})
        assert answer.status_code == 403
        assert answer.json()["message"] in far.get("/easel/page").text
    assert client.post("/easel/folder", json={"id": pictures[0].id}).status_code == 422  # never saved


# ---- the sound ----


def test_the_sound_is_the_owners_then_our_own_then_none(tmp_path: Path) -> None:
    file, settings = tmp_path / "notification.mp3", Settings()
    assert notify.sound(settings, file) is None
    ours = notify.sound(settings.with_options({"notification_own": True}), file)
    assert ours is not None
    with wave.open(io.BytesIO(ours[0])) as found:
        assert (found.getnchannels(), found.getnframes()) == (1, int(notify.RATE * notify.SECONDS))
    file.write_bytes(b"mp3")
    assert notify.sound(settings, file) == (b"mp3", "audio/mpeg")
    assert notify.sound(settings.with_options({"notification_audio": False}), file) is None


# ---- what Extras and the merger begin with ----


def test_extras_and_the_merger_begin_as_ui_config_says(desk: StandIn, client: TestClient) -> None:
    desk.ui_config.change({
        "customscript/postprocessing_upscale.py/extras/Resize/value": 2.5, "extras/Upscaler 1/value": "Lanczos",
        "extras/Scale/value": "Scale to", "extras/Width/maximum": 4096, "extras/Upscaler 2/value": "No such",
        "extras/Height/value": 99999, "extras/Crop to fit/value": "yes", "extras/Max side length/minimum": 9000,
        "modelmerger/Multiplier (M) - set to 0 to get model A/value": 0.75, "modelmerger/Save as float16/value": True,
        "modelmerger/Interpolation Method/value": "Add difference", "modelmerger/Copy config from/value": "B",
    })  # fmt: skip

    def values(address: str) -> dict[str, Any]:
        parts = client.get(f"/easel/{address}").json()["parts"]
        return {option["key"]: option for part in parts for option in part["options"]}

    extras, merger = values("extras"), values("merger")
    try:
        held = {key: extras[key]["value"] for key in extras if extras[key]["value"] != extras[key]["default"]}
        assert held == {"upscaling_resize": 2.5, "upscaler_1": "Lanczos", "resize_mode": 1}
        assert (extras["upscaling_resize_w"]["le"], extras["max_side_length"]["ge"]) == (4096, 0)
        held = {key: merger[key]["value"] for key in merger if merger[key]["value"] != merger[key]["default"]}
        assert held == {"multiplier": 0.75, "save_as_half": True, "interp_method": "Add difference", "config_source": 1}
    finally:
        desk.ui_config.change(dict.fromkeys(desk.ui_config.known))
