"""The line below Generate, and what it opens, in real Chromium over the stand-in; and its routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.frontends.conftest import Served, Watch, new_context, open_page
from tests.frontends.test_page import number

LINE = "#txt2img_memory button"


@pytest.fixture(scope="module")
def page(served: Served, chromium: Any) -> Iterator[Any]:
    context = new_context(chromium)
    page = context.new_page()
    open_page(page, served)
    yield page
    context.close()


def text(page: Any, wanted: str) -> None:
    page.wait_for_function(f"document.querySelector('{LINE}')?.textContent === {wanted!r}")


@pytest.mark.browser
def test_the_line_follows_the_form(page, watch: Watch):
    watch.on(page)
    page.fill(number("width"), "512")
    page.fill(number("height"), "512")
    page.fill(number("steps"), "20")
    text(page, "About 3.1 of 8.0 GB of memory")
    page.fill(number("steps"), "21")
    text(page, "3.1 of 8.0 GB of memory")
    page.fill(number("width"), "1536")
    page.fill(number("height"), "1536")
    text(page, "Needs about 7.9 GB of memory, there are 8.0 · VAE in tiles")
    assert "over" in (page.get_attribute(LINE, "class") or "")


@pytest.mark.browser
def test_what_is_held_is_shown_and_let_go(page, served: Served, watch: Watch):
    watch.on(page)
    served.service.loaded = True
    page.focus(LINE)
    page.keyboard.press("Enter")
    page.wait_for_selector("#easel_memory[open]")
    told = [row.inner_text().split("\t") for row in page.locator("#easel_memory tbody tr").all()]
    rows = {name: cells for name, *cells in told}
    assert rows["Weights"] == ["0 MB", "2.0 GB"]
    assert rows["Activations"] == ["0 MB", "0.1 GB"]
    assert rows["Cache"] == ["3 MB", "0 MB"]
    assert rows["Total"] == ["32.0 GB", "8.0 GB"]
    assert page.inner_text("#easel_memory .easel-dialog-note") == "Loaded: m"
    page.click("#easel_memory button >> text=Free memory")
    page.wait_for_selector("#easel_memory .easel-dialog-note >> text=No model is loaded.")
    assert served.service.loaded is False
    page.keyboard.press("Escape")
    page.wait_for_selector("#easel_memory", state="hidden")


def test_routes_of_memory(served: Served):
    served.service.loaded = True
    told = httpx.post(f"{served.url}memory/estimate", json={"width": 512, "height": 512}).json()
    assert told["peak"] == 3_100_000_000
    assert told["fits"] is True
    wrong = httpx.post(f"{served.url}memory/estimate", json={"width": "wide"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "width")
    now = httpx.get(f"{served.url}memory").json()
    assert now["vram"]["weights"] == 2 * 10**9
    freed = httpx.post(f"{served.url}memory/free")
    assert (freed.status_code, freed.json()["checkpoint"]) == (202, None)
    for tab in ("txt2img", "img2img"):
        answer = httpx.post(f"{served.url}easel/memory", json={"tab": tab, "form": {"width": 1024, "height": 512}})
        assert answer.json()["denoising"] == int(1.2e9)
    half_filled = httpx.post(f"{served.url}easel/memory", json={"tab": "txt2img", "form": {"width": "wi"}})
    assert (half_filled.status_code, half_filled.json()) == (200, None)
    assert httpx.post(f"{served.url}easel/memory", json={"tab": "none", "form": {}}).status_code in (400, 422)
