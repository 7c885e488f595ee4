"""Writing prompts in real Chromium: counters, what is odd, styles, and keys that change weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.frontends.conftest import Served, Watch, forget, open_page
from tests.frontends.test_page import PROMPT

pytestmark = pytest.mark.browser
NEGATIVE = "#txt2img_neg_prompt textarea"
COUNTER, NEGATIVE_COUNTER = "#txt2img_token_counter", "#txt2img_negative_token_counter"
IDS = (
    "txt2img_token_counter", "txt2img_negative_token_counter", "txt2img_styles_row", "txt2img_styles", "txt2img_tools",
    "txt2img_style_apply", "txt2img_styles_edit_button", "txt2img_clear_prompt",
)  # fmt: skip
DIALOG_IDS = (
    "txt2img_styles_dialog", "txt2img_styles_edit_select", "refresh_txt2img_styles", "txt2img_style_copy",
    "txt2img_edit_style_prompt", "txt2img_edit_style_neg_prompt", "txt2img_edit_style_save",
    "txt2img_edit_style_delete", "txt2img_edit_style_close",
)  # fmt: skip


def one_style(served: Served) -> None:
    for style in served.service.styles.listed().styles:
        served.service.styles.delete(style.name)
    served.service.styles.save("Photo", "photo of {prompt}", "drawing")


def opened(served: Served, context: Any) -> Any:
    one_style(served)
    page = context.new_page()
    open_page(page, served)
    page.wait_for_selector(f"{COUNTER} span")
    return page


@pytest.fixture(scope="module")
def one(served: Served, context: Any) -> Any:
    return opened(served, context)


@pytest.fixture
def page(one: Any, served: Served, watch: Watch) -> Any:
    """The page that most tests here share, with nothing in its prompts."""
    one_style(served)
    page = watch.on(one)
    page.fill(NEGATIVE, "")
    page.fill(PROMPT, "")
    return page


@pytest.fixture
def fresh(served: Served, context: Any, watch: Watch) -> Iterator[Any]:
    """A page of its own, as a first visit sees it."""
    forget(context, served.url)
    page = watch.on(opened(served, context))
    yield page
    page.close()


def counted(page: Any, selector: str, text: str) -> None:
    page.wait_for_function(f"document.querySelector('{selector}').innerText.trim() === '{text}'")


def choose_style(page: Any, name: str) -> None:
    page.click("#txt2img_styles input")
    page.click(f"ul[role=listbox] li[role=option]:has-text('{name}')")
    page.wait_for_function(f"document.querySelector('#txt2img_styles').innerText.includes('{name}')")
    page.keyboard.press("Tab")


def test_ids_are_those_that_scripts_know(page):
    assert [id for id in IDS if page.locator(f"#{id}").count() != 1] == []
    page.click("#txt2img_styles_edit_button")
    assert [id for id in DIALOG_IDS if page.locator(f"#{id}").count() != 1] == []
    page.click("#txt2img_edit_style_close")


def test_tokens_are_counted_while_typing(page):
    counted(page, COUNTER, "0/75")
    page.fill(PROMPT, "a photo of a cat")
    counted(page, COUNTER, "5/75")
    page.fill(PROMPT, "cat " * 80)
    counted(page, COUNTER, "80/150")
    assert "chunk 2 begins at “cat”" in page.get_attribute(f"{COUNTER} span", "title")
    page.fill(NEGATIVE, "blurry, dark")
    counted(page, NEGATIVE_COUNTER, "3/75")
    page.fill(PROMPT, "a cat")
    choose_style(page, "Photo")
    counted(page, COUNTER, "4/75")
    counted(page, NEGATIVE_COUNTER, "5/75")  # blurry, dark, drawing
    page.click("#txt2img_style_apply")
    page.wait_for_function("!document.querySelector('#txt2img_styles').innerText.includes('Photo')")


def test_what_is_odd_is_told_and_can_be_selected(page):
    page.fill(PROMPT, "😀 a (red house")
    page.wait_for_selector(f"{COUNTER}_notes button")
    assert "This ( is never closed" in page.inner_text(f"{COUNTER}_notes")
    page.wait_for_selector(f"{COUNTER}.odd")
    page.click(f"{COUNTER}_notes button")
    chosen = page.evaluate("(box => box.value.slice(box.selectionStart, box.selectionEnd))(document.activeElement)")
    assert chosen == "("
    page.fill(PROMPT, "a (red) house")
    page.wait_for_selector(f"{COUNTER}_notes button", state="detached")
    page.wait_for_selector(f"{COUNTER}:not(.odd)")


def test_styles_reach_the_request_and_survive_a_reload(fresh, served):
    page = fresh
    choose_style(page, "Photo")
    page.fill(PROMPT, "a cat")
    page.fill("#txt2img_steps input[type=number]", "1")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*='/pictures/']")
    assert served.service.jobs(1)[0].request.styles == ("Photo",)
    page.wait_for_function("localStorage.getItem('easel.txt2img.draft').includes('Photo')")
    page.reload()
    page.wait_for_function("document.querySelector('#txt2img_styles')?.innerText.includes('Photo')")
    served.service.styles.delete("Photo")
    page.reload()
    page.wait_for_selector(".easel-example")
    assert "Photo" not in page.inner_text("#txt2img_styles")


def test_styles_are_put_into_the_prompts(page):
    choose_style(page, "Photo")
    page.fill(PROMPT, "a cat")
    page.click("#txt2img_style_apply")
    page.wait_for_function(f"document.querySelector('{PROMPT}').value === 'photo of a cat'")
    assert page.input_value(NEGATIVE) == "drawing"
    page.wait_for_function("!document.querySelector('#txt2img_styles').innerText.includes('Photo')")


def test_a_style_is_made_changed_and_deleted(fresh, served, watch):
    page = fresh
    page.fill(PROMPT, "ink drawing")
    page.fill(NEGATIVE, "colours")
    page.click("#txt2img_styles_edit_button")
    page.fill("#txt2img_styles_edit_select", "Ink")
    page.click("#txt2img_style_copy")
    page.click("#txt2img_edit_style_save")
    page.wait_for_function("document.querySelector('.easel-dialog-note').textContent === 'Saved.'")
    style = served.service.styles.known()["Ink"]
    assert (style.prompt, style.negative_prompt) == ("ink drawing", "colours")
    page.fill("#txt2img_styles_edit_select", "Photo")
    assert page.input_value("#txt2img_edit_style_prompt") == "photo of {prompt}"
    page.fill("#txt2img_edit_style_prompt", "a photo of {prompt}")
    page.keyboard.press("Escape")
    page.wait_for_selector("#txt2img_styles_dialog", state="hidden")
    page.click("#txt2img_styles_edit_button")
    page.fill("#txt2img_styles_edit_select", "Ink")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#txt2img_edit_style_delete")
    page.wait_for_function("document.querySelector('.easel-dialog-note').textContent === 'Deleted.'")
    page.fill("#txt2img_styles_edit_select", "#note")
    page.click("#txt2img_edit_style_save")
    page.wait_for_selector(".easel-dialog-note.error")
    assert "does not begin with #" in page.inner_text(".easel-dialog-note")
    assert any(trouble.startswith("422") for trouble in watch.troubles)  # the refusal, told on the page
    watch.troubles.clear()
    page.click("#txt2img_edit_style_close")
    assert list(served.service.styles.known()) == ["Photo"]
    assert served.service.styles.known()["Photo"].prompt == "photo of {prompt}"
    page.click("#txt2img_styles input")
    page.wait_for_selector("ul[role=listbox] li[role=option]")
    assert page.locator("ul[role=listbox] li[role=option]").all_inner_texts() == ["Photo"]


def test_clearing_can_be_undone(page):
    page.fill(PROMPT, "kept")
    page.fill(NEGATIVE, "this too")
    page.click("#txt2img_clear_prompt")
    assert (page.input_value(PROMPT), page.input_value(NEGATIVE)) == ("", "")
    page.click("#easel_toasts button.act")
    assert (page.input_value(PROMPT), page.input_value(NEGATIVE)) == ("kept", "this too")


WEIGHTS = (
    ("a red house", (2, 5), ["ArrowUp"], "a (red:1.1) house"),
    ("a red house", (3, 3), ["ArrowUp", "ArrowUp"], "a (red:1.2) house"),
    ("a red house", (2, 6), ["ArrowDown"], "a (red:0.9) house"),
    ("a red house", (2, 5), ["ArrowUp", "ArrowDown"], "a red house"),
    ("a (red house:1.4), b", (7, 7), ["ArrowUp"], "a (red house:1.5), b"),
    ("a (red) b", (4, 4), ["ArrowUp"], "a (red:1.2) b"),
    ("a (red:1.1) b", (4, 4), ["ArrowDown"], "a red b"),
    ("(a (b) c:1.3)", (7, 7), ["ArrowUp"], "(a (b) c:1.4)"),
    ("x <lora:ink:0.8>", (8, 8), ["ArrowUp"], "x <lora:ink:0.85>"),
    ("x <lora:ink>", (8, 8), ["ArrowDown"], "x <lora:ink:0.95>"),
    (", ", (0, 0), ["ArrowUp"], ", "),
)


def test_arrows_change_weights(page):
    for text, selection, keys, expected in WEIGHTS:
        page.fill(PROMPT, text)
        page.evaluate("([a, b]) => document.activeElement.setSelectionRange(a, b)", list(selection))
        for key in keys:
            page.keyboard.press(f"Control+{key}")
        assert page.input_value(PROMPT) == expected
        page.wait_for_function(f"JSON.parse(localStorage.getItem('easel.txt2img.draft')).prompt === {expected!r}")


def test_arrows_move_parts_between_commas_and_the_browser_can_undo_it(page):
    page.fill(PROMPT, "one, two,  three")
    page.evaluate("document.activeElement.setSelectionRange(5, 5)")
    page.keyboard.press("Alt+ArrowRight")
    assert page.input_value(PROMPT) == "one, three,  two"
    page.keyboard.press("Alt+ArrowLeft")
    page.keyboard.press("Alt+ArrowLeft")
    assert page.input_value(PROMPT) == "two, one,  three"
    page.keyboard.press("Alt+ArrowLeft")
    assert page.input_value(PROMPT) == "two, one,  three"
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert page.input_value(PROMPT) == "one, two,  three"
