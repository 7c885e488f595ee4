"""Extensions in a real browser, over the shipped model: switched on, their section, settings and tab used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.imaging.metadata import read_infotext
from modules.prompt import infotext
from tests.extending import DARKER, SECTION, write_extension
from tests.frontends.conftest import ROOT, Program, Watch, open_program, started

TAB = """
import gradio as gr


def build(own):
    name = gr.Textbox(label="Name", elem_id="greet_name")
    button = gr.Button("Greet", elem_id="greet_button")
    answer = gr.Textbox(label="Answer", elem_id="greet_answer")
    button.click(lambda text: f"{own.settings()['word']} {text}", name, answer)
"""
GREETER = """
[tab]
title = "Greeter"

[[settings]]
name = "word"
label = "Word of greeting"
kind = "text"
default = "Hello"
"""
MORE = """
[[section.fields]]
name = "often"
label = "How often"
kind = "number"
default = 1
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    data = tmp_path_factory.mktemp("data")
    write_extension(data / "extensions", "dark", DARKER, SECTION + MORE, name="Dark room")
    write_extension(data / "extensions", "greeter", None, GREETER, name="Greeter", tab=TAB)
    write_extension(data / "extensions", "hungry", "1 / 0", 'needs = ["net"]', name="Hungry")
    (data / "config.json").write_text(json.dumps({"enabled_extensions": {"greeter": []}}))
    with started(data, ROOT / "models") as found:
        yield found


def generate(page: Any, seed: int) -> None:
    """One small picture; waits until it is there."""
    page.evaluate("document.querySelector('#html_log_txt2img .easel-log')?.replaceChildren()")  # of the job before
    for field, value in (("steps", 2), ("width", 128), ("height", 128)):
        page.fill(f"#txt2img_{field} input[type=number]", str(value))
        page.press(f"#txt2img_{field} input[type=number]", "Tab")
    page.fill("#txt2img_seed :is(input, textarea)", str(seed))
    page.click("#txt2img_generate")
    page.wait_for_selector("#html_log_txt2img .easel-log:has-text('picture in')", timeout=60_000)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)


def open_list(page: Any) -> None:
    page.click("#tab_extensions-button")
    page.wait_for_selector("#extensions_installed li")


def test_an_extension_is_switched_on_used_and_off_without_a_restart(
    program: Program, real_context: Any, watch: Watch, test_seed: int
) -> None:
    page = open_program(real_context, program, watch)
    page.fill("#txt2img_prompt textarea", "a red house")
    generate(page, test_seed % 1000)
    assert page.locator("#txt2img_extension_sections .easel-fold").count() == 0

    open_list(page)
    row = page.locator("li[data-key=dark]")
    assert row.locator(".easel-extension-asked").is_hidden()
    row.locator("input").check()
    assert "code will run as you do" in row.locator(".easel-extension-asked").inner_text()
    assert "talks to other machines" in page.locator("li[data-key=hungry]").inner_text()
    page.click("#extensions_apply")
    page.wait_for_selector("li.on[data-key=dark]")
    assert json.loads((program.data / "config.json").read_text())["enabled_extensions"] == {"dark": [], "greeter": []}

    page.click("#tab_txt2img-button")
    page.check("#txt2img_ext_dark-checkbox input")
    page.fill("#txt2img_ext_dark_strength input[type=number]", "0.25")
    page.fill("#txt2img_ext_dark_often input", "4")
    generate(page, test_seed % 1000)
    plain, dark = program.pictures()
    assert (pixels(dark) == (pixels(plain) * 0.75).astype(np.int16)).all()
    with Image.open(dark) as image:
        told = read_infotext(image) or ""
    fields = infotext.read(told).fields
    assert (fields["Extensions"], fields["Dark room Strength"], fields["Dark room How often"]) == (
        "Dark room 1.2", "0.25", "4",
    )  # fmt: skip

    page.fill("#txt2img_ext_dark_strength input[type=number]", "0.9")
    page.reload()  # what stood in the section stays
    page.wait_for_selector("#txt2img_ext_dark_strength")
    assert page.input_value("#txt2img_ext_dark_strength input[type=number]") == "0.9"
    page.uncheck("#txt2img_ext_dark-checkbox input")
    page.fill("#txt2img_prompt textarea", told)
    page.click("#paste")
    page.wait_for_function("document.querySelector('#txt2img_ext_dark-checkbox input').checked")
    assert page.input_value("#txt2img_ext_dark_strength input[type=number]") == "0.25"
    assert page.input_value("#txt2img_ext_dark_often input") == "4"
    with Image.open(plain) as image:
        page.fill("#txt2img_prompt textarea", read_infotext(image) or "")
    page.click("#paste")
    page.wait_for_function("!document.querySelector('#txt2img_ext_dark-checkbox input').checked")

    page.check("#txt2img_ext_dark-checkbox input")
    page.fill("#txt2img_ext_dark_often input", "1.5")
    page.click("#txt2img_generate")
    page.wait_for_selector("text=Dark room: How often is a whole number")

    open_list(page)
    page.uncheck("#extension_dark")
    page.check("#extension_hungry")
    page.click("#extensions_apply")
    page.wait_for_selector("li[data-key=hungry] .easel-extension-problem:has-text('ZeroDivisionError')")
    page.click("#tab_txt2img-button")
    page.wait_for_selector("#txt2img_ext_dark", state="detached")
    generate(page, test_seed % 1000)
    assert (pixels(program.pictures()[-1]) == pixels(plain)).all()
    page.close()


def test_a_tab_of_its_own_and_its_settings(program: Program, real_context: Any, watch: Watch) -> None:
    page = open_program(real_context, program, watch)
    page.click("#tab_settings-button")
    page.fill("[id='setting_greeter/word']", "Good day")
    page.click("#settings_submit")
    page.wait_for_selector("text=Settings applied")
    page.click("#tab_ext-greeter-button")
    page.fill("#greet_name :is(input, textarea)", "Ada")
    page.click("#greet_button")
    page.wait_for_function("document.querySelector('#greet_answer :is(input, textarea)').value === 'Good day Ada'")
    kept = json.loads((program.data / "config.json").read_text())["extension_settings"]
    assert kept == {"greeter": {"word": "Good day"}}
    page.close()
