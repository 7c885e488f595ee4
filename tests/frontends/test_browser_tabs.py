"""Extras, results, presets, settings and the Checkpoint Merger for real: browser, program, and the files made."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from modules.imaging.metadata import read_infotext
from modules.imaging.upscale import find_upscaler
from tests.frontends.conftest import ROOT, Program, open_program, started

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """On models of its own, since some are made here."""
    models = tmp_path_factory.mktemp("models")
    folder = models / "Stable-diffusion"
    folder.mkdir()
    for name in ("postcards.safetensors", "second.safetensors"):
        shutil.copyfile(ROOT / "models" / "Stable-diffusion" / "postcards.safetensors", folder / name)
    with started(tmp_path_factory.mktemp("data"), models) as found:
        yield found


@pytest.fixture
def page(program: Program, real_context: Any, watch: Any) -> Any:
    page = open_program(real_context, program, watch)
    return page


def striped(width: int, height: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(values.repeat(8, 0).repeat(8, 1))


def file_of(image: Image.Image, name: str = "picture.png") -> dict[str, Any]:
    out = io.BytesIO()
    image.save(out, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": out.getvalue()}


def finished(page: Any, count: int) -> None:
    """The Extras tab shows so many pictures and rests."""
    page.wait_for_selector("body:not(.easel-running)")
    page.wait_for_function("(n) => easel.tools.panels.extras.gallery.records.length === n", arg=count)


def test_a_picture_is_enlarged_compared_and_sent_on(program, page, test_seed):
    picture = striped(96, 64, test_seed)
    page.click("#tab_extras-button")
    page.wait_for_selector("#extras_upscaler_1")
    assert page.is_disabled("#extras_generate")
    assert page.get_attribute("#extras_generate", "title") == "Choose an upscaler first."
    page.set_input_files("#extras_image + input", file_of(picture))
    page.select_option("#extras_upscaler_1 select", "Lanczos")
    page.fill("#extras_upscaling_resize input[type=number]", "2.5")
    page.wait_for_function("document.querySelector('#extras_final_size').textContent === 'from 96×64 to 240×160'")
    page.click("#extras_generate")
    page.wait_for_selector(".easel-compare")
    finished(page, 1)
    (path,) = program.data.glob("outputs/extras-images/????-??-??/*.png")
    upscale = find_upscaler("Lanczos")
    assert upscale is not None
    with Image.open(path) as made:
        assert np.array_equal(np.asarray(made), np.asarray(upscale(picture, 2.5)))
        assert "Postprocess upscaler: Lanczos" in (read_infotext(made) or "")
    before = page.locator(".easel-compare img")
    page.wait_for_function("document.querySelector('.easel-compare img').naturalWidth === 96")
    left = before.evaluate("(image) => getComputedStyle(image).clipPath")
    page.locator(".easel-compare input").focus()
    page.keyboard.press("End")
    assert before.evaluate("(image) => getComputedStyle(image).clipPath") != left
    page.click("#extras_send_to_img2img")
    page.wait_for_selector("#img2img_image canvas.base")
    page.wait_for_function("easel.source.size()?.join() === '240,160'")


def test_to_a_size_with_two_upscalers_and_crop(program, page, test_seed):
    known = set(program.data.glob("outputs/extras-images/*/*.png"))
    page.click("#tab_extras-button")
    page.wait_for_selector("#extras_upscaler_1")
    assert not page.is_visible("#extras_upscaling_resize_w")
    page.click("#extras_batch_tab")
    page.set_input_files("#extras_image_batch + input", [file_of(striped(96, 64, test_seed + k)) for k in range(3)])
    page.click(".easel-sources button >> nth=2")  # leaves it out
    page.select_option("#extras_upscaler_1 select", "Lanczos")
    page.select_option("#extras_upscaler_2 select", "Nearest")
    page.fill("#extras_upscaler_2_visibility input[type=number]", "0.5")
    page.click("#extras_resize_mode label:has-text('Scale to')")
    page.fill("#extras_upscaling_resize_w input[type=number]", "160")
    page.fill("#extras_upscaling_resize_h input[type=number]", "128")
    page.click("#extras_res_switch_btn")
    page.click("#extras_generate")
    finished(page, 2)
    made = sorted(set(program.data.glob("outputs/extras-images/*/*.png")) - known)
    assert [Image.open(path).size for path in made] == [(128, 160)] * 2
    page.reload()  # what was chosen is still chosen
    page.click("#tab_extras-button")
    page.wait_for_selector("#extras_gallery .thumbnail-item >> nth=1")
    assert page.eval_on_selector("#extras_upscaler_2 select", "(box) => box.value") == "Nearest"
    assert page.input_value("#extras_upscaling_resize_h input[type=number]") == "160"


def test_a_folder_is_worked_through_and_what_is_no_picture_is_told(program, page, test_seed, tmp_path):
    made = tmp_path / "made"
    for name in ("first", "second"):
        striped(64, 64, test_seed).save(tmp_path / f"{name}.png")
    (tmp_path / "fake.png").write_bytes(b"no picture")
    page.click("#tab_extras-button")
    page.wait_for_selector("#extras_upscaler_1")
    page.click("#extras_folder_tab")
    page.select_option("#extras_upscaler_1 select", "Nearest")
    page.check("#extras_flip input[value=Horizontal]")
    page.click("#extras_generate")
    page.wait_for_selector(".easel-toast.error:has-text('Name the folder first.')")
    page.fill("#extras_batch_input_dir", str(tmp_path))
    page.fill("#extras_batch_output_dir", str(made))
    page.click("#extras_generate")
    page.wait_for_selector(".easel-toast.warning:has-text('fake')")
    finished(page, 4)
    assert {path.name.split("-")[0].split(".")[0] for path in made.iterdir()} == {"first", "second"}


def number(page: Any, id: str, value: object) -> None:
    page.fill(f"#{id} input[type=number]", str(value))
    page.keyboard.press("Tab")


def draw(page: Any, count: int, tab: str = "txt2img") -> None:
    """Generate, and wait for so many pictures that were not there before."""
    records = f"easel.tools.panels.{tab}.gallery.records"
    known = page.evaluate(f"{records}.map((record) => record.id)")
    page.click(f"#{tab}_generate")
    page.wait_for_function(
        f"([known, n]) => {records}.filter((record) => !known.includes(record.id)).length === n", arg=[known, count]
    )
    page.wait_for_selector("body:not(.easel-running)")


def test_results_are_zipped_laid_out_upscaled_thrown_away_and_taken_back(program, page):
    page.fill("#txt2img_prompt textarea", "a red house on green hills")
    number(page, "txt2img_steps", 2)
    number(page, "txt2img_batch_count", 2)
    draw(page, 2)
    with page.expect_download() as download:
        page.click("#save_zip_txt2img")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in program.pictures())
    page.click("#txt2img_grid")
    page.wait_for_function("document.querySelector('dialog.easel-viewer img')?.naturalWidth === 256")
    page.keyboard.press("Escape")
    page.click("#txt2img_gallery .thumbnail-item >> nth=0")
    assert page.is_disabled("#txt2img_open_folder") or os.environ.get("DISPLAY")
    page.click("#txt2img_upscale")
    page.wait_for_function("easel.tools.panels.txt2img.gallery.records.length === 3")
    page.wait_for_selector("body:not(.easel-running)")
    first, upscaled = page.evaluate("((r) => [r[0], r[2]])(easel.tools.panels.txt2img.gallery.records)")
    assert (upscaled["width"], upscaled["seed"]) == (256, first["seed"])
    assert "Hires upscaler: Latent" in upscaled["infotext"]
    page.click("#txt2img_delete")
    page.wait_for_function("easel.tools.panels.txt2img.gallery.records.length === 2")
    assert not (program.data / upscaled["path"]).is_file()
    page.click("#easel_toasts button:has-text('Take back')")
    page.wait_for_function("easel.tools.panels.txt2img.gallery.records.length === 3")
    assert (program.data / upscaled["path"]).is_file()


def test_a_preset_is_saved_applied_exported_and_begins_with_a_family(program, page):
    number(page, "txt2img_steps", 7)
    number(page, "txt2img_cfg_scale", 3.5)
    page.fill("#txt2img_prompt textarea", "a boat")
    page.wait_for_function("JSON.parse(localStorage.getItem('easel.txt2img.draft')).steps === 7")
    page.click("#txt2img_presets")
    page.fill("#presets_name", "quick boats")
    page.click("#presets_dialog button.primary")
    page.wait_for_selector(".easel-preset:has-text('quick boats')")
    page.click(".easel-preset button:has-text('☆')")
    page.wait_for_selector(".easel-preset:has-text('default of sd1')")
    with page.expect_download() as download:
        page.click(".easel-preset button:has-text('⤓')")
    given = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert given["quick boats"]["values"]["steps"] == 7
    assert "seed" not in given["quick boats"]["values"]
    page.click("#presets_dialog button:has-text('Close')")
    number(page, "txt2img_steps", 9)
    page.fill("#txt2img_prompt textarea", "something else")
    page.click("#txt2img_presets")
    page.click(".easel-preset button:has-text('Apply')")
    page.wait_for_function("document.querySelector('#txt2img_steps input').value === '7'")
    assert page.input_value("#txt2img_prompt textarea") == "a boat"
    page.click("#txt2img_presets")
    page.click(".easel-preset button:has-text('×')")
    page.wait_for_selector(".easel-preset", state="detached")
    page.set_input_files(
        "#presets_file", {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(given).encode()}
    )
    page.wait_for_selector(".easel-preset:has-text('quick boats')")
    page.keyboard.press("Escape")


def test_the_bar_shows_the_settings_wanted_and_they_act(program, page):
    url = f"{program.url}easel/settings"
    httpx.post(url, json={"quicksettings_list": ["sd_model_checkpoint", "CLIP_stop_at_last_layers", "tiling"]})
    page.reload()
    page.wait_for_selector("#quicksettings #setting_CLIP_stop_at_last_layers")
    page.fill("#setting_CLIP_stop_at_last_layers", "2")
    page.keyboard.press("Tab")
    page.check("#setting_tiling")

    def held() -> dict[str, Any]:
        return {o["key"]: o["value"] for section in httpx.get(url).json() for o in section["options"]}

    page.wait_for_function("(async () => (await (await fetch('easel/settings')).text()).includes('x'))()")
    assert (held()["CLIP_stop_at_last_layers"], held()["tiling"]) == (2, True)
    page.click("#tab_settings-button")
    page.wait_for_selector("#settings_tab_tiling")
    page.uncheck("#settings_tab_tiling")
    page.click("#settings_submit")
    page.wait_for_function("!document.querySelector('#quicksettings #setting_tiling').checked")
    httpx.post(url, json={"quicksettings_list": ["sd_model_checkpoint"], "CLIP_stop_at_last_layers": 1})


def test_a_picture_read_by_png_info_and_sent_is_drawn_the_same(program, page):
    for sampler, hires in (("Euler a", False), ("DPM++ 2M SDE", True)):
        page.click("#tab_txt2img-button")
        page.fill("#txt2img_prompt textarea", f"a (small:1.2) boat on the sea, {sampler}")
        number(page, "txt2img_steps", 3)
        number(page, "txt2img_batch_count", 1)
        page.fill("#txt2img_seed input", "77")
        page.set_checked("#txt2img_hr-checkbox input", hires)
        page.click("#txt2img_sampling input")
        page.fill("#txt2img_sampling input", sampler)
        page.keyboard.press("Enter")
        known = set(program.pictures())
        draw(page, 1)
        (first,) = set(program.pictures()) - known
        page.fill("#txt2img_prompt textarea", "")
        page.fill("#txt2img_seed input", "-1")
        page.set_checked("#txt2img_hr-checkbox input", False)
        number(page, "txt2img_steps", 20)
        page.click("#tab_pnginfo-button")
        page.set_input_files("#pnginfo_image + input", first)
        page.wait_for_selector("#pnginfo_buttons:visible")
        page.click("#pnginfo_buttons [data-to=txt2img]")
        page.wait_for_function("document.querySelector('#txt2img_seed input').value === '77'")
        known = set(program.pictures())
        draw(page, 1)
        (again,) = set(program.pictures()) - known
        with Image.open(first) as one, Image.open(again) as other:
            assert one.tobytes() == other.tobytes()
            assert read_infotext(one) == read_infotext(other)


def test_a_batch_of_pictures_is_drawn_over_one_by_one(program, page, test_seed):
    page.click("#tab_img2img-button")
    page.click("#img2img_batch_tab")
    page.click("#img2img_generate")
    page.wait_for_selector(".easel-toast.error:has-text('There are no pictures to start from yet')")
    page.set_input_files("#img2img_batch_upload + input", [file_of(striped(64, 64, test_seed + k)) for k in range(2)])
    number(page, "img2img_steps", 2)
    known = set(program.pictures("img2img"))
    draw(page, 2, "img2img")
    drawn = page.evaluate("easel.tools.panels.img2img.gallery.records.slice(-2)")
    assert {program.data / record["path"] for record in drawn} == set(program.pictures("img2img")) - known
    assert len({record["parents"][0] for record in drawn}) == 2  # each over a picture of its own
    page.click("#img2img_img2img_tab")
    page.set_input_files("#img2img_image + input", file_of(striped(64, 64, test_seed)))
    page.wait_for_selector("#img2img_image canvas.base")
    box = page.locator("#img2img_image").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    width = page.locator(".easel-layers").bounding_box()["width"]
    page.keyboard.down("Alt")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Alt")
    page.wait_for_function(
        "(w) => document.querySelector('.easel-layers').getBoundingClientRect().width > w", arg=width
    )
    page.keyboard.press("r")
    page.wait_for_function(
        "(w) => Math.abs(document.querySelector('.easel-layers').getBoundingClientRect().width - w) < 1", arg=width
    )


def test_checkpoints_are_merged_and_the_result_is_in_the_list(program, page):
    folder = Path(httpx.get(f"{program.url}models").json()[0]["path"]).parent
    page.click("#tab_modelmerger-button")
    page.wait_for_selector("#modelmerger_merge")
    assert page.get_attribute("#modelmerger_merge", "title") == "Choose model A first."
    page.select_option("#modelmerger_primary_model_name select", "postcards")
    page.select_option("#modelmerger_secondary_model_name select", "second")
    assert page.is_disabled("#modelmerger_tertiary_model_name select")
    page.select_option("#modelmerger_interp_method select", "No interpolation")
    assert page.is_disabled("#modelmerger_secondary_model_name select")
    assert page.is_disabled("#modelmerger_interp_amount input[type=number]")
    page.select_option("#modelmerger_interp_method select", "Weighted sum")
    page.fill("#modelmerger_custom_name input", "mixed")
    page.check("#modelmerger_save_as_half input")
    page.fill("#modelmerger_discard_weights input", "first_stage_model")
    page.click("#modelmerger_metadata_editor summary")
    page.click("#modelmerger_read_metadata")
    page.wait_for_function("document.querySelector('#modelmerger_metadata textarea').value.includes('modelspec')")
    page.fill("#modelmerger_metadata textarea", "[1]")
    page.click("#modelmerger_merge")
    page.wait_for_selector(".easel-toast.error:has-text('no JSON object')")
    page.fill("#modelmerger_metadata textarea", json.dumps({"note": "half of each"}))
    page.click("#modelmerger_merge")
    page.wait_for_selector(".easel-task.done:has-text('mixed.safetensors')")
    with safe_open(folder / "mixed.safetensors", "np") as file:
        assert file.metadata()["note"] == "half of each"
        recipe = json.loads(file.metadata()["sd_merge_recipe"])
        assert (recipe["interp_method"], recipe["multiplier"]) == ("Weighted sum", 0.3)
        names = file.keys()
        assert not [key for key in names if key.startswith("first_stage_model")]
    page.click("#setting_sd_model_checkpoint input")
    page.wait_for_selector("[role=listbox] :text('mixed.safetensors')")


def test_a_pickle_is_converted(program, page):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    folder = Path(httpx.get(f"{program.url}models").json()[0]["path"]).parent
    tensors = load_file(folder / "second.safetensors")
    torch.save({"state_dict": tensors}, folder / "old.ckpt")
    page.click("#tab_modelmerger-button")
    page.wait_for_selector("#modelmerger_merge")
    page.click("#refresh_checkpoint_A")
    page.click("#modelmerger_pickles button[aria-label='Convert old']")
    page.wait_for_selector(".easel-task.done:has-text('old.safetensors')")
    page.wait_for_selector("#modelmerger_pickles button", state="detached")
    again = load_file(folder / "old.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    os.unlink(folder / "old.ckpt")
