"""The page for everybody: axe finds nothing serious, the keyboard reaches all and shows where, a phone shows all."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from tests.frontends.conftest import Served, Watch, new_context, open_page
from tests.frontends.test_page import IDLE, PROMPT

pytestmark = pytest.mark.browser
DESKTOP, PHONE = (1440, 900), (390, 844)
# What axe finds now: rule, how often, and the first elements. Of a second theme only colours differ.
RUN = """async (only) => (await axe.run(document, { resultTypes: ["violations"], ...only })).violations
    .filter((found) => found.impact === "serious" || found.impact === "critical")
    .map((found) => [found.id, found.nodes.length,
        found.nodes.slice(0, 3).map((node) => `${node.target.join(" ")} ${node.html.slice(0, 120)}`)])"""
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
NAMES = """() => [...new Set([...document.querySelectorAll('#tabs > .tab-wrapper button')]
    .map((button) => button.textContent.trim()).filter(Boolean))]"""
CUT = """() => [...document.querySelectorAll('label > span, [data-testid=block-info], button, h2, h3')]
    .filter((e) => e.checkVisibility() && !e.closest('.sr-only, .easel-examples, .tab-wrapper') && e.clientWidth > 1)
    .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).textOverflow !== "ellipsis")
    .map((e) => e.outerHTML.slice(0, 120))"""
# What the Tab key should come to; of radio buttons and tabs it comes to one each.
REACHABLE = """() => [...document.querySelectorAll('button, input, textarea, select, a[href], [tabindex="0"]')]
    .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0
        && !e.closest("[inert], [aria-hidden=true]") && e.type !== "radio"
        && !(e.role === "tab" && e.ariaSelected === "false") && e.getBoundingClientRect().width > 1)"""


def open_tab(page: Any, name: str) -> None:
    shown = page.locator("#tabs > .tab-wrapper [role=tab]:visible").get_by_text(name, exact=True)
    if shown.count() == 0:
        page.click("#tabs > .tab-wrapper .overflow-menu > button")
        shown = page.locator("#tabs > .tab-wrapper .overflow-dropdown button").get_by_text(name, exact=True)
    shown.first.click()
    page.wait_for_timeout(600)  # lists come in, colours settle


def bring_axe(page: Any) -> None:
    pytest.importorskip("axe_playwright_python")
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))


@pytest.fixture(scope="module")
def page(served: Served, chromium: Any) -> Iterator[Any]:
    """Something in every place: a prompt with a mistake, a picture with its settings. One for all tests here."""
    context = new_context(chromium, *DESKTOP)
    watch = Watch()
    page = watch.on(context.new_page())
    open_page(page, served)
    bring_axe(page)
    page.fill(PROMPT, "a (red:1.3) <lora:nothing:1> house")
    page.fill("#txt2img_steps input[type=number]", "1")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*='/pictures/']")
    page.wait_for_selector(IDLE)
    page.wait_for_selector("#txt2img_token_counter_notes button")
    yield page
    context.close()
    assert watch.troubles == []


STILL = """() => document.getAnimations().every((one) =>
    one.playState !== "running" || one.effect.getComputedTiming().iterations === Infinity)"""


def colours(page: Any, theme: str, only: dict[str, Any] = COLOURS) -> Any:
    """What axe finds wrong with the colours of a theme, or with all that is not left out."""
    page.emulate_media(color_scheme=theme)
    page.wait_for_function("(dark) => document.body.classList.contains('dark') === dark", arg=theme == "dark")
    page.wait_for_timeout(100)
    page.wait_for_function(STILL)  # colours that change slowly are no one's colours
    return page.evaluate(RUN, only)


def test_the_keyboard_reaches_all_and_shows_where_it_is(page):
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    page.evaluate(f"window.wanted = new Set(({REACHABLE})()); window.unseen = []")
    count = page.evaluate("wanted.size")
    assert count > 30
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    for _ in range(count + 40):
        page.keyboard.press("Tab")
        page.evaluate(
            """() => {
            const at = document.activeElement, style = getComputedStyle(at);
            wanted.delete(at);
            const around = getComputedStyle(at.closest("label, .wrap") ?? at);
            const shown = [style, around].some((s) => s.outlineStyle !== "none" || s.boxShadow !== "none");
            if (at !== document.body && !shown) unseen.push(at.outerHTML.slice(0, 160));
        }"""
        )
    assert page.evaluate("[...wanted].map((e) => e.outerHTML.slice(0, 140))") == []
    assert page.evaluate("unseen") == []


def test_axe_finds_nothing_serious(page):
    found: dict[str, Any] = {}
    for name in page.evaluate(NAMES):
        open_tab(page, name)
        page.mouse.move(0, 0)
        found[f"{name}, light"] = colours(page, "light", {})
        found[f"{name}, dark"] = colours(page, "dark")
    open_tab(page, "txt2img")
    for button in ("txt2img_styles_edit_button", "txt2img_earlier", "txt2img_presets"):
        page.click(f"#{button}")
        page.wait_for_timeout(400)
        found[button] = page.evaluate(RUN, {})
        found[f"{button}, light"] = colours(page, "light")
        page.emulate_media(color_scheme="dark")
        page.keyboard.press("Escape")
    page.fill(PROMPT, "")
    page.focus(PROMPT)
    page.keyboard.type("<l")
    page.wait_for_selector("#easel_completion:not([hidden])")
    found["completion"] = page.evaluate(RUN, {})
    page.keyboard.press("Escape")
    assert {name: rules for name, rules in found.items() if rules} == {}


def test_every_tab_fits_a_phone(page):
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    wide, cut, found = {}, {}, {}
    for name in page.evaluate(NAMES):
        open_tab(page, name)
        wide[name] = page.evaluate("document.documentElement.scrollWidth")
        cut[name] = page.evaluate(CUT)
        found[f"{name}, light"] = colours(page, "light", {})
        found[f"{name}, dark"] = colours(page, "dark")
    assert {name: width for name, width in wide.items() if width > PHONE[0]} == {}
    assert {name: labels for name, labels in cut.items() if labels} == {}
    assert {name: rules for name, rules in found.items() if rules} == {}
