"""The History tab in real Chromium: over the real service with the fake engine, and once with the shipped model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from tests.frontends.conftest import Program, Watch, open_program
from tests.frontends.test_browser_sources import fill, generate, pixels

pytestmark = pytest.mark.browser
MANY = 100_000 if os.environ.get("TEST_FULL") else 3_000


def open_history(page: Any) -> None:
    page.evaluate("easel.tools.openTab('history', 'history')")
    page.wait_for_selector("#history .easel-tile img.there")


# ------------------------------------------------------------------------------------------------------------- for real


def test_a_picture_is_restored_to_the_bit_sent_on_and_traced(program: Program, real_context: Any, watch: Watch) -> None:
    page = open_program(real_context, program, watch)
    page.set_default_timeout(60_000)
    fill(page, "txt2img_prompt", "a red house on green hills, night, moon")
    fill(page, "txt2img_steps", 4)
    fill(page, "txt2img_seed", 77)
    first = generate(page, program, "txt2img")
    fill(page, "txt2img_prompt", "something else")
    fill(page, "txt2img_steps", 7)
    fill(page, "txt2img_seed", 1)

    open_history(page)
    page.click("#history .easel-tile[data-index='0']")
    page.click("#history_restore_settings")
    page.wait_for_selector("#txt2img_generate:visible")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '77'")
    again = generate(page, program, "txt2img")
    assert (pixels(again) == pixels(first)).all()

    # Over to img2img: the result knows where it came from, and is drawn again with its source from the history.
    open_history(page)
    page.click("#history .easel-tile[data-index='0']")
    page.click("#history_viewer [data-to=img2img]")
    page.wait_for_selector("#img2img_image canvas.base")
    page.wait_for_function("document.querySelector('#img2img_seed input').value === '77'")
    fill(page, "img2img_seed", 5)
    over = generate(page, program, "img2img")
    page.click("[data-act=remove]")
    fill(page, "img2img_seed", 6)
    open_history(page)
    page.click("#history .easel-tile[data-index='0']")
    page.wait_for_selector("#history_came_from .easel-relative img")
    assert page.inner_text("#history_came_from") == "txt2img"
    page.click("#history_restore_settings")
    page.wait_for_selector("#img2img_generate:visible")
    page.wait_for_function("document.querySelector('#img2img_seed input').value === '5'")
    page.wait_for_selector("#img2img_image canvas.base:visible")
    repeated = generate(page, program, "img2img")
    assert (pixels(repeated) == pixels(over)).all()
    assert np.abs(pixels(over) - pixels(first)).mean() > 1

    open_history(page)
    page.click("#history .easel-tile[data-index='0']")
    page.click("#history_came_from .easel-relative")
    page.wait_for_selector("#history_led_to .easel-kin >> nth=1")
    page.keyboard.press("Escape")
