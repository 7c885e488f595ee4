"""Settings and the sketch board in real Chromium over the stand-in."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.frontends.conftest import Served, Watch, hold_answers, new_context, open_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(served: Served, chromium: Any) -> Iterator[Any]:
    context = new_context(chromium)
    page = context.new_page()
    open_page(page, served)
    yield page
    context.close()


@pytest.fixture(autouse=True)
def watched(page: Any, watch: Watch) -> None:
    watch.on(page)


def test_a_setting_is_found_changed_and_put_back(page, served):
    page.click("#tab_settings-button")
    page.wait_for_selector("#setting_tiling")
    assert page.is_disabled("#settings_submit")
    page.fill("#settings_search", "tiling")
    shown = page.locator(".easel-option:visible label").all_inner_texts()
    assert {"Tiling", "Tiling direction"} <= set(shown)
    words = page.locator(".easel-option:visible").evaluate_all("rows => rows.map((row) => row.dataset.words)")
    assert all("tiling" in each for each in words)
    page.check("#setting_tiling")
    page.select_option("#setting_tiling_axes", "x")
    assert page.inner_text("#settings_submit") == "Apply 2 changes"
    page.click("#settings_submit")
    page.wait_for_selector("#settings_submit:has-text('Apply settings')")
    page.wait_for_selector(".easel-option.other:has(#setting_tiling)")
    drawing = served.service.settings.drawing
    assert (drawing.tiling, drawing.tiling_axes) == (True, "x")
    page.click(".easel-option:has(#setting_tiling) .easel-reset")
    page.click("#settings_submit")
    page.wait_for_selector("#settings_submit:has-text('Apply settings')")
    page.wait_for_selector(".easel-option:not(.other):has(#setting_tiling)")
    drawing = served.service.settings.drawing
    assert (drawing.tiling, drawing.tiling_axes) == (False, "x")
    page.fill("#settings_search", "no such word")
    page.wait_for_selector("text=No setting has that word in it.")


def test_what_is_changed_while_settings_are_being_applied_stays_to_be_applied(page, served):
    page.fill("#settings_search", "tiling")
    page.check("#setting_tiling")
    hold_answers(page, "easel/settings")
    page.click("#settings_submit")
    page.wait_for_selector("#settings_submit:disabled")
    page.focus("#setting_tiling_axes")
    page.select_option("#setting_tiling_axes", "y")
    page.evaluate("answer()")
    page.wait_for_selector("#settings_submit:has-text('Apply 1 change')")
    assert served.service.settings.drawing.tiling is True
    assert page.input_value("#setting_tiling_axes") == "y"
    assert page.evaluate("document.activeElement.id") == "setting_tiling_axes"
    page.uncheck("#setting_tiling")
    page.click("#settings_submit")
    page.wait_for_selector("#settings_submit:has-text('Apply settings')")
    drawing = served.service.settings.drawing
    assert (drawing.tiling, drawing.tiling_axes) == (False, "y")


def test_the_settings_sections_are_a_click_away_and_the_bar_stays_in_sight(page):
    page.fill("#settings_search", "")
    page.click(".easel-settings-nav button:has-text('Preview')")
    page.wait_for_function("scrollY > 300")
    tops = page.evaluate(
        """[".easel-settings-bar", "section[aria-label=Preview] h2"].map(
            (place) => document.querySelector(`#settings ${place}`).getBoundingClientRect().top)"""
    )
    assert 0 <= tops[0] < tops[1] < 200
    assert page.evaluate("document.activeElement.closest('section')?.ariaLabel") == "Preview"


def test_the_picture_stays_in_sight_while_the_form_scrolls(page):
    page.click("#tab_txt2img-button")
    page.set_viewport_size({"width": 1440, "height": 600})
    page.evaluate("scrollTo(0, 350)")
    page.wait_for_function("scrollY === 350")
    assert page.locator("#txt2img_toprow").bounding_box()["y"] < 0
    assert 0 <= page.locator("#txt2img_gallery").bounding_box()["y"] < 40
    page.set_viewport_size({"width": 1440, "height": 900})


def test_wrong_settings_are_refused_and_those_of_the_api_are_not_the_pages(served):
    before = served.service.settings
    for changes in ({"tiling_axes": "z"}, {"nothing": 1}, {"api_enable_requests": True}):
        answer = httpx.post(f"{served.url}easel/settings", json=changes)
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["field"] == next(iter(changes))
    assert served.service.settings == before
    told = httpx.get(f"{served.url}easel/settings").json()
    assert "api" not in {section["name"] for section in told}


def test_sketches_masks_and_uploads_reach_the_request(page, served):
    grey = Image.new("RGB", (96, 72), "grey")
    out = io.BytesIO()
    grey.save(out, "PNG")
    file = {"name": "grey.png", "mimeType": "image/png", "buffer": out.getvalue()}
    page.click("#tab_img2img-button")
    page.wait_for_selector("#img2img_image")
    page.click("#img2img_generate")
    page.wait_for_function("document.querySelector('#easel_toasts')?.innerText.includes('There is no picture')")
    page.click("#easel_toasts button")
    page.set_input_files("#img2img_image + input", file)
    page.wait_for_selector("#img2img_image canvas.base")
    page.click("#img2img_detect_image_size_btn")
    page.wait_for_function("document.querySelector('#img2img_height input').value === '72'")

    def sent() -> dict[str, Any]:
        return page.evaluate("easel.source.upload()")

    plain = sent()
    page.click("#img2img_sketch_tab")
    box = page.locator(".easel-layers").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    page.mouse.up()
    sketched = sent()
    assert sketched["image"] != plain["image"]
    assert sketched["mask"] is None
    page.keyboard.press("Control+z")
    assert sent()["image"] == plain["image"]
    page.keyboard.press("Control+y")
    page.click("#img2img_inpaint_sketch_tab")
    assert sent()["mask"]
    url = page.evaluate("easel.source.maskOf('paint').toDataURL()")
    mask = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("L")
    assert (mask.size, mask.getpixel((48, 6)), mask.getpixel((2, 60))) == ((96, 72), 255, 0)
    page.click("#img2img_upload_tab")
    page.set_input_files("#img_inpaint_mask + input", file)
    page.wait_for_selector("#img_inpaint_mask img")
    page.fill("#img2img_steps input[type=number]", "1")
    page.click("#img2img_generate")
    page.wait_for_selector("#img2img_gallery img[src*=pictures]")
    source = served.service.jobs(1)[0].request.source
    assert source.images == (plain["image"],)
    assert source.mask.image == sent()["mask"]
    assert page.locator("#txt2img_gallery img").count() == 0  # each tab has its own pictures
