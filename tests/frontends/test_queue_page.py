"""The Queue tab in real Chromium over the real queue: order by hand and by key, pause, cancel, run again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.frontends.conftest import Served, Watch, open_bare
from tests.frontends.test_access import bring_axe, colours
from tests.service.test_generation import ask, finish, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def page(queued: Served, context: Any, watch: Watch) -> Iterator[Any]:
    page = watch.on(context.new_page())
    open_bare(page, queued)
    page.evaluate("easel.tools.openTab('queue', 'queue_page')")
    page.wait_for_selector("#queue_page:visible")
    yield page
    page.close()
    queued.service.hold_queue(False)
    for view in queued.service.queue().jobs:
        queued.service.cancel(view.id)
    wait_for(lambda: not queued.service.queue().jobs)


def hold(page: Any, served: Served, *prompts: str) -> list[str]:
    """Jobs that wait, once the page shows them."""
    served.service.hold_queue(True)
    jobs = [served.service.submit(ask(prompt)) for prompt in prompts]
    page.wait_for_function(f"document.querySelectorAll('#queue_waiting .easel-job').length === {len(jobs)}", polling=50)
    return jobs


def shown(page: Any) -> list[str]:
    return page.locator("#queue_waiting .easel-job").evaluate_all("rows => rows.map((row) => row.dataset.id)")


def wait_shown(page: Any, jobs: list[str]) -> None:
    page.wait_for_function(
        """(jobs) => [...document.querySelectorAll('#queue_waiting .easel-job')]
            .map((row) => row.dataset.id).join() === jobs""",
        arg=",".join(jobs),
    )


def waiting(served: Served) -> list[str]:
    return [view.id for view in served.service.queue().jobs]


def test_an_empty_queue_explains_itself(page, queued):
    page.wait_for_selector(".easel-queue-empty:has-text('Nothing waits.')")
    assert page.inner_text(".easel-queue-line") == "The queue is empty"


def test_waiting_jobs_change_places_by_drag_by_key_and_by_button(page, queued):
    a, b, c = hold(page, queued, "first", "second", "third")
    assert shown(page) == [a, b, c]
    assert page.locator("#queue_waiting .easel-job-place").all_inner_texts() == ["1", "2", "3"]
    assert page.inner_text(".easel-queue-line") == "Paused: nothing further is begun · 3 jobs wait"

    handle = page.locator(f"[data-id='{c}'] .easel-job-handle").bounding_box()
    goal = page.locator(f"[data-id='{a}']").bounding_box()
    page.mouse.move(handle["x"] + 8, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(handle["x"] + 8, goal["y"] + 20, steps=6)
    page.mouse.move(handle["x"] + 8, goal["y"] + 4, steps=2)
    page.mouse.up()
    wait_for(lambda: waiting(queued) == [c, a, b])
    wait_shown(page, [c, a, b])

    page.focus(f"[data-id='{c}']")
    page.keyboard.press("Alt+ArrowDown")
    wait_for(lambda: waiting(queued) == [a, c, b])
    wait_shown(page, [a, c, b])
    assert page.evaluate("document.activeElement.dataset.id") == c  # the focus goes with it
    page.click(f"[data-id='{b}'] .up")
    wait_for(lambda: waiting(queued) == [a, b, c])
    wait_shown(page, [a, b, c])
    assert page.is_disabled(f"[data-id='{a}'] .up")

    # A drag that Escape ends changes nothing.
    page.mouse.move(handle["x"] + 8, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(handle["x"] + 8, goal["y"] + 4, steps=4)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert waiting(queued) == shown(page) == [a, b, c]

    page.click("#queue_hold[aria-pressed=true]")
    finish(queued.service, c)
    started = [queued.service.job(job).started for job in (a, b, c)]
    assert started == sorted(started)


COVERED = """(tab) => [...document.querySelectorAll(`#tab_${tab} :is(button, input, select, textarea)`)]
  .filter((one) => {
    if (!one.checkVisibility()) return false;  // in a closed fold
    if (innerWidth < 900) one.scrollIntoView({ block: 'center', behavior: 'instant' });
    const { left, top, width, height } = one.getBoundingClientRect(), [x, y] = [left + width / 2, top + height / 2];
    if (!width || x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) return false;
    return document.elementFromPoint(x, y)?.closest('#easel_toasts');
}).map((one) => one.id || one.innerText || one.title)"""


def test_messages_lie_over_nothing_that_is_clicked_and_escape_takes_them_away(page, queued):
    hold(page, queued, "one", "two")
    for width in (1440, 768, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("easel.tools.toast('A long sentence of what went wrong. '.repeat(4), 'error')")
        page.evaluate("easel.tools.toast('Another one.', 'error')")
        assert page.evaluate(COVERED, "queue") == []
        if width == 390:
            page.evaluate("easel.tools.openTab('txt2img', 'txt2img_gallery')")
            page.wait_for_selector("#txt2img_generate:visible")
            page.wait_for_function(f"({COVERED})('txt2img').length === 0")  # Generate, fixed at the bottom, among them
            page.evaluate("easel.tools.openTab('queue', 'queue_page')")
        page.focus("#queue_hold")
        page.keyboard.press("Escape")
        page.wait_for_function("document.querySelectorAll('.easel-toast').length === 1")
        page.keyboard.press("Escape")
        page.wait_for_function("document.querySelectorAll('.easel-toast').length === 0")
    # Over a window that lies over the page they can be reached, and they outlive it.
    page.evaluate("""() => {
        const over = document.createElement('dialog');
        over.id = 'over';
        over.onclose = () => over.remove();
        document.body.append(over);
        over.showModal();
        for (const words of ['Said meanwhile.', 'Said too.']) easel.tools.toast(words, 'error');
    }""")
    page.click("#over .easel-toast:has-text('too') button")
    page.evaluate("document.querySelector('#over').close()")
    page.click("body > #easel_toasts .easel-toast:has-text('meanwhile') button")


def test_jobs_are_passed_over_taken_out_and_brought_back(page, queued):
    a, b = hold(page, queued, "one", "two")
    page.focus(f"[data-id='{a}']")
    page.keyboard.press("p")
    page.wait_for_selector(f"[data-id='{a}'].paused")
    assert queued.service.job(a).state == "paused"
    assert "4 steps · DPM++ 2M · 1 picture" in page.inner_text(f"[data-id='{a}']")
    bring_axe(page)
    assert [colours(page, theme) for theme in ("dark", "light")] == [[], []]
    page.click(f"[data-id='{a}'] .pause")
    page.wait_for_selector(f"[data-id='{a}']:not(.paused)")
    page.focus(f"[data-id='{a}']")
    page.keyboard.press("Delete")
    wait_shown(page, [b])
    assert queued.service.job(a).state == "cancelled"
    page.click("#easel_toasts .act:has-text('Undo')")
    wait_for(lambda: len(waiting(queued)) == 2)
    back = queued.service.job(waiting(queued)[1])
    assert back.request == queued.service.job(a).request
    wait_shown(page, waiting(queued))
    page.click("#queue_cancel_all")
    assert page.inner_text("#queue_cancel_all") == "Really cancel 2 jobs?"
    assert len(waiting(queued)) == 2
    page.click("#queue_cancel_all")
    wait_for(lambda: waiting(queued) == [])
    page.wait_for_selector(".easel-queue-empty:visible")


def test_a_running_job_is_followed_and_interrupted_and_a_failed_one_says_why(page, queued):
    slow = queued.service.submit(ask("slow step=0.4", steps=150))  # longer than a busy machine takes to show it
    page.wait_for_selector("#queue_now .easel-job.running .easel-queue-picture img")
    page.wait_for_function(
        "/^Sampling · \\d+\\/150 · \\d+%/.test(document.querySelector('#queue_now .easel-job-left').innerText)"
    )
    open_bare(page, queued)
    page.evaluate("easel.tools.openTab('queue', 'queue_page')")
    page.click("#queue_now button:has-text('Interrupt')")
    page.wait_for_selector(f"#queue_over [data-id='{slow}'].cancelled")

    failed = queued.service.submit(ask("refuse", steps=2))
    page.wait_for_selector(f"#queue_over [data-id='{failed}'].failed:has-text('Steps must be lucky; use 7.')")
    once = finish(queued.service, queued.service.submit(ask("", steps=1))).id
    page.wait_for_selector(f"#queue_over [data-id='{once}']:has-text('· 1 step ·')")
    ended = len(queued.service.queue().ended)
    page.click(f"[data-id='{failed}'] .again")
    wait_for(lambda: len(queued.service.queue().ended) == ended + 1)
    again = queued.service.queue().ended[0]
    assert (again.request.prompt, again.id != failed) == ("refuse", True)


def test_several_generates_line_up_and_a_finished_one_opens_its_picture(page, queued):
    queued.service.hold_queue(True)
    page.click("#tab_txt2img-button")
    # The first form is slow on its way to the server.
    page.evaluate(
        """() => {
            const fetch = window.fetch;
            let first = true;
            window.fetch = async (...asked) => {
                const slow = first && String(asked[0]).includes("/run/");
                first &&= !slow;
                if (slow) await new Promise((done) => setTimeout(done, 700));
                return fetch(...asked);
            };
        }"""
    )
    for prompt in ("alpha", "beta"):
        page.fill("#txt2img_prompt textarea", prompt)
        page.click("#txt2img_generate")
    wait_for(lambda: [view.request.prompt for view in queued.service.queue().jobs] == ["alpha", "beta"])
    page.evaluate("easel.tools.openTab('queue', 'queue_page')")
    page.click("#queue_hold[aria-pressed=true]")
    page.wait_for_selector("#queue_over .easel-job:has-text('beta') .easel-job-picture img")
    page.click("#queue_over .easel-job:has-text('beta') .easel-job-picture")
    page.wait_for_selector("#history_viewer[open] .easel-info:has-text('beta')")
    over = queued.service.queue().ended[:2]
    assert [(view.request.prompt, view.state) for view in over] == [("beta", "done"), ("alpha", "done")]
    assert page.get_attribute("#history_viewer img", "src").endswith(over[0].images[0].id)
