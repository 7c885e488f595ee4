"""The page in real Chromium over the stand-in: what a hand and an eye would check."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modules.frontends.ui.examples import EXAMPLES
from tests.frontends.conftest import new_context, open_page

pytestmark = pytest.mark.browser
PROMPT = "#txt2img_prompt textarea"
IDLE = "body:not(.easel-running)"
IDS = (
    "quicksettings", "setting_sd_model_checkpoint", "refresh_sd_model_checkpoint", "tabs", "tab_txt2img",
    "txt2img_toprow", "txt2img_prompt", "txt2img_neg_prompt", "txt2img_generate_box", "txt2img_generate",
    "txt2img_interrupt", "txt2img_skip", "txt2img_settings", "sampler_selection_txt2img", "txt2img_sampling",
    "txt2img_scheduler", "txt2img_steps", "txt2img_dimensions_row", "txt2img_column_size", "txt2img_width",
    "txt2img_height", "txt2img_res_switch_btn", "txt2img_column_batch", "txt2img_batch_count", "txt2img_batch_size",
    "txt2img_cfg_scale", "txt2img_seed", "txt2img_random_seed", "txt2img_reuse_seed", "txt2img_results",
    "txt2img_results_panel", "txt2img_gallery_container", "txt2img_gallery", "image_buttons_txt2img", "save_txt2img",
    "html_info_txt2img", "html_log_txt2img",
)  # fmt: skip


def number(name: str) -> str:
    return f"#txt2img_{name} input[type=number]"


def steps(page: Any, count: int) -> None:
    page.fill(number("steps"), str(count))


def test_a_picture_appears_with_its_infotext(page, served):
    page.fill(PROMPT, "a red house")
    steps(page, 20)
    served.service.hold(9)
    page.click("#txt2img_generate")
    page.wait_for_selector(".easel-frame[data-kind=preview] img")
    page.wait_for_function("/^\\[45% ETA: \\d+s\\] Easel$/.test(document.title)")
    assert page.get_attribute(".easel-bar", "aria-valuenow") == "45"
    assert re.fullmatch(r"Sampling · 9/20 · 45% · \d+s left", page.inner_text(".easel-status"))
    served.service.release()
    page.wait_for_selector(IDLE)
    assert page.title() == "Easel"
    record = served.service.jobs()[0].images[0]
    shown = page.locator("#txt2img_gallery img").first
    assert shown.get_attribute("src").endswith(f"/pictures/{record.id}")
    page.wait_for_function("document.querySelector('#txt2img_gallery img').naturalWidth === 128")
    assert "a red house" in page.inner_text("#html_info_txt2img")
    assert f"Seed {record.seed}" in " ".join(page.inner_text("#html_info_txt2img").split())
    assert re.search(
        r"1 picture in \d+\.\d s · saved in outputs/txt2img-images/\d{4}-\d\d-\d\d",
        page.inner_text("#html_log_txt2img"),
    )
    with page.expect_download() as download:
        page.click("#download_txt2img")
    assert download.value.suggested_filename == record.path.rsplit("/", 1)[1]


def test_masks_stand_behind_the_pictures_whenever_they_come(page, served):
    served.service.change_settings({"return_mask": True})
    page.fill(number("batch_count"), "3")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery .thumbnail-item >> nth=5")
    page.wait_for_selector(IDLE)
    served.service.change_settings({"return_mask": False})
    shown = page.eval_on_selector_all("#txt2img_gallery .thumbnail-item", "(all) => all.map((one) => one.dataset.id)")
    assert [id.split(".", 1)[1] for id in shown] == ["0", "1", "2", "0.mask", "1.mask", "2.mask"]
    assert page.get_attribute("#txt2img_gallery .thumbnail-item.selected", "data-id") == shown[2]
    assert page.inner_text("#html_log_txt2img").startswith("3 pictures")
    last = page.inner_text("#html_info_txt2img")
    page.click("#txt2img_gallery .thumbnail-item >> nth=3")  # what a mask is of is told with it
    page.wait_for_function("(before) => document.querySelector('#html_info_txt2img').innerText !== before", arg=last)
    first = served.service.jobs(1)[0].images[0]
    assert f"Seed {first.seed}" in " ".join(page.inner_text("#html_info_txt2img").split())


def test_a_running_job_and_its_pictures_survive_closing_the_tab(page, served, watch):
    steps(page, 10)
    page.fill(number("batch_count"), "3")
    served.service.hold(15)
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live)")
    page.close()
    again = watch.on(page.context.new_page())
    open_page(again, served)
    again.wait_for_selector("body.easel-running")
    again.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live)")
    assert again.locator("#txt2img_gallery .thumbnail-item:not(.live)").count() == 1
    served.service.release()
    again.wait_for_selector(IDLE)
    assert again.locator("#txt2img_gallery .thumbnail-item").count() == 3
    assert again.input_value(number("batch_count")) == "3"
    again.reload()
    again.wait_for_selector("#txt2img_gallery .thumbnail-item >> nth=2")


def test_another_browser_sees_what_is_running(page, served, chromium, watch):
    served.service.hold(3)
    page.click("#txt2img_generate")
    page.wait_for_selector("body.easel-running")
    context = new_context(chromium)
    other = watch.on(context.new_page())
    open_page(other, served)
    other.wait_for_selector("body.easel-running")
    other.click("#txt2img_interrupt")
    page.wait_for_selector(IDLE)
    assert "Interrupted" in page.inner_text("#html_log_txt2img")
    context.close()


def test_several_generates_queue_up_and_all_pictures_stay(page, served):
    served.service.hold(3)
    for prompt in ("first", "second", "third"):
        page.fill(PROMPT, prompt)
        page.click("#txt2img_generate")
    page.wait_for_function("document.querySelector('#txt2img_queue').innerText.startsWith('2 in queue')")
    served.service.release()
    page.wait_for_selector(IDLE)
    assert page.locator("#txt2img_gallery .thumbnail-item").count() == 3
    assert [view.request.prompt for view in served.service.jobs(3)] == ["third", "second", "first"]


def test_a_waiting_queue_can_be_cleared(page, served):
    served.service.hold(3)
    for _ in range(3):
        page.click("#txt2img_generate")
    page.wait_for_function("document.querySelector('#txt2img_queue').innerText.startsWith('2 in queue')")
    page.click("#txt2img_queue button")
    page.keyboard.press("Escape")
    page.wait_for_selector(IDLE)
    assert [view.state for view in served.service.jobs(3)] == ["cancelled"] * 3


def test_keys_generate_skip_and_interrupt(page, served):
    before = len(served.service.jobs(1000))
    served.service.hold(3)
    page.fill(number("batch_count"), "2")
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".easel-frame[data-kind=preview] img")
    assert page.input_value(PROMPT) == ""
    page.keyboard.press("Alt+Enter")
    page.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live)")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector(IDLE)
    assert len(served.service.jobs(1000)) == before + 1
    assert served.service.jobs(1)[0].state == "cancelled"
    page.keyboard.press("Escape")  # nothing runs: nothing happens


def test_buttons_interrupt_and_skip(page, served):
    assert page.is_disabled("#txt2img_interrupt")
    served.service.hold(3)
    page.fill(number("batch_count"), "2")
    page.click("#txt2img_generate")
    page.wait_for_selector(".easel-frame[data-kind=preview] img")
    page.click("#txt2img_skip")
    page.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live)")
    page.click("#txt2img_interrupt")  # after this picture
    page.click("#txt2img_interrupt")  # at once
    page.wait_for_selector(IDLE)
    assert "Interrupted; 1 picture kept" in page.inner_text("#html_log_txt2img")
    assert page.is_disabled("#txt2img_interrupt")


def test_seed_buttons_and_size_switch(page, served):
    steps(page, 1)
    page.fill(number("width"), "256")
    page.keyboard.press("Tab")
    page.click("#txt2img_res_switch_btn")
    page.wait_for_function("document.querySelector('#txt2img_height input').value === '256'")
    assert page.input_value(number("width")) == "128"
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*=pictures]")
    page.click("#txt2img_reuse_seed")
    seed = str(served.service.jobs(1)[0].images[0].seed)
    page.wait_for_function(f"document.querySelector('#txt2img_seed input').value === '{seed}'")
    page.click("#txt2img_random_seed")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '-1'")


def test_wrong_input_is_told_and_nothing_is_lost(page, served):
    before = len(served.service.jobs(1000))
    page.fill(PROMPT, "kept")
    page.fill("#txt2img_seed input", "abc")
    page.click("#txt2img_generate")
    page.wait_for_selector(".easel-toast.error")
    assert "Seed cannot be 'abc'; give a whole number" in page.inner_text("#easel_toasts")
    assert page.get_attribute("#txt2img_seed input", "aria-invalid") == "true"
    page.fill("#txt2img_seed input", "1")
    page.fill(number("width"), "9000")
    page.keyboard.press("Control+Enter")  # before the box is left
    page.wait_for_function("document.querySelector('#easel_toasts').innerText.includes('Width cannot be 9000 here')")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#easel_toasts').innerText.includes('9000 was taken as 2048')")
    page.fill(number("steps"), "0")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#easel_toasts').innerText.includes('0 was taken as 1')")
    assert len(served.service.jobs(1000)) == before
    assert page.input_value(PROMPT) == "kept"


def test_failures_and_warnings_are_sentences_in_the_page(page):
    page.fill(PROMPT, "warn and fail")
    page.click("#txt2img_generate")
    page.wait_for_selector(".easel-toast.warning")
    page.wait_for_selector(".easel-toast.error")
    assert "ran out of memory" in page.inner_text("#html_log_txt2img")
    page.wait_for_selector(IDLE)


def test_a_checkpoint_brings_its_size_unless_the_user_chose_one(page, served):
    def choose(name: str) -> None:
        page.click("#setting_sd_model_checkpoint input")
        page.click(f"ul[role=listbox] li:has-text('{name}')")

    assert (page.input_value(number("width")), page.input_value(number("cfg_scale"))) == ("128", "5")
    page.fill(number("height"), "256")
    page.keyboard.press("Tab")
    choose("dream")
    page.wait_for_function("document.querySelector('#txt2img_width input').value === '512'")
    assert (page.input_value(number("height")), page.input_value(number("cfg_scale"))) == ("256", "7")
    assert page.locator(".easel-example").count() == 0
    assert served.service.settings.model.sd_model_checkpoint == "dream"
    choose("postcards")
    page.wait_for_function("document.querySelector('#txt2img_width input').value === '128'")
    page.click(".easel-example >> nth=1")
    steps(page, 1)
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*=pictures]")
    assert served.service.jobs(1)[0].request.prompt == EXAMPLES["postcards"][1]
    assert served.service.jobs(1)[0].request.checkpoint == "postcards"


def test_what_was_typed_is_there_after_a_reload(page, served):
    page.fill(PROMPT, "kept for later")
    page.fill("#txt2img_seed input", "18446744073709551615")
    page.fill(number("width"), "384")
    page.keyboard.press("Tab")
    page.wait_for_function("localStorage.getItem('easel.txt2img.draft').includes('384')")
    page.reload()
    page.wait_for_function("document.querySelector('#txt2img_width input')?.value === '384'")
    assert page.input_value(PROMPT) == "kept for later"
    assert page.input_value("#txt2img_seed input") == "18446744073709551615"


def test_pictures_fill_the_window_and_arrows_turn_them(page):
    steps(page, 1)
    page.fill(number("batch_count"), "3")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery .thumbnail-item >> nth=2")
    page.wait_for_selector(IDLE)
    page.click("#txt2img_gallery .thumbnail-item >> nth=0")
    page.click("#txt2img_gallery img.easel-picture")
    page.wait_for_selector("dialog.easel-viewer[open]")
    first = page.get_attribute("dialog.easel-viewer > img", "src")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("dialog.easel-viewer > img", "src") != first
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("dialog.easel-viewer > img", "src") == first
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.easel-viewer", state="hidden")


def test_a_prompt_with_markup_stays_text(page):
    steps(page, 1)
    page.fill(PROMPT, "<img src=x onerror=document.title='hacked'> <b>bold</b>\nNegative prompt: no, Steps: 3")
    page.click("#txt2img_generate")
    page.wait_for_selector("#html_info_txt2img dl")
    page.wait_for_selector(IDLE)
    assert "<b>bold</b>" in page.inner_text("#html_info_txt2img")
    assert page.locator("#html_info_txt2img img, #html_info_txt2img b").count() == 0
    assert page.title() == "Easel"


@pytest.mark.parametrize(("size", "theme"), [((1440, 900), "light"), ((390, 844), "dark")], ids=["desktop", "phone"])
def test_every_label_can_be_read_and_ids_are_those_that_scripts_know(served, chromium, watch, size, theme):
    """Widths are the same in the dark, where tests/frontends/test_access.py looks at colours."""
    context = new_context(chromium, *size, color_scheme=theme)
    page = watch.on(context.new_page())
    open_page(page, served)
    assert [id for id in IDS if page.locator(f"#{id}").count() != 1] == []
    assert page.title() == "Easel"
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    cut = page.evaluate(
        """() => [...document.querySelectorAll('label > span, [data-testid=block-info], button')]
            .filter((e) => e.offsetParent && !e.closest('.sr-only') && e.clientWidth)
            .filter((e) => e.scrollWidth > e.clientWidth + 1)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert cut == []
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea')].filter((e) => e.offsetParent
            && !(e.ariaLabel || e.innerText?.trim() || e.labels?.length || e.title))
            .map((e) => e.outerHTML.slice(0, 160))"""
    )
    assert unnamed == []
    context.close()
