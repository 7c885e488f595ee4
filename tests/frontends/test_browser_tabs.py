"""Extras and the Checkpoint Merger for real: a browser, the running program, files that come of it."""

from __future__ import annotations

import io
import json
import os
import shutil
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
    page.set_default_timeout(30_000)
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
    page.fill("#extras_extras_upscaler_2_visibility input[type=number]", "0.5")
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
    for k in range(2):
        striped(64, 64, test_seed + k).save(tmp_path / f"{k}.png")
    (tmp_path / "fake.png").write_bytes(b"no picture")
    page.click("#tab_extras-button")
    page.wait_for_selector("#extras_upscaler_1")
    page.click("#extras_folder_tab")
    page.select_option("#extras_upscaler_1 select", "Nearest")
    page.fill("#extras_batch_input_dir", str(tmp_path))
    page.click("#extras_generate")
    page.wait_for_selector(".easel-toast.warning:has-text('fake.png')")
    finished(page, 2)
    for wrong in ("", "relative/folder", str(tmp_path / "none"), str(tmp_path / "0.png")):
        answer = httpx.post(f"{program.url}easel/extras/folder", json={"folder": wrong})
        assert (answer.status_code, answer.json()["field"]) == (422, "folder")


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

