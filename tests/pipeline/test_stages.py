"""Faults at every stage of a drawing: the job says which, the next picture is as ever, and no memory is held.

Where the process itself ends or hangs, see the last test; all stages of it with TEST_FULL=1.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.imaging import inputs, save
from modules.pipeline import decode, latents, text
from modules.pipeline.denoiser import Denoiser
from modules.pipeline.run import Engine
from modules.schema.folders import Folders
from modules.schema.record import JobView
from modules.schema.request import GenerationRequest, Source
from modules.service.generation import GenerationService
from modules.service.worker import ProcessWorker, ThreadWorker
from modules.weights.residency import Residency
from tests.pipeline.test_img2img import picture
from tests.weights.tiny import write_tiny_sd15

FULL = bool(os.environ.get("TEST_FULL"))
# Where a stage is done: what of its result is a number, and the word by which the message names it.
STAGES: dict[str, tuple[Any, str, str]] = {
    "opening": (Residency, "_switch", ""),
    "reading the prompt": (text, "encode", "text encoder"),
    "encoding the source": (latents, "moments", "source picture"),
    "a step": (Denoiser, "_predict", "denoiser"),
    "decoding": (decode, "decode_tiled", "autoencoder"),
    "saving": (save, "encode", ""),
}  # fmt: skip


@contextmanager
def broken(stage: str, fault: Callable[[Any], Any], times: int = 10**6) -> Iterator[list[int]]:
    """The stage's function raises what `fault` raises; `not_numbers` spoils its result."""
    place, name, _ = STAGES[stage]
    whole, calls = getattr(place, name), [0]

    def faulty(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] <= times and fault is not not_numbers:
            fault(None)
        result = whole(*args, **more)
        return not_numbers(result) if calls[0] <= times else result

    setattr(place, name, faulty)
    try:
        yield calls
    finally:
        setattr(place, name, whole)


def memory(_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def unforeseen(_: Any) -> Any:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (77x768 and 1024x320)")


def not_numbers(result: Any) -> Any:
    """The result with NaN in it, whatever it is made of."""
    if isinstance(result, torch.Tensor):
        return torch.full_like(result, float("nan"))
    if isinstance(result, list | tuple):
        return type(result)(not_numbers(each) for each in result)
    if isinstance(result, text.Encoding):
        return replace(result, tokens=not_numbers(result.tokens))
    raise TypeError(type(result))


class Atelier:
    """A service over a real engine and a small random model."""

    def __init__(self, data: Path, seed: int, factory: Callable[[Folders], Any]) -> None:
        self.folders = Folders.under(data)
        write_tiny_sd15(self.folders.checkpoint_dirs[0] / "tiny.safetensors", seed)
        self.service = GenerationService(self.folders, factory)
        self.service.change_settings({"memory_saving": "VAE in tiles"})  # so that decoding has one place
        self.source = inputs.keep(self.folders.inputs, save.encode_png(picture(seed), None))

    def draw(self, prompt: str = "a house") -> JobView:
        source = Source(images=(self.source,), denoising_strength=0.6)
        asked = GenerationRequest(prompt=prompt, steps=3, width=64, height=64, seed=5, sampler="Euler", source=source)
        job = self.service.submit(asked)
        for _ in self.service.follow(job):
            pass
        return self.service.job(job)

    def pixels(self, view: JobView) -> bytes:
        assert view.state == "done", view.error
        path, _ = self.service.picture(view.images[0].id)
        assert isinstance(path, Path)
        return path.read_bytes()


@pytest.fixture(scope="module")
def atelier(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Atelier]:
    made = Atelier(tmp_path_factory.mktemp("stages"), test_seed, lambda folders: ThreadWorker(lambda: Engine(folders)))
    yield made
    made.service.close()


def held() -> int:
    """Bytes of all tensors that are alive; those that other tests only pretend to have hold none."""
    gc.collect()
    real = (torch.Tensor, torch.nn.Parameter)
    tensors = [each for each in gc.get_objects() if type(each) in real]
    storages = [each.untyped_storage() for each in tensors if each.layout is torch.strided]
    packed = sum(each.nbytes for each in tensors if each.layout is not torch.strided)
    return packed + sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def fresh(atelier: Atelier, stage: str) -> None:
    """So that the stage is gone through: the model is opened, and the prompt read, anew."""
    if stage in ("opening", "reading the prompt"):
        worker: Any = atelier.service._worker
        worker._engine.unload()


FAULTS = {"memory": memory, "unforeseen": unforeseen, "not numbers": not_numbers}
CELLS = [(stage, name) for stage in STAGES for name in FAULTS if STAGES[stage][2] or name != "not numbers"]


@pytest.mark.parametrize(("stage", "name"), CELLS)
def test_a_fault_at_a_stage_is_told_and_costs_that_job_only(atelier: Atelier, stage: str, name: str) -> None:
    fault = FAULTS[name]
    before = atelier.pixels(atelier.draw())
    base = held()
    fresh(atelier, stage)
    with broken(stage, fault) as calls:
        view = atelier.draw()
    assert calls[0] >= 1
    assert view.state == "failed"
    told = str(view.error)
    assert "Traceback" not in told
    assert "\n" not in told
    if fault is memory:
        assert (view.error_code, "memory" in told) == ("out_of_memory", True)
    if fault is not_numbers:
        assert view.error_code == "not_a_number"
        assert STAGES[stage][2] in told
    assert atelier.pixels(atelier.draw()) == before
    assert abs(held() - base) <= 0.01 * base + 65536


@pytest.mark.parametrize("stage", STAGES)
def test_memory_that_runs_out_once_costs_nothing_but_time(atelier: Atelier, stage: str) -> None:
    before = atelier.pixels(atelier.draw())
    fresh(atelier, stage)
    with broken(stage, memory, times=1) as calls:
        view = atelier.draw()
    assert calls[0] > 1
    assert (view.state, len(view.images)) == ("done", 1)
    assert atelier.pixels(atelier.draw()) == before


class Faulty(Engine):
    """Ends or hangs at the stage that the prompt names: "kill@a step"."""

    def run(self, job: str, request: GenerationRequest, *rest: Any) -> None:
        how, _, stage = request.prompt.partition("@")
        if stage not in STAGES:
            return super().run(job, request, *rest)

        def fault(_: Any) -> Any:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)

        with broken(stage, fault):
            return super().run(job, request, *rest)


ENDS = [(how, stage) for how in ("kill", "hang") for stage in STAGES]


def test_a_process_that_ends_or_hangs_at_a_stage_is_replaced(
    tmp_path: Path, test_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = partial(ProcessWorker, engine="tests.pipeline.test_stages:Faulty")
    made = Atelier(tmp_path, test_seed, factory)
    before = made.pixels(made.draw())
    for how, stage in ENDS if FULL else [("kill", "a step")]:
        if stage == "opening":
            made.service.unload()
        if how == "kill":
            view = made.draw(f"kill@{stage}")
            assert (view.state, view.error_code) == ("failed", "worker_lost")
            assert "SIGKILL" in str(view.error)
        else:
            source = Source(images=(made.source,))
            asked = GenerationRequest(prompt=f"hang@{stage}", steps=3, width=64, height=64, seed=5, source=source)
            job = made.service.submit(asked)
            while made.service.job(job).state == "queued":
                pass
            monkeypatch.setattr("modules.service.generation.QUIET_SECONDS", 0.5)
            while made.service.job(job).state == "running":
                if "Nothing was heard" in made.service.job(job).text:
                    made.service.cancel(job)
            monkeypatch.undo()
            assert made.service.job(job).state == "cancelled"
        assert made.pixels(made.draw()) == before
    made.service.close()
