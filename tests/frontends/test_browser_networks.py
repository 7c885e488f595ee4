"""Cards of extra networks and checkpoints in real Chromium over the stand-in."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.frontends.conftest import Served, Watch, new_context, open_page
from tests.frontends.test_page import PROMPT
from tests.service.test_cards import KEY
from tests.weights.tiny import write_keys, write_tiny_sd15

pytestmark = pytest.mark.browser
NEGATIVE = "#txt2img_neg_prompt textarea"
PANE = "#txt2img_lora_pane"
MANY = 10_000 if os.environ.get("TEST_FULL") else 1_500
IDS = [
    f"txt2img_{page}_{part}"
    for page in ("lora", "textual_inversion", "hypernetworks", "checkpoints")
    for part in ("pane", "controls", "extra_search", "extra_refresh", "dirs", "tree", "cards")
]


def write_lora(path: Path, width: int = 768, notes: dict[str, Any] | None = None, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_keys(path, {f"{KEY}.lora_down.weight": (4, width), f"{KEY}.lora_up.weight": (320, 4)}, metadata)
    if notes:
        path.with_suffix(".json").write_text(json.dumps(notes))
    return path


@pytest.fixture(scope="module")
def files(served: Served, test_seed: int) -> Path:
    """Some of each kind. The folder of LoRAs."""
    folders = served.service.folders
    tags = json.dumps({"10_x": {"ink wash": 9, "tree": 2}})
    write_lora(
        folders.lora / "styles" / "ink.safetensors", ss_output_name="Ink Style", ss_tag_frequency=tags,
        notes={"activation text": "ink wash", "preferred weight": 0.8, "negative text": "colours", "foreign": 1},
    )  # fmt: skip
    write_lora(folders.lora / "styles" / "old" / "haze.safetensors", notes={"description": "Soft light."})
    write_lora(folders.lora / "big.safetensors", 2048)
    write_lora(folders.lora / "plain2.safetensors")
    (folders.lora / "plain10.safetensors").write_bytes(b"<!DOCTYPE html>")
    folders.embeddings.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.zeros(2, 768)}, folders.embeddings / "goodhands.safetensors")
    for name in ("postcards", "dream"):
        write_tiny_sd15(folders.checkpoint_dirs[0] / f"{name}.safetensors", test_seed)
    served.service.library.scan()
    served.service.library.start()
    return folders.lora


def opened(served: Served, context: Any) -> Any:
    served.service.change_settings({"sd_model_checkpoint": "postcards"})
    page = context.new_page()
    open_page(page, served)
    page.wait_for_selector("#txt2img_extra_tabs [role=tab]")
    return page


@pytest.fixture(scope="module")
def one(served: Served, files: Path, context: Any) -> Any:
    return opened(served, context)


@pytest.fixture
def page(one: Any, watch: Watch) -> Any:
    """The page that most tests here share, with its pictures shown and nothing in its prompts."""
    page = watch.on(one)
    page.click("#txt2img_pictures_tab")
    page.fill(NEGATIVE, "")
    page.fill(PROMPT, "")
    return page


@pytest.fixture
def fresh(served: Served, files: Path, chromium: Any, watch: Watch) -> Iterator[Any]:
    """A page of its own, as a first visit sees it."""
    context = new_context(chromium)
    yield watch.on(opened(served, context))
    context.close()
    served.service.change_settings({"sd_model_checkpoint": "postcards"})


def open_cards(page: Any, kind: str = "lora") -> None:
    page.click(f"#txt2img_{kind}_tab")
    page.wait_for_selector(f"#txt2img_{kind}_cards .easel-card")


def names(page: Any) -> list[str]:
    """Of the cards in sight, in order."""
    cards = page.locator(".easel-pane:visible .easel-card").all()
    return [card.locator("strong").inner_text() for card in sorted(cards, key=lambda c: c.evaluate("box => box.at"))]


def card(page: Any, name: str) -> Any:
    return page.locator(f".easel-pane:visible .easel-card:has(strong:text-is('{name}'))")


def test_a_click_puts_a_lora_in_with_its_weight_and_words_and_takes_it_out(page):
    page.fill(PROMPT, "a cat")
    page.fill(NEGATIVE, "fog")
    open_cards(page)
    assert page.is_visible(PROMPT)  # the prompt stays in sight while cards are chosen
    card(page, "Ink Style").locator(".easel-card-main").click()
    assert page.input_value(PROMPT) == "a cat <lora:Ink Style:0.8> ink wash"
    assert page.input_value(NEGATIVE) == "fog, colours"
    page.wait_for_selector(".easel-card-main[aria-pressed=true]")
    card(page, "haze").locator(".easel-card-main").click()
    assert page.input_value(PROMPT) == "a cat <lora:Ink Style:0.8> ink wash <lora:haze:1>"
    card(page, "Ink Style").locator(".easel-card-main").click()
    assert page.input_value(PROMPT) == "a cat <lora:haze:1>"
    assert page.input_value(NEGATIVE) == "fog"
    page.fill(PROMPT, "a cat <lora:haze:0.3:0.9>")  # whatever stands in its tag
    page.wait_for_function(
        "[...document.querySelectorAll('.easel-card')].find(box => box.card.stem === 'haze')"
        ".querySelector('[aria-pressed=true]')"
    )
    card(page, "haze").locator(".easel-card-main").click()
    assert page.input_value(PROMPT) == "a cat"
    assert page.locator(".easel-pane:visible [aria-pressed=true]").count() == 0


def test_cards_are_searched_sorted_and_filtered(fresh, files):
    page = fresh
    open_cards(page)
    assert names(page) == ["haze", "Ink Style", "big", "plain2", "plain10"]  # by their paths
    broken = card(page, "plain10").locator(".easel-card-main")
    assert broken.is_disabled()
    assert "web page" in broken.get_attribute("title")
    page.select_option("#txt2img_lora_extra_sort", "name")
    assert names(page) == ["big", "haze", "Ink Style", "plain2", "plain10"]
    page.select_option("#txt2img_lora_extra_sort", "size")
    assert names(page)[-1] == "plain10"
    page.click("#txt2img_lora_extra_sort_dir")
    assert names(page)[0] == "plain10"
    page.fill("#txt2img_lora_extra_search", "soft light")  # in its description
    assert names(page) == ["haze"]
    page.fill("#txt2img_lora_extra_search", "no such thing")
    page.wait_for_selector("text=Nothing here is called that.")
    page.fill("#txt2img_lora_extra_search", "")
    page.check("#txt2img_lora_extra_fits")
    assert "big" not in names(page)
    assert page.inner_text(f"{PANE} .easel-cards-note") == "4 of 5 files"
    page.uncheck("#txt2img_lora_extra_fits")
    assert "only SDXL" in card(page, "big").inner_text()
    page.click(f"{PANE} .easel-tree-name:has-text('styles')")
    assert sorted(names(page)) == ["Ink Style", "haze"]
    page.click(f"{PANE} .easel-tree-name[title='styles/old']")
    assert names(page) == ["haze"]
    page.click(f"{PANE} .easel-tree-name:has-text('All folders')")
    assert len(names(page)) == 5
    page.reload()  # what was chosen is kept
    page.wait_for_selector("#txt2img_extra_tabs [role=tab]")
    open_cards(page)
    assert page.input_value("#txt2img_lora_extra_sort") == "size"
    assert names(page)[0] == "plain10"


def test_files_come_and_go_with_refresh(page, files):
    open_cards(page)
    before = sorted(names(page))
    assert "added" not in before
    new = write_lora(files / "added.safetensors")
    page.click("#txt2img_lora_extra_refresh")
    card(page, "added").wait_for()
    assert sorted(names(page)) == sorted([*before, "added"])
    new.unlink()
    page.click("#txt2img_lora_extra_refresh")
    card(page, "added").wait_for(state="detached")
    assert sorted(names(page)) == before


def test_an_embedding_goes_into_the_prompt_that_was_written_in(page):
    page.fill(PROMPT, "a cat")
    page.focus(NEGATIVE)
    open_cards(page, "textual_inversion")
    page.wait_for_selector(".easel-into [data-into=negative][aria-pressed=true]")
    card(page, "goodhands").locator(".easel-card-main").click()
    assert (page.input_value(PROMPT), page.input_value(NEGATIVE)) == ("a cat", "goodhands")
    card(page, "goodhands").locator(".easel-card-main").click()
    assert page.input_value(NEGATIVE) == ""
    page.click(".easel-into [data-into=prompt]")
    card(page, "goodhands").locator(".easel-card-main").click()
    assert page.input_value(PROMPT) == "a cat, goodhands"
    page.fill(PROMPT, "goodhandsome")
    page.wait_for_function("!document.querySelector('.easel-pane:not([hidden]) [aria-pressed=true].easel-card-main')")


def test_a_checkpoint_card_changes_the_checkpoint_and_what_fits(fresh, served):
    page = fresh
    open_cards(page, "checkpoints")
    page.wait_for_selector(".easel-card-main[aria-pressed=true]:has-text('postcards')")
    card(page, "dream").locator(".easel-card-main").click()
    page.wait_for_function("document.querySelector('#setting_sd_model_checkpoint input').value.startsWith('dream')")
    page.wait_for_selector(".easel-card-main[aria-pressed=true]:has-text('dream')")
    assert served.service.settings.model.sd_model_checkpoint == "dream"
    page.wait_for_function("document.querySelector('#txt2img_width input').value === '512'")  # its own size
    open_cards(page)
    page.wait_for_function("document.querySelectorAll('#txt2img_lora_cards .easel-card.unfit').length === 3")
    assert card(page, "big").locator(".wrong").count() == 0  # made for SDXL, as "dream" is


def test_notes_are_written_beside_the_model(page, files):
    open_cards(page)
    haze = card(page, "haze")
    haze.hover()
    haze.locator(".easel-card-edit").click()
    page.wait_for_selector("#card_editor[open]")
    assert page.is_disabled("#card_editor .primary")
    page.fill("#card_editor [data-field=activation]", "soft haze")
    page.fill("#card_editor [data-field=preferred_weight]", "0.6")
    page.fill("#card_editor [data-field=notes]", "for mornings")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.keyboard.press("Escape")  # asks, since something was written
    assert page.is_visible("#card_editor")
    page.click("#card_editor .primary")
    page.wait_for_selector("#card_editor", state="hidden")
    said = json.loads((files / "styles" / "old" / "haze.json").read_text())
    assert said == {
        "description": "Soft light.", "activation text": "soft haze", "preferred weight": 0.6, "notes": "for mornings",
    }  # fmt: skip
    page.fill(PROMPT, "")
    card(page, "haze").locator(".easel-card-main").click()
    assert page.input_value(PROMPT) == "<lora:haze:0.6> soft haze"


def test_what_it_was_trained_on_can_be_taken_over(page, files):
    open_cards(page)
    ink = card(page, "Ink Style")
    ink.hover()
    ink.locator(".easel-card-edit").click()
    page.wait_for_selector("#card_editor[open]")
    assert page.locator(".easel-tags button").all_inner_texts() == ["ink wash\n9", "tree\n2"]
    page.click(".easel-tags button:has-text('tree')")
    assert page.input_value("#card_editor [data-field=activation]") == "ink wash, tree"
    page.click("#card_editor summary")
    assert "ss_output_name" in page.inner_text(".easel-card-metadata")
    page.click("#card_editor .easel-link")
    page.wait_for_function("document.querySelector('.easel-card-hash').textContent.length === 12")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#card_editor footer button:has-text('Cancel')")
    page.wait_for_selector("#card_editor", state="hidden")
    assert json.loads((files / "styles" / "ink.json").read_text())["activation text"] == "ink wash"


def test_a_preview_comes_from_a_file_or_from_the_picture_shown(page, files, watch):
    page.fill("#txt2img_steps input[type=number]", "1")
    page.fill("#txt2img_seed input", "5")
    open_cards(page)
    page.click("#txt2img_generate")  # back to the pictures by itself
    page.wait_for_selector("#txt2img_gallery .easel-frame img[src*='/pictures/']")
    open_cards(page)

    def edit() -> None:
        card(page, "plain2").hover()
        card(page, "plain2").locator(".easel-card-edit").click()
        page.wait_for_selector("#card_editor[open]")

    def save() -> Image.Image:
        page.click("#card_editor .primary")
        page.wait_for_selector("#card_editor", state="hidden")
        card(page, "plain2").locator("img").wait_for()
        return Image.open(files / "plain2.preview.png")

    edit()
    page.click(".easel-use-shown")
    page.wait_for_selector(".easel-card-preview img[src^='blob:']")
    assert save().size == (128, 128)
    shown = card(page, "plain2").locator("img").get_attribute("src")
    edit()
    out = io.BytesIO()
    Image.new("RGB", (60, 90), "teal").save(out, "JPEG")
    page.set_input_files(
        "#card_editor input[type=file]", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()}
    )
    page.wait_for_selector(".easel-card-preview img[src^='blob:']")
    assert save().size == (60, 90)
    assert card(page, "plain2").locator("img").get_attribute("src") != shown
    assert not (files / "plain2.json").exists()  # nothing was written down
    edit()
    page.set_input_files("#card_editor input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.click("#card_editor .primary")
    page.wait_for_selector("#card_editor .easel-dialog-note.error")
    assert "not a picture" in page.inner_text("#card_editor .easel-dialog-note")
    assert any(trouble.startswith("415") for trouble in watch.troubles)
    watch.troubles.clear()
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Escape")


def test_cards_and_tabs_are_reached_by_keys(page):
    page.focus("#txt2img_pictures_tab")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#txt2img_lora_cards .easel-card")
    assert page.evaluate("document.activeElement.id") == "txt2img_lora_tab"
    page.select_option("#txt2img_lora_extra_sort", "name")
    first = page.locator("#txt2img_lora_cards .easel-card-main").first
    first.focus()
    here = "document.activeElement.closest('.easel-card').card.stem"
    assert page.evaluate(here) == "big"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(here) == "haze"
    page.keyboard.press("Home")
    page.fill(PROMPT, "")
    first.focus()
    page.keyboard.press("Enter")
    assert page.input_value(PROMPT) == "<lora:big:1>"


def test_ids_are_those_that_scripts_know_in_both_tabs(fresh):
    page = fresh
    for kind in ("lora", "textual_inversion", "hypernetworks", "checkpoints"):
        page.click(f"#txt2img_{kind}_tab")
    assert [id for id in IDS if page.locator(f"#{id}").count() != 1] == []
    page.click("#txt2img_hypernetworks_tab")
    page.wait_for_selector("text=No files of this kind are there yet")
    page.click("#txt2img_extra_networks")
    assert page.is_visible("#txt2img_results")
    page.click("#tab_img2img-button")
    page.wait_for_selector("#img2img_extra_tabs [role=tab]")
    late = "#img2img_neg_prompt textarea"
    page.click("#img2img_lora_tab")
    page.wait_for_selector("#img2img_lora_cards .easel-card")
    page.locator("#img2img_lora_cards .easel-card-main:has-text('big')").click()
    assert page.input_value("#img2img_prompt textarea") == "<lora:big:1>"
    page.click("#img2img_textual_inversion_tab")
    # A box that comes into the page after the cards' tabs, as on a busy machine, is heard as well.
    page.evaluate("(id) => { const box = document.querySelector(id); box.replaceWith(box.cloneNode(true)); }", late)
    page.focus(late)
    page.wait_for_selector("#img2img_textual_inversion_pane [data-into=negative][aria-pressed=true]")


OPEN = """async () => {
    const start = performance.now();
    document.querySelector("#txt2img_lora_tab").click();
    while (!document.querySelector("#txt2img_lora_cards .easel-card")) await new Promise(requestAnimationFrame);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return performance.now() - start;
}"""


def test_many_cards_are_in_the_page_only_where_they_are_in_sight(fresh, served, files, record_property):
    page = fresh
    sample = files / "big.safetensors"
    folder = files / "many"
    for n in range(MANY):
        (folder / f"{n % 40:02}").mkdir(parents=True, exist_ok=True)
        os.link(sample, folder / f"{n % 40:02}" / f"style number {n:05}.safetensors")
    try:
        served.service.library.scan()
        took = [page.evaluate(OPEN)]
        page.click("#txt2img_pictures_tab")
        took.append(page.evaluate(OPEN))
        record_property("open_ms", took)
        print(f"{MANY} cards open in {took[0]:.0f} ms, again in {took[1]:.0f} ms")
        page.wait_for_selector(f"{PANE} .easel-cards-note:text-is('{MANY + 5} files')")
        assert 8 < page.locator("#txt2img_lora_cards .easel-card").count() < 80
        page.select_option("#txt2img_lora_extra_sort", "name")
        page.evaluate("document.querySelector('#txt2img_lora_cards').scrollTop = 1e9")
        card(page, f"style number {MANY - 1:05}").wait_for()
        assert page.locator("#txt2img_lora_cards .easel-card").count() < 80
        page.fill("#txt2img_lora_extra_search", "number 00777")
        assert names(page) == ["style number 00777"]
    finally:
        for path in folder.rglob("*.safetensors"):
            path.unlink()


def test_on_a_phone_cards_stand_two_abreast_and_nothing_is_cut(served, files, chromium, watch):
    context = new_context(chromium, 390, 844, color_scheme="dark", has_touch=True)
    page = watch.on(context.new_page())
    open_page(page, served)
    page.wait_for_selector("#txt2img_extra_tabs [role=tab]")
    open_cards(page)
    boxes = [box.bounding_box() for box in page.locator(".easel-card").all()]
    assert len({box["x"] for box in boxes}) == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    card(page, "haze").locator(".easel-card-edit").click()  # there is no hovering
    page.wait_for_selector("#card_editor[open]")
    assert page.evaluate("document.querySelector('.easel-card-sides').scrollWidth") <= 390
    context.close()
