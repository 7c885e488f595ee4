"""Pictures out of pictures, for real: hires fix, send-to, a painted mask, PNG Info, with the shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from modules.imaging.metadata import read_infotext
from modules.prompt import infotext
from tests.frontends.conftest import Program, open_program

pytestmark = pytest.mark.browser
PROMPT = "a red house on green hills, night, moon"


@pytest.fixture
def page(program: Program, real_context: Any, watch: Any) -> Any:
    page = open_program(real_context, program, watch)
    return page


def fill(page: Any, id: str, value: object) -> None:
    box = page.locator(f"#{id} :is(textarea, input[type=number], input[type=text], input:not([type]))").first
    box.fill(str(value))
    box.press("Tab")


def generate(page: Any, program: Program, tab: str) -> Path:
    """Presses Generate and waits for the file that it brings."""
    before = page.evaluate(f"document.querySelector('#{tab}_gallery img.easel-picture')?.src ?? ''")
    files = program.pictures(tab)
    page.click(f"#{tab}_generate")
    page.wait_for_function(
        """([id, before]) => document.querySelector('.easel-toast.error')
            || (/pictures/.test(document.querySelector(id)?.src) && document.querySelector(id).src !== before
                && !document.body.classList.contains('easel-running'))""",
        arg=[f"#{tab}_gallery img.easel-picture", before],
    )
    assert page.locator(".easel-toast.error").all_inner_texts() == []
    (path,) = set(program.pictures(tab)) - set(files)
    return path


def fields_of(path: Path) -> infotext.Infotext:
    with Image.open(path) as image:
        return infotext.read(read_infotext(image) or "")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_hires_fix_then_a_painted_mask_then_the_settings_back(program, page):
    fill(page, "txt2img_prompt", PROMPT)
    fill(page, "txt2img_steps", 4)
    fill(page, "txt2img_seed", 7)
    page.click("#txt2img_hr-checkbox input")
    fill(page, "txt2img_hr_scale", 1.5)
    page.wait_for_function("document.querySelector('#txtimg_hr_finalres').textContent === 'from 128×128 to 192×192'")
    first = generate(page, program, "txt2img")
    told = fields_of(first)
    assert Image.open(first).size == (192, 192)
    assert (told.fields["Hires upscale"], told.fields["Size"]) == ("1.5", "128x128")

    # Its right half is masked and drawn anew; the left stays as it was, to the bit.
    page.click("#txt2img_send_to_inpaint")
    page.wait_for_selector("#img2img_image canvas.base")
    page.wait_for_function("document.querySelector('#img2img_width input').value === '192'")
    assert page.input_value("#img2img_prompt textarea") == PROMPT
    assert page.input_value("#img2img_seed input") == "7"
    fill(page, "img2img_seed", 8)
    fill(page, "img2img_mask_blur", 0)
    page.click("#img2img_inpainting_fill label:has-text('latent noise')")
    page.evaluate("easel.source.width = 60")
    page.locator("#mode_img2img").evaluate("(place) => place.scrollIntoView()")
    box = page.locator(".easel-layers").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + side * 0.75, y + 2)
    page.mouse.down()
    page.mouse.move(x + side * 0.75, y + side - 2, steps=5)
    page.mouse.up()
    masked = generate(page, program, "img2img")
    before, after = pixels(first), pixels(masked)
    assert (before[:, :96] == after[:, :96]).all()
    assert np.abs(before[:, 132:156] - after[:, 132:156]).mean() > 3
    assert fields_of(masked).fields["Masked content"] == "latent noise"

    # The mask is still there; another seed draws another right half over the same left one. Undone, it is refused.
    fill(page, "img2img_seed", 9)
    again = pixels(generate(page, program, "img2img"))
    assert (before[:, :96] == again[:, :96]).all()
    assert (again != after).any()
    page.click("[data-act=undo]")
    page.click("#img2img_generate")
    page.wait_for_function("document.querySelector('#easel_toasts')?.innerText.includes('Nothing is masked yet')")
    page.click("#easel_toasts button")
    page.click("[data-act=redo]")

    # The history gives back source, mask and settings of the masked picture, and it comes out with the same bits.
    fill(page, "img2img_prompt", "something else")
    page.evaluate("easel.source.remove()")
    page.click("#tab_history-button")
    page.fill("#history_search", "seed:8")
    page.wait_for_function("document.querySelector('#history_count').innerText === '1 picture'")
    id = page.evaluate("async () => (await (await fetch('history?q=seed:8')).json()).pictures[0].id")
    page.click(f"#history .easel-tile[data-index='0'][data-id='{id}']")
    page.click("#history_restore_settings")
    page.wait_for_function("document.querySelector('#img2img_seed input')?.value === '8'")
    page.wait_for_selector("#img_inpaint_mask img")
    page.wait_for_timeout(500)
    restored = generate(page, program, "img2img")
    assert (pixels(restored) == after).all()
    assert fields_of(restored) == fields_of(masked)

    # The whole picture, by half its size.
    page.click("#img2img_img2img_tab")
    page.click("#img2img_resize_by label:has-text('Resize by')")
    fill(page, "img2img_scale", 0.5)
    small = generate(page, program, "img2img")
    assert Image.open(small).size == (96, 96)
    assert fields_of(small).fields["Denoising strength"] == "0.7"  # as sent along

    # Painted over in Sketch it goes on to Inpaint with its paint, which can be undone.
    page.click("#img2img_sketch_tab")
    box = page.locator(".easel-layers").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + side * 0.3, y + side / 2)
    page.mouse.down()
    page.mouse.move(x + side * 0.7, y + side / 2, steps=3)
    page.mouse.up()
    page.click("#img2img_copy_to_sketch [data-copy=inpaint]")
    page.wait_for_selector("#img2img_copy_to_inpaint [data-copy=inpaint]:disabled")
    middle = """(() => {
        const one = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        one.drawImage(document.querySelector("canvas.base"), 96, 96, 1, 1, 0, 0, 1, 1);
        return [...one.getImageData(0, 0, 1, 1).data];
    })()"""
    assert page.evaluate(middle) == [255, 255, 255, 255]
    assert page.evaluate("easel.source.strokes.paint.length") == 0
    page.click("#easel_toasts .act:has-text('Undo')")
    page.wait_for_selector("#img2img_copy_to_sketch")
    assert page.evaluate(middle) != [255, 255, 255, 255]
    assert page.evaluate("easel.source.strokes.paint.length") == 1

    # PNG Info reads the first file again, and txt2img draws the same bits from it.
    page.click("#tab_pnginfo-button")
    page.wait_for_selector("#pnginfo_image")
    page.set_input_files("#pnginfo_panel input[type=file]", first)
    page.wait_for_selector("#html_info_pnginfo dl")
    assert PROMPT in page.inner_text("#html_info_pnginfo")
    page.click("#pnginfo_buttons [data-to=txt2img]")
    page.wait_for_selector("#txt2img_generate:visible")
    page.wait_for_timeout(500)
    same = generate(page, program, "txt2img")
    assert (pixels(same) == before).all()
    assert fields_of(same) == told


def test_an_infotext_in_the_prompt_box_fills_the_form(program, page):
    fill(
        page,
        "txt2img_prompt",
        f"{PROMPT}\nSteps: 3, Sampler: Euler a, CFG scale: 4, Seed: 21, Size: 64x96, Clip skip: 2",
    )
    page.click("#paste")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '21'")
    assert page.input_value("#txt2img_prompt textarea") == PROMPT
    page.click("#txt2img_subseed_show input")
    fill(page, "txt2img_subseed", 5)
    fill(page, "txt2img_subseed_strength", 0.5)
    path = generate(page, program, "txt2img")
    told = fields_of(path).fields
    assert Image.open(path).size == (64, 96)
    wanted = {"Steps": "3", "Sampler": "Euler a", "Seed": "21", "Clip skip": "2", "Variation seed": "5"}
    assert {key: told.get(key) for key in wanted} == wanted
    page.fill("#txt2img_prompt textarea", "")
    fill(page, "txt2img_seed", 1)
    page.click("#paste")  # nothing in the box: the picture drawn last
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '21'")


def test_the_refiner_reaches_the_request(program, page):
    fill(page, "txt2img_prompt", PROMPT)
    fill(page, "txt2img_steps", 4)
    page.click("#txt2img_enable-checkbox input")
    page.click("#txt2img_checkpoint input")
    page.click("ul[role=listbox] li >> nth=0")
    fill(page, "txt2img_switch_at", 0.5)
    generate(page, program, "txt2img")
    sent = httpx.get(f"{program.url}jobs?limit=1").json()[0]["request"]
    assert sent["refiner"] == {"refiner_checkpoint": sent["checkpoint"], "refiner_switch_at": 0.5}
