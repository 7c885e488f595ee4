"""The first picture, for real: the program in its own process, the shipped model, a browser, the file on disk."""

from __future__ import annotations

import io
import re

import httpx
import psutil
import pytest
from PIL import Image

from modules.imaging.metadata import read_infotext
from modules.prompt import infotext
from tests.frontends.conftest import open_program as open_page

pytestmark = pytest.mark.browser
PROMPT = "a red house on green hills, night, moon"
IDLE = "body:not(.easel-running)"


def test_it_says_where_it_is_and_stays_small(program):
    ready = next(line for line in program.lines if "is ready" in line)
    assert re.fullmatch(rf"Easel is ready: {program.url[:-1]} \(page up in \d+\.\d s\)\n", ready)
    # torch alone would be more than this; it lives in the worker.
    assert psutil.Process(program.process.pid).memory_info().rss < 250 * 2**20


def test_prompt_to_picture_to_file(program, real_context, watch):
    page = open_page(real_context, program, watch)
    page.fill("#txt2img_prompt textarea", PROMPT)
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*='/pictures/']")
    page.wait_for_selector(IDLE)
    shown = page.locator("#txt2img_gallery img").first.get_attribute("src")
    size = (int(page.input_value("#txt2img_width input")), int(page.input_value("#txt2img_height input")))

    (path,) = program.pictures()
    assert path.read_bytes() == httpx.get(shown).content
    image = Image.open(io.BytesIO(path.read_bytes()))
    assert image.size == size
    assert len(image.convert("RGB").resize((16, 16)).getcolors() or ()) > 16  # a picture, not one colour
    text = read_infotext(image)
    assert text is not None
    read = infotext.read(text)
    found = read.fields
    assert read.prompt == PROMPT
    assert (found["Steps"], found["Sampler"]) == ("20", "DPM++ 2M")
    told = " ".join(page.inner_text("#html_info_txt2img").split())
    assert PROMPT in told
    assert f"Seed {found['Seed']}" in told
    assert path.name.endswith(f"-{found['Seed']}.png")
    assert f"saved in outputs/txt2img-images/{path.parent.name}" in page.inner_text("#html_log_txt2img")


def test_closing_the_tab_stops_nothing(program, real_context, watch):
    before = len(program.pictures())
    page = open_page(real_context, program, watch)
    page.fill("#txt2img_prompt textarea", PROMPT)
    page.fill("#txt2img_batch_count input[type=number]", "3")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live)")
    page.close()
    again = open_page(real_context, program, watch)
    again.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live)")
    again.wait_for_selector("#txt2img_gallery .thumbnail-item:not(.live) >> nth=2")
    again.wait_for_selector(IDLE)
    assert len(program.pictures()) == before + 3
    job = httpx.get(f"{program.url}jobs").json()[0]
    assert (job["state"], len(job["images"]), job["attempts"]) == ("done", 3, 1)
