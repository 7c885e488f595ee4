"""The History tab in real Chromium: over the real service with the fake engine, and once with the shipped model."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.imaging.metadata import encode
from modules.schema.folders import Folders
from modules.service.database import Database
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from tests.frontends.conftest import Program, Served, Watch, hold_answers, open_bare, open_program, serving
from tests.frontends.test_browser_sources import fill, generate, pixels
from tests.service.fake_engine import Engine
from tests.service.test_generation import ask, finish, wait_for
from tests.service.test_history import fill as fill_history

pytestmark = pytest.mark.browser
MANY = 100_000 if os.environ.get("TEST_FULL") else 3_000


@pytest.fixture(scope="module")
def filled(queued: Served) -> Served:
    """A history of eight pictures."""
    for number, prompt in enumerate(
        ["a red house, day", "a red house, night", "a small boat, <lora:ink:1>", "two trees"]
    ):
        finish(queued.service, queued.service.submit(ask(prompt, n_iter=2, seed=40 + 10 * number, steps=4 + number)))
    return queued


@pytest.fixture
def page(filled: Served, context: Any, watch: Watch) -> Iterator[Any]:
    page = watch.on(context.new_page())
    page.goto(f"{filled.url}health")
    page.evaluate("localStorage.clear()")
    open_bare(page, filled)
    open_history(page)
    yield page
    page.close()


def open_history(page: Any) -> None:
    page.evaluate("easel.tools.openTab('history', 'history')")
    page.wait_for_selector("#history .easel-tile img.there")


def look(page: Any) -> None:
    """Open the newest picture, as soon as it is listed."""
    newest = page.evaluate("async () => (await (await fetch('history?limit=1')).json()).pictures[0].id")
    page.click(f"#history .easel-tile[data-index='0'][data-id='{newest}']")
    page.wait_for_selector("#history_viewer[open]")


def wait_tiles(page: Any, ids: list[str]) -> None:
    """Until the grid shows these pictures in this order, and no others."""
    page.wait_for_function(
        """(ids) => [...document.querySelectorAll('#history .easel-tile')]
            .sort((a, b) => a.dataset.index - b.dataset.index).map((tile) => tile.dataset.id).join() === ids""",
        arg=",".join(ids),
    )


def search(page: Any, text: str, count: int) -> None:
    page.fill("#history_search", text)
    words = "1 picture" if count == 1 else f"{count} pictures"
    page.wait_for_function("(words) => document.querySelector('#history_count').innerText === words", arg=words)


def known(served: Served, query: str = "") -> list[str]:
    return [picture.id for picture in served.service.history.page(query).pictures]


def test_pictures_are_found_by_words_chips_and_filters(page, filled):
    wait_tiles(page, known(filled))
    assert page.inner_text(".easel-day strong") == "Today"
    search(page, "red nig", 2)
    wait_tiles(page, known(filled, "red nig"))
    search(page, "red seed:41", 1)
    assert page.locator(".easel-term").all_text_contents() == ["red×", "seed:41×"]
    page.click(".easel-term:has-text('red') button")
    page.wait_for_function("document.querySelector('#history_search').value === 'seed:41'")
    search(page, "seed:forty", len(known(filled)))
    page.wait_for_selector(".easel-term.odd")
    assert "takes a number" in page.inner_text(".easel-term-problem")
    page.fill("#history_search", "")
    page.click(".easel-hints button:has-text('lora:')")
    assert page.input_value("#history_search") == "lora:"
    search(page, "lora:ink", 2)
    page.select_option("#history_task", "task:img2img")
    page.wait_for_selector(".easel-history-empty:has-text('No picture fits this search.')")
    assert page.input_value("#history_search") == "lora:ink task:img2img"
    page.click("text=Clear the search")
    page.wait_for_selector("#history .easel-tile")


def test_keys_move_mark_and_open(page, filled):
    ids = known(filled)
    page.focus("#history .easel-tile[data-index='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("4")
    page.keyboard.press("f")
    page.wait_for_selector("#history .easel-tile.favourite[data-index='1']")
    wait_for(lambda: filled.service.history.get(ids[1]).rating == 4 and filled.service.history.get(ids[1]).favourite)
    page.wait_for_selector("#history [data-index='1'] .easel-stars:text-is('★★★★')")
    page.click("#history_favourites")
    page.wait_for_function("document.querySelector('#history_count').innerText === '1 picture'")
    assert page.input_value("#history_search") == "is:favourite"
    page.click("#history_favourites")
    page.wait_for_selector("#history .easel-tile[data-index='2']")
    page.select_option("#history_sort", "rated")
    page.wait_for_selector(".easel-day:has-text('★★★★☆')")
    page.wait_for_selector(f"#history .easel-tile[data-index='0'][data-id='{ids[1]}']")
    page.select_option("#history_sort", "newest")
    page.wait_for_selector(".easel-day:has-text('Today')")
    page.focus("#history .easel-tile[data-index='0']")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history_viewer[open] .easel-info:has-text('a red house, day')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"document.querySelector('#history_viewer img').src.endsWith('{ids[-2]}')")
    page.keyboard.press("2")
    page.wait_for_selector("#history_viewer .easel-star[data-n='2'][aria-pressed=true]")
    page.keyboard.press("Escape")
    page.wait_for_function(f"document.activeElement.dataset.index === '{len(ids) - 2}'")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
        page.wait_for_selector("#history_viewer .easel-info")
        page.keyboard.press("s")
    assert download.value.suggested_filename == Path(filled.service.history.get(ids[-2]).path).name
    filled.service.history.rate(ids, rating=0, favourite=False)


def test_a_picture_is_drawn_again_and_laid_beside_the_first(page, filled):
    (one, *_) = known(filled, "two trees")
    before = len(known(filled, "two trees"))
    page.click(f"[data-id='{one}']")
    page.click("#history_again")
    page.wait_for_selector("#history_comparison[open]")
    assert page.inner_text("#history_apart") == "The pictures are the same, bit for bit."
    assert page.get_attribute("#history_differences", "data-words") == ""
    assert len(known(filled, "two trees")) == 2 * before
    page.keyboard.press("Escape")


def test_two_pictures_are_compared_under_a_slider_and_in_words(page, filled):
    (one, *_), (other, *_) = known(filled, "night"), known(filled, "red house day")
    page.click(f"[data-id='{other}']", modifiers=["Control"])
    page.click(f"[data-id='{one}']", modifiers=["Control"])
    page.click("#history_compare")
    page.wait_for_selector("#history_comparison[open] dl")
    words = page.get_attribute("#history_differences", "data-words")
    assert (
        words
        == filled.service.history.compare(other, one).words
        == "prompt: + 'night', − 'day'; steps 4 → 5; seed 41 → 51"
    )
    assert page.locator("#history_differences ins").all_inner_texts() == ["+ night", "5", "51"]
    page.focus("#history_comparison input[type=range]")
    page.keyboard.press("Home")

    def seen(x: float) -> Any:
        """The colour at a place of the stage: red tells the seed."""
        box = page.locator(".easel-both").bounding_box()
        shot = Image.open(io.BytesIO(page.screenshot(clip={**box, "height": 20}))).convert("RGB")
        return shot.getpixel((int(shot.width * x), 10))

    assert abs(seen(0.75)[0] - 51) <= 2
    page.keyboard.press("End")
    assert abs(seen(0.25)[0] - 41) <= 2
    page.click("#history_comparison button:has-text('Swap')")
    page.wait_for_function("document.querySelector('#history_differences').dataset.words.includes('5 → 4')")


def test_a_deleted_picture_is_brought_back_by_undo_and_from_the_trash(page, filled):
    ids = known(filled)
    path = filled.service.history.file(ids[2])
    before = path.read_bytes()
    page.focus("#history .easel-tile[data-index='2']")
    page.keyboard.press("Delete")
    page.wait_for_function(f"document.querySelector('#history_count').innerText === '{len(ids) - 1} pictures'")
    assert not path.exists()
    page.click("#easel_toasts .act:has-text('Undo')")
    page.wait_for_function(f"document.querySelector('#history_count').innerText === '{len(ids)} pictures'")
    assert path.read_bytes() == before

    page.click(f"[data-index='2'][data-id='{ids[2]}']")
    page.wait_for_selector("#history_viewer .easel-info")
    page.keyboard.press("Delete")  # the next one takes its place
    page.wait_for_function(f"document.querySelector('#history_viewer img').src.endsWith('{ids[3]}')")
    page.wait_for_selector("#history_viewer .act:has-text('Undo')")  # within reach of the pointer
    page.keyboard.press("Escape")
    page.click("#history_trash")
    page.wait_for_selector(f"[data-index='0'][data-id='{ids[2]}'] img.there")
    page.click(f"[data-id='{ids[2]}']")
    page.click("#history_restore")
    page.wait_for_selector(".easel-history-empty:has-text('The trash is empty.')")
    assert path.read_bytes() == before
    page.click("#history_trash")
    page.wait_for_selector("#history .easel-tile[data-index='2']")
    assert known(filled) == ids

    extra = finish(filled.service, filled.service.submit(ask("not wanted"))).images[0]
    page.wait_for_selector(f"[data-id='{extra.id}'] img.there")  # it came by itself
    filled.service.history.delete([extra.id])
    page.click("#history_trash")
    page.click("#history_empty")
    page.click("#history_emptying button:has-text('Delete for good')")
    page.wait_for_selector(".easel-history-empty")
    assert filled.service.history.groups(shelf="trash").total == 0
    assert known(filled) == ids


def test_a_tile_opens_what_it_shows_while_the_list_is_on_its_way(page, filled):
    ids = known(filled)
    hold_answers(page, "history?")
    filled.service.history.delete([ids[0]])
    page.evaluate("document.querySelector('#history_sort').dispatchEvent(new Event('change'))")
    page.wait_for_function(f"document.querySelector('#history_count').innerText === '{len(ids) - 1} pictures'")
    page.click(f"[data-index='2'][data-id='{ids[2]}']")  # is at 1 in the list that is on its way
    page.evaluate("answer()")
    page.wait_for_selector("#history_viewer .easel-info")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('#history_viewer img').src.endsWith('{ids[3]}')")
    page.keyboard.press("Escape")

    hold_answers(page, "history/groups")
    page.click("#history_trash")
    page.click(f"[data-id='{ids[3]}']")  # is not in the trash, but still to be seen
    page.wait_for_selector("#history_viewer #history_restore_settings")
    assert page.locator("#history_restore").count() == 0
    filled.service.history.restore([ids[0]])


def test_a_folder_is_imported_and_its_pictures_only_hidden(page, filled, tmp_path):
    for number in range(3):
        text = f"imported castle\nSteps: 9, Sampler: Heun, Seed: {number}, Size: 64x64, Model: elsewhere"
        (tmp_path / f"{number}.png").write_bytes(encode(Image.new("RGB", (64, 64), "green"), text))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    page.click("#history_import")
    page.fill("#history_import_folder", str(tmp_path))
    page.click("#history_import_start")
    page.wait_for_selector("#history_import_dialog :text('Done · 3 new · 0 known already · 1 not readable')")
    page.keyboard.press("Escape")
    search(page, "model:elsewhere", 3)
    page.wait_for_selector("#history .easel-tile[data-index='2'][data-id]")
    page.focus("#history .easel-tile[data-index='0']")
    page.keyboard.press("Control+a")
    page.wait_for_selector(".easel-chosen:has-text('3 chosen')")
    page.keyboard.press("Delete")
    page.wait_for_selector(".easel-history-empty:has-text('No picture fits this search.')")
    assert "their files stay where they are" in page.inner_text("#easel_toasts")
    assert len(list(tmp_path.glob("*.png"))) == 3
    filled.service.history.empty_trash()
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_what_is_gone_is_shown_as_gone(page, filled, watch):
    page.goto(f"{filled.url}health")
    view = finish(filled.service, filled.service.submit(ask("to be removed")))
    id = view.images[0].id
    filled.service.history.file(id).unlink()
    assert filled.service.history.file(id) is None
    open_bare(page, filled)
    open_history(page)
    page.wait_for_selector(f"[data-id='{id}'].missing")
    assert "the file is gone" in page.get_attribute(f"[data-id='{id}']", "aria-label")
    filled.service.history.delete([id])
    filled.service.history.empty_trash()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Served]:
    folders = Folders.under(tmp_path_factory.mktemp("many"))
    database = Database(folders.database)
    fill_history(database, MANY, random.Random(test_seed))
    database.close()
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    with serving(service) as served:
        yield served


def test_many_pictures_open_at_once_and_only_some_are_in_the_page(many, context, watch, capsys):
    page = watch.on(context.new_page())
    open_bare(page, many)
    wait_for(lambda: many.service.history.groups("is:missing").total == MANY, 120)  # there are no files
    took = page.evaluate("""async () => {
        const start = performance.now();
        document.querySelector('#tab_history-button').click();
        while (!document.querySelector('#history .easel-tile[data-id]')) await new Promise(requestAnimationFrame);
        return performance.now() - start;
    }""")
    if os.environ.get("TEST_FULL"):
        with capsys.disabled():
            print(f"  {MANY} pictures: {took:.0f} ms from the click on the tab to the first pictures")
    assert page.locator("#history .easel-tile").count() < 300
    page.focus("#history .easel-tile[data-index='0']")
    page.keyboard.press("End")
    page.wait_for_selector(f"#history .easel-tile[data-index='{MANY - 1}'][data-id='{0:032x}']")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert int(page.evaluate("document.activeElement.dataset.index")) < MANY - 1
    assert page.locator("#history .easel-tile").count() < 300
    page.evaluate("document.querySelector('.easel-shelf').scrollTop /= 2")
    page.wait_for_function(
        """() => {
            const shelf = document.querySelector('.easel-shelf').getBoundingClientRect();
            const seen = [...document.querySelectorAll('#history .easel-tile')].filter((tile) => {
                const box = tile.getBoundingClientRect();
                return box.bottom > shelf.top && box.top < shelf.bottom;
            });
            return seen.length > 8 && seen.every((tile) => tile.dataset.id);
        }"""
    )
    before = page.locator("#history .easel-tile").count()
    page.locator("#history_size").fill("320")
    page.wait_for_function(f"document.querySelectorAll('#history .easel-tile').length < {before}")
    page.close()


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
    look(page)
    page.click("#history_restore_settings")
    page.wait_for_selector("#txt2img_generate:visible")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '77'")
    again = generate(page, program, "txt2img")
    assert (pixels(again) == pixels(first)).all()

    # Over to img2img: the result knows where it came from, and is drawn again with its source from the history.
    open_history(page)
    look(page)
    page.click("#history_viewer [data-to=img2img]")
    page.wait_for_selector("#img2img_image canvas.base")
    page.wait_for_function("document.querySelector('#img2img_seed input').value === '77'")
    fill(page, "img2img_seed", 5)
    over = generate(page, program, "img2img")
    page.click("[data-act=remove]")
    fill(page, "img2img_seed", 6)
    open_history(page)
    look(page)
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
    look(page)
    page.click("#history_came_from .easel-relative")
    page.wait_for_selector("#history_led_to .easel-kin >> nth=1")
    page.keyboard.press("Escape")
