"""Takes the pictures in docs/images from a running Easel: `python -m tests.frontends.screenshots http://127.0.0.1:7860`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.frontends.conftest import CHROMIUM_FLAGS

FOLDER = Path(__file__).parent.parent.parent / "docs" / "images"
SHOTS = (
    ("txt2img-light.png", "light", (1440, 900), 4, "a red house on green hills, night, moon"),
    ("txt2img-dark.png", "dark", (1440, 900), 4, "a small white boat in the middle by the sea, sunset, sun"),
    ("txt2img-phone.png", "dark", (390, 844), 1, "a big orange balloon over mountains, day, clouds"),
)


def main(url: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        for name, theme, (width, height), count, prompt in SHOTS:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=theme,  # type: ignore[arg-type]
            )
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.goto(url)
            page.wait_for_selector(".easel-example")
            page.fill("#txt2img_prompt textarea", prompt)
            page.fill("#txt2img_seed input", "2026")
            page.fill("#txt2img_batch_count input[type=number]", str(count))
            page.click("#txt2img_generate")
            page.wait_for_selector("#txt2img_gallery img[src*='/pictures/']")
            page.wait_for_selector("body:not(.easel-running)")
            page.mouse.move(0, 0)
            page.evaluate(
                "scrollTo(0, 0); document.activeElement?.blur(); document.getElementById('easel_toasts')?.remove()"
            )
            page.wait_for_timeout(500)
            page.screenshot(path=FOLDER / name)
            if theme == "light":
                inpaint(page)
                compared(page)
                plot(page)
            if name == "txt2img-dark.png":
                written(page)
            if name == "txt2img-dark.png":
                page.evaluate("easel.tools.openTab('history', 'history')")
                page.wait_for_selector("#history .easel-tile img.there")
                page.wait_for_timeout(800)
                page.screenshot(path=FOLDER / "history-dark.png")
            context.close()
        browser.close()


def inpaint(page: Page) -> None:
    """The sky of the first picture drawn anew, with the mask still to be seen."""
    page.click("#txt2img_gallery .thumbnail-item >> nth=0")
    page.click("#txt2img_send_to_inpaint")
    page.wait_for_selector("#img2img_image canvas.base")
    page.wait_for_timeout(1000)
    page.fill("#img2img_batch_count input[type=number]", "3")
    page.fill("#img2img_seed input", "7")
    page.evaluate("easel.source.width = 110")
    page.locator("#mode_img2img").evaluate("(place) => place.scrollIntoView()")
    box = page.locator(".easel-layers").bounding_box()
    assert box is not None
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + side * 0.05, y + side * 0.12)
    page.mouse.down()
    page.mouse.move(x + side * 0.95, y + side * 0.12, steps=8)
    page.mouse.up()
    page.click("#img2img_generate")
    page.wait_for_selector("#img2img_gallery .thumbnail-item:not(.live) >> nth=2")
    page.wait_for_selector("body:not(.easel-running)")
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0); document.activeElement?.blur(); document.getElementById('easel_toasts')?.remove()")
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "img2img-light.png")


def compared(page: Page) -> None:
    """The newest picture of img2img under the slider with the one it was drawn from."""
    page.evaluate("easel.tools.openTab('history', 'history')")
    page.wait_for_selector("#history .easel-tile img.there")
    page.click("#history .easel-tile[data-index='0']", modifiers=["Control"])
    page.click("#history .easel-tile[data-index='3']", modifiers=["Control"])
    page.click("#history_compare")
    page.wait_for_selector("#history_comparison[open] dl")
    page.wait_for_timeout(800)
    page.screenshot(path=FOLDER / "history-compare-light.png")
    page.keyboard.press("Escape")
    page.wait_for_selector("#history_comparison", state="hidden")


def written(page: Page) -> None:
    """The prompt in colours, with what is odd about it and names that complete it."""
    page.fill("#txt2img_prompt textarea", "a (red:1.4) house on [green:snowy:0.5] hills, night, ((moon)), ")
    page.focus("#txt2img_prompt textarea")
    page.keyboard.press("End")
    page.keyboard.type("<lora:sil", delay=60)
    page.wait_for_selector("#easel_completion:not([hidden]) li")
    page.wait_for_timeout(1200)
    box = page.locator("#txt2img_toprow").bounding_box()
    assert box is not None
    page.screenshot(
        path=FOLDER / "prompt-dark.png", clip={**box, "x": 0, "y": box["y"] - 20, "width": 520, "height": 240}
    )
    page.keyboard.press("Escape")
    page.fill("#txt2img_prompt textarea", "")


def plot(page: Page) -> None:
    """An X/Y/Z plot with the form that asked for it."""
    page.evaluate("easel.tools.openTab('txt2img', 'txt2img_prompt')")
    page.fill("#txt2img_prompt textarea", "a big red house on green hills, day, clouds")
    page.fill("#txt2img_batch_count input[type=number]", "1")
    scripts = page.locator("#txt2img_workspace .easel-scripts")
    scripts.locator("select").first.select_option(label="X/Y/Z plot")
    axes = scripts.locator(".easel-script-axis")
    for k, (kind, values) in enumerate((("Seed", "3, 4, 5"), ("Steps", "3, 6, 20"))):
        axes.nth(k).locator("select").select_option(label=kind)
        axes.nth(k).locator("input[type=text]").fill(values)
    page.click("#txt2img_generate")
    page.wait_for_selector("body.easel-running")
    page.wait_for_selector("body:not(.easel-running)")
    page.wait_for_timeout(1000)
    page.evaluate("document.getElementById('easel_toasts')?.remove()")
    scripts.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / "plot-light.png")


if __name__ == "__main__":
    main(sys.argv[1])
