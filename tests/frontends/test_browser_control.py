"""ControlNet's units in a real browser, over the shipped model and an untaught net for it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modules.imaging.metadata import read_infotext
from modules.nets.unet import UNetConfig
from modules.weights.recognise import recognise
from tests.frontends.conftest import ROOT, Program, Watch, open_program, started
from tests.weights.tiny import write_control

pytestmark = pytest.mark.browser
SHIPPED = ROOT / "models/Stable-diffusion/postcards.safetensors"
UNIT = "#txt2img_controlnet_0_"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Program]:
    models = tmp_path_factory.mktemp("models")
    (models / "Stable-diffusion").mkdir()
    (models / "Stable-diffusion/postcards.safetensors").symlink_to(SHIPPED)
    config = UNetConfig(**recognise(SHIPPED)[1].unet.config)
    for name in ("control_canny", "control_tile"):
        write_control(models / f"ControlNet/{name}.safetensors", config, test_seed, strength=0.5)
    with started(tmp_path_factory.mktemp("data"), models) as found:
        yield found


def square() -> Any:
    image = Image.new("RGB", (128, 128), (30, 40, 50))
    image.paste((220, 200, 60), (32, 32, 96, 96))
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"name": "square.png", "mimeType": "image/png", "buffer": data.getvalue()}


def opened(page: Page, tab: str = "txt2img") -> None:
    page.locator(f"#{tab}_controlnet_fold").scroll_into_view_if_needed()
    page.click(f"#{tab}_controlnet_fold > summary")
    expect(page.locator(f"#{tab}_controlnet_0_unit")).to_be_visible()


def put(page: Page, tab: str = "txt2img") -> None:
    page.locator(f"#{tab}_controlnet_0_unit input[type=file]").set_input_files([square()])
    expect(page.locator(f"#{tab}_controlnet_0_image img")).to_be_visible()


def generate(page: Page, tab: str = "txt2img") -> None:
    """Small and quick; waits until the job is over."""
    for field, value in (("steps", 3), ("width", 128), ("height", 128), ("seed", 5)):
        box = f"#{tab}_{field} :is(input[type=number], input, textarea)"
        page.locator(box).first.fill(str(value))
        page.locator(box).first.press("Tab")
    page.evaluate(f"document.querySelector('#html_log_{tab} .easel-log')?.replaceChildren()")  # of the job before
    page.click(f"#{tab}_generate")
    expect(page.locator(f"#html_log_{tab} .easel-log")).to_contain_text("picture")


def newest(program: Program, task: str = "txt2img") -> tuple[np.ndarray, str]:
    with Image.open(program.pictures(task)[-1]) as image:
        return np.asarray(image.convert("RGB")).astype(int), read_infotext(image) or ""


def test_a_picture_is_drawn_along_and_its_infotext_brings_the_unit_back(
    program: Program, real_context: Any, watch: Watch
) -> None:
    page = open_program(real_context, program, watch)
    page.fill("#txt2img_prompt textarea", "a red house, meadow")
    generate(page)
    plain, _ = newest(program)
    opened(page)
    count = page.locator("#txt2img_controlnet_fold .easel-control-count")
    expect(count).to_have_text("")
    put(page)
    expect(page.locator(f"{UNIT}enable input")).to_be_checked()  # a picture is meant to be used
    expect(count).to_have_text("1 on")

    # Only what the preprocessor takes is asked for.
    numbers = page.locator("#txt2img_controlnet_0_unit .easel-control-numbers")
    expect(numbers).to_be_hidden()
    page.select_option(f"{UNIT}module select", "canny")
    expect(numbers.locator(".easel-slider label")).to_have_text(
        ["Preprocessor Resolution", "Low Threshold", "High Threshold"]
    )
    page.check(f"{UNIT}pixel_perfect input")
    expect(numbers.locator(".easel-slider label")).to_have_text(["Low Threshold", "High Threshold"])
    page.fill(f"{UNIT}threshold_a input[type=number]", "90")
    page.click(f"{UNIT}preview")
    shown = page.locator("#txt2img_controlnet_0_unit .easel-control-map")
    expect(shown.locator("figcaption")).to_have_text("canny · 128×128")

    models = page.locator(f"{UNIT}model select option")
    expect(models).to_have_count(3)
    with page.expect_response(lambda answer: answer.url.endswith("/easel/memory")) as told_of:
        page.select_option(f"{UNIT}model select", index=1)
    assert "control_canny" in told_of.value.request.post_data
    page.fill(f"{UNIT}weight input[type=number]", "0.9")
    page.locator(f"{UNIT}control_mode").get_by_text("My prompt is more important").click()
    generate(page)
    along, told = newest(program)
    assert np.abs(along - plain).mean() > 0.5
    assert "Module: canny, Model: control_canny [" in told
    assert "Weight: 0.9" in told
    assert "Threshold A: 90, Threshold B: 200" in told
    assert "Pixel Perfect: True, Control Mode: My prompt is more important" in told

    # Everything but the pictures outlives a reload.
    page.reload()
    expect(page.locator("#txt2img_controlnet_fold .easel-control-count")).to_have_text("1 on")
    opened(page)
    expect(page.locator(f"{UNIT}module select")).to_have_value("canny")
    put(page)
    generate(page)
    assert np.array_equal(newest(program)[0], along)

    # An infotext without units switches them off, one with them brings all back but the picture.
    page.fill("#txt2img_prompt textarea", "a boat\nSteps: 3, Sampler: Euler, CFG scale: 5, Seed: 5, Size: 128x128")
    page.click("#paste")
    expect(page.locator(f"{UNIT}enable input")).not_to_be_checked()
    page.select_option(f"{UNIT}module select", "none")
    page.fill("#txt2img_prompt textarea", told)
    page.click("#paste")
    expect(page.locator(f"{UNIT}enable input")).to_be_checked()
    expect(page.locator(f"{UNIT}module select")).to_have_value("canny")
    expect(page.locator(f"{UNIT}weight input[type=number]")).to_have_value("0.9")
    expect(page.locator(f"{UNIT}threshold_a input[type=number]")).to_have_value("90")
    expect(page.locator(f"{UNIT}image img")).to_be_visible()
    generate(page)
    assert np.array_equal(newest(program)[0], along)

    # The three units are apart, and one without a picture is told of.
    page.click("#txt2img_controlnet_1_tab")
    expect(page.locator("#txt2img_controlnet_1_unit")).to_be_visible()
    expect(page.locator("#txt2img_controlnet_0_unit")).to_be_hidden()
    page.check("#txt2img_controlnet_1_enable input")
    page.select_option("#txt2img_controlnet_1_model select", index=2)
    page.click("#txt2img_generate")
    expect(page.locator("body")).to_contain_text("ControlNet unit 1 has no picture to look at")


def test_in_img2img_a_unit_looks_at_the_source(program: Program, real_context: Any, watch: Watch) -> None:
    page = open_program(real_context, program, watch)
    page.get_by_role("tab", name="img2img", exact=True).first.click()
    page.locator("#img2img_image + input[type=file]").set_input_files([square()])
    expect(page.locator("#img2img_image canvas").first).to_be_visible()
    page.fill("#img2img_prompt textarea", "a red house")
    opened(page, "img2img")
    unit = "#img2img_controlnet_0_"
    page.check(f"{unit}enable input")
    page.select_option(f"{unit}module select", "invert")
    page.select_option(f"{unit}model select", index=1)
    page.click(f"{unit}preview")
    expect(page.locator("#img2img_controlnet_0_unit figcaption")).to_have_text("invert · 128×128")
    generate(page, "img2img")
    empty, told = newest(program, "img2img")
    assert "ControlNet 0" in told
    put(page, "img2img")
    generate(page, "img2img")
    assert np.array_equal(newest(program, "img2img")[0], empty)
    page.uncheck(f"{unit}enable input")
    generate(page, "img2img")
    assert not np.array_equal(newest(program, "img2img")[0], empty)


@pytest.mark.skipif(not os.environ.get("TEST_SHOTS"), reason="TEST_SHOTS=<folder> takes pictures of the units")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_of_the_units(program: Program, real_context: Any, watch: Watch, theme: str) -> None:
    page = open_program(real_context, program, watch)
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    opened(page)
    put(page)
    page.select_option(f"{UNIT}module select", "canny")
    page.select_option(f"{UNIT}model select", index=1)
    page.click(f"{UNIT}preview")
    expect(page.locator("#txt2img_controlnet_0_unit figcaption")).to_be_visible()
    folder = Path(os.environ["TEST_SHOTS"])
    for name, width in (("wide", 1440), ("phone", 390)):
        page.set_viewport_size({"width": width, "height": 1500})
        page.locator("#txt2img_controlnet_fold").scroll_into_view_if_needed()
        page.screenshot(path=folder / f"control-{name}-{theme}.png")
