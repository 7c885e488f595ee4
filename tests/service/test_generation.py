"""Submit, follow, come back, cancel: with the engine in a thread and in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from modules.imaging.metadata import read_infotext
from modules.schema import events as ev
from modules.schema.errors import BadRequest, InUse, NotFound
from modules.schema.folders import Folders
from modules.schema.record import JobView
from modules.schema.request import GenerationRequest, Mask, Source
from modules.service.generation import GenerationService
from modules.service.worker import ProcessWorker, ThreadWorker
from tests.service.fake_engine import Engine

Open = Callable[..., GenerationService]


def ask(prompt: str = "a red house", **more: object) -> GenerationRequest:
    return GenerationRequest(**{"prompt": prompt, "steps": 4, "width": 64, "height": 64, "seed": 7, **more})


def finish(service: GenerationService, job: str) -> JobView:
    for _ in service.follow(job, timeout=20):
        pass
    return service.job(job)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def test_a_request_becomes_a_file_with_its_infotext(service: GenerationService, folders: Folders) -> None:
    view = finish(service, service.submit(ask(n_iter=2)))
    assert (view.state, view.progress, view.error, view.position) == ("done", 1.0, None, 0)
    assert [image.index for image in view.images] == [0, 1]
    for image in view.images:
        path, record = service.picture(image.id)
        assert isinstance(path, Path)
        assert path == folders.data / str(image.path)
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
            assert picture.getpixel((0, 0)) == (image.seed % 256, 0, 0)
            assert read_infotext(picture) == record.infotext
    assert [record.id for record in service.gallery.newest()] == [image.id for image in reversed(view.images)]


def test_events_come_in_order_and_a_follower_resumes_where_it_left(service: GenerationService) -> None:
    job = service.submit(ask())
    everything = [(p, e) for p, e in service.follow(job, timeout=20) if not isinstance(e, ev.Preview)]
    positions = [p for p, _ in everything]
    assert positions == sorted(set(positions))
    kinds = [e.kind for _, e in everything]
    assert kinds[0] == "queued"
    assert kinds[1] == "started"
    assert kinds[-2:] == ["image", "done"]
    for cut, (position, _) in enumerate(everything):
        left = [(p, e) for p, e in service.follow(job, after=position, timeout=20)]
        # Steps are forgotten once a job has ended, but for the last; all else is there.
        assert [e for _, e in left if e.kind != "progress"] == [
            e for _, e in everything[cut + 1 :] if e.kind != "progress"
        ]


def test_two_followers_see_the_same(service: GenerationService) -> None:
    job = service.submit(ask("step=0.01", steps=10))
    seen: list[list[tuple[int, ev.Event]]] = [[], []]

    def follow(into: list[tuple[int, ev.Event]]) -> None:
        into += [(p, e) for p, e in service.follow(job, timeout=20) if not isinstance(e, ev.Preview)]

    threads = [threading.Thread(target=follow, args=(into,)) for into in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] == seen[1]
    assert [e.step for _, e in seen[0] if isinstance(e, ev.Progress) and e.step] == list(range(1, 11))


def test_the_newest_preview_is_there_while_it_draws_and_gone_after(service: GenerationService) -> None:
    job = service.submit(ask("step=0.02", steps=20))
    numbers = []
    for _, event in service.follow(job, timeout=20):
        if isinstance(event, ev.Preview):
            assert event.data.startswith(b"\x89PNG")
            newest = service.preview(job)
            if newest:
                numbers.append(newest[0])
                assert newest[1] == "png"
    assert len(numbers) > 3
    assert numbers == sorted(numbers)
    wait_for(lambda: service.preview(job) is None)


def test_jobs_run_in_the_order_they_came_and_tell_their_place(service: GenerationService) -> None:
    first = service.submit(ask("step=0.05", steps=10))
    wait_for(lambda: service.job(first).state == "running")
    others = [service.submit(ask(seed=k)) for k in range(3)]
    assert [service.job(job).position for job in [first, *others]] == [0, 2, 3, 4]
    assert [view.id for view in service.jobs(10)] == [*reversed(others), first]
    views = [finish(service, job) for job in [first, *others]]
    started = [view.started or 0 for view in views]
    assert started == sorted(started)


def test_cancel_ends_the_running_job_and_at_once_a_waiting_one(service: GenerationService) -> None:
    running = service.submit(ask("step=0.05", steps=150))
    waiting = service.submit(ask())
    wait_for(lambda: service.job(running).step > 0)
    service.cancel(waiting)
    assert service.job(waiting).state == "cancelled"
    service.cancel(running)
    began = time.monotonic()
    assert finish(service, running).state == "cancelled"
    assert time.monotonic() - began < 7  # of the 7.5 that its steps would take
    assert [e.kind for _, e in service.follow(waiting)] == ["queued", "cancelled"]
    service.cancel(waiting)  # a finished one: nothing happens
    assert finish(service, service.submit(ask())).state == "done"


def test_cancel_is_heard_however_early_it_comes(service: GenerationService) -> None:
    for _ in range(10):
        job = service.submit(ask("step=0.05", steps=150))
        service.cancel(job)
        assert finish(service, job).state == "cancelled"


def test_skip_goes_on_with_the_next_picture(service: GenerationService) -> None:
    job = service.submit(ask("step=0.02", steps=20, n_iter=3))
    wait_for(lambda: service.job(job).step > 22)
    service.skip(job)
    view = finish(service, job)
    assert view.state == "done"
    assert [image.index for image in view.images] == [0, 2]


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ("refuse", "bad_request", "Steps must be lucky; use 7."),
        ("boom", "error", "The drawing failed unexpectedly (TypeError: no such thing); the log has the details."),
        ("memory", "out_of_memory", "ran out of memory"),
    ],
)
def test_a_failing_job_says_why_and_the_next_one_runs(
    service: GenerationService, prompt: str, code: str, words: str
) -> None:
    view = finish(service, service.submit(ask(prompt)))
    assert (view.state, view.error_code) == ("failed", code)
    assert words in str(view.error)
    assert "Traceback" not in str(view.error)
    assert finish(service, service.submit(ask())).state == "done"


def test_a_picture_that_could_not_be_saved_is_still_there(service: GenerationService) -> None:
    view = finish(service, service.submit(ask("unsaved")))
    data, record = service.picture(view.images[0].id)
    assert isinstance(data, bytes)
    assert data.startswith(b"\x89PNG")
    assert record.problem == "no disk"


def test_unknown_ids_are_not_found(service: GenerationService) -> None:
    for call in (service.job, service.follow, service.cancel, service.skip, service.picture):
        with pytest.raises(NotFound):
            call("nothing")
    assert service.preview("nothing") is None


def test_the_same_key_gives_the_same_job(service: GenerationService) -> None:
    job = service.submit(ask(), owner="ann", key="1")
    assert service.submit(ask("other"), owner="ann", key="1") == job
    assert service.submit(ask(), owner="bob", key="1") != job
    assert service.submit(ask(), owner="ann", key="2") != job
    assert service.submit(ask(), owner="ann") != service.submit(ask(), owner="ann")


def test_a_request_cannot_choose_where_files_go(service: GenerationService) -> None:
    with pytest.raises(BadRequest, match="outdir_txt2img_samples"):
        service.submit(ask(override_settings={"outdir_txt2img_samples": "/etc"}))
    with pytest.raises(BadRequest, match="plain text"):
        service.submit(ask("\ud800"))


def test_a_job_keeps_the_settings_it_was_submitted_with(service: GenerationService, folders: Folders) -> None:
    first = service.submit(ask("step=0.05", steps=10))
    second = service.submit(ask())
    service.change_settings({"save_to_dirs": False})
    third = service.submit(ask())
    places = [str(finish(service, job).images[0].path) for job in (first, second, third)]
    assert [place.count("/") for place in places] == [3, 3, 2]


def test_following_ends_after_the_timeout_though_others_are_busy(service: GenerationService) -> None:
    service.submit(ask("step=0.02", steps=150))
    waiting = service.submit(ask())
    began = time.monotonic()
    assert [e.kind for _, e in service.follow(waiting, timeout=0.3)] == ["queued"]
    assert 0.2 < time.monotonic() - began < 2.9  # the other is busy for 3


# ---- the process alone ----


SERVER = """
import sys
from functools import partial
from pathlib import Path
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.service.generation import GenerationService
from modules.service.worker import ProcessWorker

if __name__ == "__main__":
    service = GenerationService(Folders.under(Path(sys.argv[1])), partial(ProcessWorker, engine=sys.argv[2]))
    job = service.submit(GenerationRequest(prompt="a red house", steps=4, width=64, height=64))
    for _ in service.follow(job, timeout=60):
        pass
    print(service.job(job).state, [name for name in ("torch", "modules.pipeline.run") if name in sys.modules])
    service.close()
"""


def test_the_server_process_stays_free_of_torch(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data"), "tests.service.fake_engine:Engine"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "done []", done.stderr[-2000:]


def test_the_worker_tells_what_it_is(open_service: Open) -> None:
    service = open_service("process")
    assert finish(service, service.submit(ask())).state == "done"
    stats = service.stats()["worker"]
    assert stats["ready"]
    assert stats["device"] == "fake"
    assert stats["pid"] != os.getpid()


@pytest.mark.parametrize("prompt", ["die", "exit"])
def test_a_dying_worker_costs_its_job_only(open_service: Open, prompt: str) -> None:
    service = open_service("process")
    doomed = service.submit(ask(prompt))
    after = [service.submit(ask(seed=k)) for k in range(2)]
    view = finish(service, doomed)
    assert view.state == "failed"
    if prompt == "die":
        assert view.error_code == "worker_lost"
        assert "SIGKILL" in str(view.error)
        assert "memory" in str(view.error)
    assert [finish(service, job).state for job in after] == ["done", "done"]


def test_a_killed_worker_is_replaced_each_time(open_service: Open) -> None:
    service = open_service("process")
    for _ in range(3):
        job = service.submit(ask("step=0.02", steps=150))
        wait_for(lambda job=job: service.job(job).step > 0)
        os.kill(service.stats()["worker"]["pid"], signal.SIGKILL)
        view = finish(service, job)
        assert (view.state, view.error_code) == ("failed", "worker_lost")
    assert finish(service, service.submit(ask())).state == "done"
    assert service.stats()["worker"]["restarts"] == 3


def test_a_worker_killed_between_jobs_costs_nothing(open_service: Open) -> None:
    service = open_service("process")
    assert finish(service, service.submit(ask())).state == "done"
    os.kill(service.stats()["worker"]["pid"], signal.SIGKILL)
    assert finish(service, service.submit(ask())).state == "done"


def test_a_worker_that_does_not_listen_is_ended_by_force(open_service: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.service.generation.FORCE_SECONDS", 0.1)
    service = open_service("process")
    job = service.submit(ask("deaf step=0.1", steps=150))
    wait_for(lambda: service.job(job).step > 0)
    service.cancel(job)
    time.sleep(0.2)
    service.cancel(job)
    assert finish(service, job).state == "cancelled"
    assert finish(service, service.submit(ask())).state == "done"


def test_a_worker_that_hangs_is_told_of_and_ended_at_once(open_service: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    service = open_service("process")
    assert finish(service, service.submit(ask())).state == "done"
    job = service.submit(ask("hang", steps=5))
    wait_for(lambda: service.job(job).step == 2)
    assert "Nothing was heard" not in service.job(job).text
    monkeypatch.setattr("modules.service.generation.QUIET_SECONDS", 0.0)
    assert "Nothing was heard from the drawing process" in service.job(job).text
    service.cancel(job)
    assert finish(service, job).state == "cancelled"
    monkeypatch.undo()
    assert finish(service, service.submit(ask())).state == "done"


def test_an_engine_that_cannot_be_built_fails_jobs_with_a_sentence(folders: Folders) -> None:
    def broken(of: Folders) -> ProcessWorker:
        return ProcessWorker(of, engine="tests.service.fake_engine:Broken")

    service = GenerationService(folders, broken)
    try:
        for _ in range(2):
            view = finish(service, service.submit(ask()))
            assert view.state == "failed"
            assert "Starting the engine failed unexpectedly (ImportError: no module named flux)" in str(view.error)
        log = (folders.state / "log" / "worker.log").read_text("utf-8")
        assert "Traceback" in log
    finally:
        service.close()


# ---- closing and coming back ----


def test_a_closed_service_goes_on_with_its_jobs_when_it_is_opened_again(open_service: Open) -> None:
    service = open_service("process")
    jobs = [service.submit(ask("step=0.05", steps=30)), *[service.submit(ask(seed=k)) for k in range(3)]]
    wait_for(lambda: service.job(jobs[0]).step > 0)
    service.close()
    again = open_service("thread")
    views = [finish(again, job) for job in jobs]
    assert [view.state for view in views] == ["done"] * 4
    assert [view.started for view in views] == sorted(view.started or 0 for view in views)
    assert views[0].attempts == 1  # an orderly close is nobody's fault
    assert "closed" in views[0].warnings[0]


def test_a_second_program_on_the_same_data_is_refused(open_service: Open, folders: Folders) -> None:
    service = open_service()
    with pytest.raises(InUse, match="already runs"):
        open_service()
    service.close()
    open_service()


def test_followers_end_when_the_service_closes(open_service: Open) -> None:
    service = open_service()
    job = service.submit(ask("step=0.05", steps=150))
    ended = threading.Event()

    def follow() -> None:
        for _ in service.follow(job):
            pass
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    wait_for(lambda: service.job(job).step > 0)
    service.close()
    assert ended.wait(5)


def test_the_command_lines_options_win_and_are_not_written(tmp_path: Path) -> None:
    with contextlib.closing(
        GenerationService(
            Folders.under(tmp_path),
            lambda folders: ThreadWorker(lambda: Engine(folders)),
            from_flags={"precision": "float32"},
        )
    ) as service:
        service.change_settings({"precision": "bfloat16", "CLIP_stop_at_last_layers": 2})
        assert service.settings.model.precision == "float32"
        assert service.settings.model.CLIP_stop_at_last_layers == 2
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bfloat16"


def test_source_pictures_no_job_waits_for_are_removed_after_a_day(open_service: Open, folders: Folders) -> None:
    service = open_service("thread")
    wanted, mask, stale, fresh = (letter * 64 for letter in "abcd")
    service.submit(ask(steps=100))
    job = service.submit(ask(source=Source(images=(wanted,), mask=Mask(image=mask))))
    service.pause(job)
    service.close()
    folders.inputs.mkdir(parents=True, exist_ok=True)
    for name in (wanted, mask, stale, fresh):
        (folders.inputs / name).write_bytes(b"picture")
    for name in (wanted, mask, stale):
        os.utime(folders.inputs / name, (1e9, 1e9))
    open_service("thread")
    wait_for(lambda: not (folders.inputs / stale).exists())
    assert {path.name for path in folders.inputs.iterdir()} == {wanted, mask, fresh}
