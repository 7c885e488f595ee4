"""What hands bring along from A1111, as they would do it: keys, menus, drags, pastes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.frontends.test_page import IDLE, PROMPT, number, steps

pytestmark = pytest.mark.browser
PASTE = """([selector, text]) => {
    const data = new DataTransfer();
    data.setData('text/plain', text);
    const event = new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
    document.querySelector(selector).dispatchEvent(event);
}"""


def drag(page: Any, start: str, end: str) -> None:
    """As a hand drags: down, away, over, up."""
    page.hover(start)
    page.mouse.down()
    page.mouse.move(5, 5)
    page.hover(end)
    page.hover(end)
    page.mouse.up()


def test_generate_forever_goes_on_until_it_is_cancelled(page, served):
    before = len(served.service.jobs(1000))
    steps(page, 1)
    page.click("#txt2img_generate", button="right")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")  # "Generate forever"
    page.wait_for_selector("#txt2img_forever")
    page.wait_for_selector("#txt2img_gallery img.easel-picture[src*=pictures]")
    first = page.get_attribute("#txt2img_gallery img.easel-picture", "src")
    page.wait_for_function(
        """(first) => {
            const shown = document.querySelector('#txt2img_gallery img.easel-picture[src*=pictures]');
            return shown && shown.getAttribute('src') !== first;
        }""",
        arg=first,
    )
    page.click("#txt2img_generate", button="right")
    page.click(".easel-menu >> text=Cancel generate forever")
    page.wait_for_selector("#txt2img_forever", state="detached")
    page.wait_for_function("!easel.sending")  # one may be on its way
    page.wait_for_selector(IDLE)
    count = len(served.service.jobs(1000))
    assert count >= before + 2
    page.wait_for_timeout(1200)  # more than two looks
    assert len(served.service.jobs(1000)) == count
    # What cannot be drawn is not tried for ever.
    page.fill("#txt2img_seed input", "abc")
    page.click("#txt2img_generate", button="right")
    page.keyboard.press("Enter")
    page.wait_for_selector(".easel-toast.error")
    page.wait_for_selector("#txt2img_forever", state="detached")


def test_interrupt_lets_the_picture_at_hand_be_finished(page, served):
    steps(page, 10)
    page.fill(number("batch_count"), "100")
    served.service.hold(5)
    page.click("#txt2img_generate")
    page.wait_for_selector(".easel-frame[data-kind=preview] img")
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('#txt2img_interrupt').innerText.startsWith('Interrupting')")
    assert served.service.jobs(1)[0].state == "running"
    served.service.release()
    page.wait_for_selector(IDLE)
    view = served.service.jobs(1)[0]
    assert (view.state, 1 <= len(view.images) < 100) == ("cancelled", True)


def test_a_pasted_size_fills_both_sides_and_shows_what_is_left(page, served):
    page.evaluate(PASTE, [number("width"), " 640x384 "])
    page.wait_for_function("document.querySelector('#txt2img_height input').value === '384'")
    assert page.input_value(number("width")) == "640"
    steps(page, 1)
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*=pictures]")
    request = served.service.jobs(1)[0].request
    assert (request.width, request.height) == (640, 384)


def test_a_picture_is_dragged_onto_the_prompt_and_into_the_source_frame(page, served):
    steps(page, 2)
    page.fill(PROMPT, "a red house")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img.easel-picture[src*=pictures]")
    page.wait_for_selector(IDLE)
    page.fill(PROMPT, "something else")
    steps(page, 7)
    drag(page, "#txt2img_gallery img.easel-picture", PROMPT)
    page.wait_for_function("document.querySelector('#txt2img_steps input').value === '2'")
    assert page.input_value(PROMPT) == "a red house"
    page.click("#txt2img_send_to_img2img")
    page.wait_for_selector("#img2img_image canvas.base")
    page.click("[data-act=remove]")
    page.wait_for_function("!window.easel.source.image")
    # Its own results are dragged back in as well.
    page.evaluate(
        """() => {
            const { txt2img, img2img } = window.easel.tools.panels;
            txt2img.gallery.records.forEach((record) => img2img.gallery.add(record));
        }"""
    )
    drag(page, "#img2img_gallery img.easel-picture", "#img2img_image")
    page.wait_for_function("window.easel.source.image")
    assert page.evaluate("window.easel.source.size()") == [128, 128]
    page.click("[data-act=remove]")
    page.wait_for_function("!window.easel.source.image")
    page.evaluate(
        """async () => {
            const shown = document.querySelector('#img2img_gallery img.easel-picture').src;
            const data = new DataTransfer(), blob = await (await fetch(shown)).blob();
            data.items.add(new File([blob], 'pasted.png', { type: 'image/png' }));
            document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
        }"""
    )
    page.wait_for_function("window.easel.source.image")
    page.fill("#img2img_width input[type=number]", "64")
    page.wait_for_selector("#imageARPreview")
    style = "document.querySelector('#imageARPreview').style"
    box = [page.evaluate(f"{style}.{side}") for side in ("left", "width", "height")]
    assert box == ["25%", "50%", "100%"]
    page.wait_for_selector("#imageARPreview", state="detached")


def test_saving_copies_the_picture_and_the_viewer_has_its_keys(page, served):
    steps(page, 1)
    page.fill(PROMPT, "kept aside")
    page.click("#txt2img_generate")
    page.wait_for_selector(IDLE + " #txt2img_gallery img.easel-picture[src*=pictures]")
    record = served.service.jobs(1)[0].images[0]
    page.click("#txt2img_gallery img.easel-picture")
    page.wait_for_selector("dialog.easel-viewer[open]")
    page.keyboard.press("t")
    page.wait_for_selector("dialog.easel-viewer.tiled")
    page.keyboard.press("t")
    page.keyboard.press("s")
    page.wait_for_function("document.querySelector('#easel_toasts')?.innerText.includes('Saved as log/images/')")
    page.keyboard.press("Escape")
    copy = served.service.folders.data / "log" / "images" / Path(record.path).name
    assert copy.is_file()
    assert "kept aside" in copy.with_name("log.csv").read_text("utf-8")
    with page.expect_download() as download:
        page.click("#easel_toasts button.act")
    assert download.value.suggested_filename == copy.name


def test_the_divider_is_moved_and_put_back(page):
    before = page.locator("#txt2img_toprow").bounding_box()["width"]
    page.focus("#txt2img_workspace .easel-divider")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert round(page.locator("#txt2img_toprow").bounding_box()["width"] - before) == 48
    box = page.locator("#txt2img_workspace .easel-divider").bounding_box()
    page.mouse.move(box["x"] + 7, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 107, box["y"] + 220)
    page.mouse.up()
    assert round(page.locator("#txt2img_toprow").bounding_box()["width"] - before) == 148
    page.reload()
    page.wait_for_selector("#txt2img_workspace .easel-divider")
    assert round(page.locator("#txt2img_toprow").bounding_box()["width"] - before) == 148
    page.dblclick("#txt2img_workspace .easel-divider", position={"x": 7, "y": 250})
    assert round(page.locator("#txt2img_toprow").bounding_box()["width"] - before) == 0


def test_options_of_the_chosen_sampler_hold_for_this_form_alone(page, served):
    page.click("#txt2img_more > button")
    page.click("#txt2img_sampling input")
    page.click("ul[role=listbox] li:text-is('Euler')")
    page.wait_for_selector("#txt2img_option_s_churn")
    assert page.locator("#txt2img_option_eta_ddim").count() == 0
    page.fill("#txt2img_option_s_churn input[type=number]", "0.5")
    page.keyboard.press("Tab")
    page.wait_for_selector("#txt2img_override_settings :text('Sigma churn: 0.5')")
    steps(page, 1)
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*=pictures]")
    assert served.service.jobs(1)[0].request.override_settings == {"s_churn": "0.5"}
    assert served.service.settings.sampling.s_churn == 0
    page.fill("#txt2img_option_s_churn input[type=number]", "0")
    page.keyboard.press("Tab")
    page.wait_for_selector("#txt2img_override_settings :text('Sigma churn')", state="detached")
