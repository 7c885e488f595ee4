"""A front desk in memory that draws gradients: the same interface as the real one, no engine, a second per picture.

`python -m tests.frontends.stand_in` serves the page with it, for looking at.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modules.imaging import embedded
from modules.imaging.metadata import encode
from modules.schema.errors import NotFound
from modules.schema.events import (
    Cancelled,
    Done,
    Event,
    Failed,
    ImageReady,
    Preview,
    Progress,
    Queued,
    Started,
    Warned,
)
from modules.schema.folders import Folders
from modules.schema.memory import MemoryEstimate, MemoryHeld, MemoryNow
from modules.schema.record import FINAL_STATES, CheckpointView, JobView, QueueView, SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.schema.unused_options import UNUSED
from modules.service.cards import Cards
from modules.service.database import Database
from modules.service.extensions import ExtensionStore
from modules.service.freezing import NOTHING_FROZEN
from modules.service.history import History, enter
from modules.service.importing import Importer
from modules.service.model_files import ModelFiles
from modules.service.model_tasks import ModelTasks
from modules.service.presets import PresetStore
from modules.service.prompts import PromptDesk
from modules.service.styles import StyleStore
from modules.service.thumbnails import small
from modules.service.ui_config import UiConfig
from modules.weights.catalogue import Catalogue
from modules.weights.library import Library

CHECKPOINTS = (
    CheckpointView(
        name="postcards", title="postcards.safetensors [0123456789]", path="postcards.safetensors", size=60_000_000,
        family="sd1", resolution=(128, 128), cfg_scale=5.0, sha256="0123456789" + "0" * 54, towers=(768,),
    ),
    CheckpointView(
        name="dream", title="dream.safetensors", path="dream.safetensors", size=2_000_000_000, family="sdxl",
        resolution=(512, 512), towers=(768, 1280),
    ),
)  # fmt: skip


def gradient(width: int, height: int, seed: int, sharpness: float = 1.0) -> Image.Image:
    """A picture whose colours come from the seed; `sharpness` below 1 is coarse, as an early preview is."""
    low, high = [((seed * k) % 200, (seed * k * 7 + 60) % 256, (seed * k * 13 + 120) % 256) for k in (1, 3)]
    base = Image.linear_gradient("L").resize((width, height))
    channels = [base.point([int(a + (b - a) * v / 255) for v in range(256)]) for a, b in zip(low, high)]
    image = Image.merge("RGB", channels)
    if sharpness < 1:
        coarse = (max(2, int(width * sharpness / 4)), max(2, int(height * sharpness / 4)))
        return Image.effect_noise(coarse, 90).convert("RGB").resize((width // 4, height // 4))
    return image


class _Job:
    def __init__(self, id: str, request: GenerationRequest) -> None:
        self.id, self.request, self.owner = id, request, ""
        self.state, self.created = "queued", time.time()
        self.started: float | None = None
        self.finished: float | None = None
        self.events: list[tuple[int, Event]] = []
        self.count = 0
        self.cancelled = self.skipped = False
        self.step = self.steps = 0
        self.eta: float | None = None
        self.text = ""
        self.error: str | None = None
        self.warnings: list[str] = []
        self.images: list[SavedRecord] = []
        self.preview: tuple[int, str, bytes] | None = None


class StandIn:
    """One worker thread, jobs in order. `pace` is seconds per step. A prompt with "fail" fails, "warn" warns.

    `hold(step)` lets a job wait once it has done that many steps, until `release()`; cancel and skip still reach it.
    """

    def __init__(self, pace: float = 0.05, settings: Settings | None = None) -> None:
        self.pace = pace
        self.loaded = True
        self._folder = tempfile.TemporaryDirectory(prefix="easel-stand-in-")
        self.folders = folders = Folders.under(Path(self._folder.name))
        self.styles = StyleStore(folders.styles_files, folders.state / "styles")
        self.ui_config = UiConfig(folders.ui_config_file, folders.state / "settings")
        self.presets = PresetStore(folders.data / "presets.json", folders.state / "settings")
        self.prompts = PromptDesk(folders, Catalogue(folders, folders.database), self.styles, lambda: self.settings)
        self.model_files = ModelFiles(folders)
        self.library = Library(folders, folders.database, embedded.read_picture)
        self.cards = Cards(self.library, folders.state, lambda: self.settings)
        self.model_tasks = ModelTasks(folders, lambda: self.settings)
        self._database = Database(None)
        self.history = History(self._database, folders)
        self.importer = Importer(self._database, folders)
        self.extensions = ExtensionStore(folders.extensions, lambda: self.settings)
        self.renewed = 0
        self.warnings: list[str] = []
        self.freeze = NOTHING_FROZEN
        self._held = False
        self._news = 0
        self._settings = settings or Settings()
        self._jobs: dict[str, _Job] = {}
        self._inputs: dict[str, bytes] = {}
        self._pictures: dict[str, tuple[bytes, SavedRecord]] = {}
        self._ids = itertools.count(1)
        self._told = threading.Condition()
        self._closing = False
        self._hold: int | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def settings(self) -> Settings:
        return self._settings

    unused_options = UNUSED

    def change_settings(self, changes: dict[str, Any]) -> Settings:
        self.freeze.check(self._settings, changes)
        self._settings = self._settings.with_options({k: v for k, v in changes.items() if k not in UNUSED})
        return self._settings

    def checkpoints(self, refresh: bool = False) -> Sequence[CheckpointView]:
        return CHECKPOINTS

    def checkpoint(self, name: str | None = None) -> CheckpointView:
        return next((view for view in CHECKPOINTS if name in (None, view.name, view.title)), CHECKPOINTS[0])

    def estimate(self, request: GenerationRequest) -> MemoryEstimate:
        """A card of 8 GB; a batch of one 512x512 picture takes 3.1."""
        area = request.width * request.height * request.batch_size / 2**18
        denoising = int(0.6e9 * area)
        peak = 2_500_000_000 + denoising
        return MemoryEstimate(
            device="cuda:0", device_name="a card", checkpoint="m", total=8 * 10**9, peak=peak, fixed=500_000_000,
            weights=2 * 10**9, denoising=denoising, decoding=0, measured=request.steps != 20, placement="resident",
            tiled=area > 4, split=False, fits=peak < 7.6e9,
        )  # fmt: skip

    def memory(self) -> MemoryNow:
        gb = 10**9
        vram = MemoryHeld(total=8 * gb, free=5 * gb, used=2 * gb, weights=2 * gb * self.loaded, activations=gb // 10)
        ram = MemoryHeld(total=32 * gb, free=20 * gb, used=gb, cache=3_000_000)
        return MemoryNow(
            device="cuda", device_name="a card", checkpoint="m" if self.loaded else None, ram=ram, vram=vram
        )

    def stats(self) -> dict[str, Any]:
        return {"worker": {"kind": "stand-in"}, "running": None, "trouble": None, "jobs": {}, "pictures": 0}

    def unload(self) -> None:
        self.loaded = False

    def load(self) -> None:
        pass

    def renew(self) -> None:
        self.renewed += 1

    def keep_input(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self._inputs[name] = data
        return name

    def input(self, name: str) -> bytes | None:
        return self._inputs.get(name)

    def submit(
        self, request: GenerationRequest, owner: str = "", key: str | None = None, webhook: str | None = None
    ) -> str:
        with self._told:
            job = _Job(f"job{next(self._ids)}-{time.time_ns():x}", request)
            job.owner = owner
            self._jobs[job.id] = job
            self._tell(job, Queued())
            return job.id

    def follow(self, job: str, after: int = 0, timeout: float | None = None) -> Iterator[tuple[int, Event]]:
        found = self._find(job)
        while True:
            with self._told:
                fresh = [(n, e) for n, e in found.events if n > after]
                if not fresh:
                    if self._closing or found.state in FINAL_STATES or not self._told.wait(timeout):
                        return
                    continue
            for after, event in fresh:
                yield after, event

    def job(self, id: str) -> JobView:
        job = self._find(id)
        waiting = [j.id for j in self._jobs.values() if j.state == "queued"]
        return JobView(
            id=job.id, request=job.request, state=job.state,  # type: ignore[arg-type]
            position=waiting.index(id) + 1 if id in waiting else 0, created=job.created, started=job.started,
            finished=job.finished, progress=job.step / job.steps if job.steps else 0, step=job.step, steps=job.steps,
            owner=job.owner, eta=job.eta, text=job.text, error=job.error, warnings=tuple(job.warnings),
            images=tuple(job.images),
        )  # fmt: skip

    def jobs(self, limit: int = 100, owner: str | None = None) -> Sequence[JobView]:
        return [self.job(id) for id, job in reversed(self._jobs.items()) if owner in (None, job.owner)][:limit]

    def current(self, owner: str | None = None) -> JobView | None:
        waiting = [self.job(id) for id, job in self._jobs.items() if job.state in ("running", "queued")]
        return next((view for view in waiting if owner in (None, view.owner)), None)

    def again(self, id: str, owner: str = "", same: bool = False) -> str:
        return self.submit(self._find(id).request, owner)

    def queue(self, owner: str | None = None, ended: int = 30) -> QueueView:
        mine = [self.job(id) for id, job in self._jobs.items() if owner in (None, job.owner)]
        waiting = [view for view in mine if view.state not in FINAL_STATES]
        over = [view for view in mine if view.state in FINAL_STATES]
        return QueueView(jobs=tuple(waiting), ended=tuple(over[::-1][:ended]), held=self._held)

    def hold_queue(self, held: bool, owner: str | None = None) -> None:
        with self._told:
            self._held = held
            self._news += 1
            self._told.notify_all()

    def watch(self, seen: tuple[int, int], timeout: float) -> tuple[int, int]:
        with self._told:
            self._told.wait_for(lambda: self._news != seen[0] or self._closing, timeout)
            return self._news, self._news

    def pause(self, id: str) -> None:
        self._find(id)

    def resume(self, id: str) -> None:
        self._find(id)

    def move(self, id: str, before: str | None = None) -> None:
        self._find(id)

    def cancel(self, id: str) -> None:
        job = self._find(id)
        with self._told:
            job.cancelled = True
            self._told.notify_all()
            if job.state == "queued":
                job.state = "cancelled"
                self._tell(job, Cancelled())

    def skip(self, id: str) -> None:
        job = self._find(id)
        with self._told:
            job.skipped = True
            self._told.notify_all()

    def preview(self, id: str) -> tuple[int, str, bytes] | None:
        return self._find(id).preview

    def picture(self, record_id: str) -> tuple[bytes | Path, SavedRecord]:
        if record_id not in self._pictures:
            raise NotFound(f"There is no picture {record_id!r}.")
        return self._pictures[record_id]

    def thumbnail(self, record_id: str) -> bytes:
        found, _ = self.picture(record_id)
        return small(found)

    def hold(self, step: int) -> None:
        self._hold = step

    def release(self) -> None:
        with self._told:
            self._hold = None
            self._told.notify_all()

    def close(self) -> None:
        with self._told:
            self._closing = True
            self._told.notify_all()
        self._thread.join(5)
        self._folder.cleanup()

    def _find(self, id: str) -> _Job:
        if id not in self._jobs:
            raise NotFound(f"There is no job {id!r}.")
        return self._jobs[id]

    def _tell(self, job: _Job, event: Event) -> None:
        with self._told:
            if isinstance(event, Preview):
                job.events = [(n, e) for n, e in job.events if not isinstance(e, Preview)]
            job.count += 1
            job.events.append((job.count, event))
            self._news += 1
            self._told.notify_all()

    def _work(self) -> None:
        while True:
            with self._told:
                waiting = next((j for j in self._jobs.values() if j.state == "queued"), None)
                if self._closing:
                    return
                if waiting is None or self._held:
                    self._told.wait(1)
                    continue
                waiting.state, waiting.started = "running", time.time()
                self._tell(waiting, Started())
            self._draw(waiting)

    def _draw(self, job: _Job) -> None:
        request = job.request
        seed = request.seed if request.seed >= 0 else time.time_ns() % 2**32
        pictures = request.n_iter * request.batch_size
        job.steps = request.steps * request.n_iter
        if "warn" in request.prompt:
            job.warnings.append("The prompt is longer than the model reads; its end is left out.")
            self._tell(job, Warned(message=job.warnings[0]))
        began = time.monotonic()
        for k in range(pictures):
            job.skipped = False
            if k % request.batch_size == 0:
                for step in range(request.steps):
                    self._wait_while_held(job)
                    if job.cancelled or self._closing:
                        return self._end(job, "cancelled", Cancelled())
                    if job.skipped:
                        break
                    time.sleep(self.pace)
                    if "fail" in request.prompt and step == 2:
                        job.error = "The device ran out of memory at this size; draw smaller or fewer at once."
                        return self._end(job, "failed", Failed(code="out_of_memory", message=job.error))
                    job.step += 1
                    job.eta = (time.monotonic() - began) / job.step * (job.steps - job.step)
                    job.text = "Sampling"
                    self._tell(job, Progress(step=job.step, steps=job.steps, eta=job.eta, text=job.text))
                    out = io.BytesIO()
                    sharp = (step + 1) / request.steps * 0.5
                    gradient(request.width, request.height, seed + k, sharp).save(out, "JPEG")
                    job.preview = (job.step, "jpeg", out.getvalue())
                    self._tell(job, Preview(step=job.step, format="jpeg", data=out.getvalue()))
            self._finish(job, k, seed + k)
        return self._end(job, "done", Done(seconds=time.monotonic() - began))

    def _wait_while_held(self, job: _Job) -> None:
        with self._told:
            while self._hold is not None and job.step >= self._hold:
                if job.cancelled or job.skipped or self._closing:
                    return
                self._told.wait(0.5)

    def _finish(self, job: _Job, k: int, seed: int) -> None:
        request = job.request
        text = request.prompt
        if request.negative_prompt:
            text += f"\nNegative prompt: {request.negative_prompt}"
        text += (
            f"\nSteps: {request.steps}, Sampler: {request.sampler}, Schedule type: Karras, CFG scale: "
            f"{request.cfg_scale:g}, Seed: {seed}, Size: {request.width}x{request.height}, Model: postcards, "
            "Version: Easel 0.1.0"
        )
        data = encode(gradient(request.width, request.height, seed), text)
        record = SavedRecord(
            id=f"{job.id}.{k}", job=job.id, index=k, path=f"outputs/txt2img-images/2026-11-20/{k:05}-{seed}.png",
            width=request.width, height=request.height, seed=seed, infotext=text, created=time.time(),
        )  # fmt: skip
        self._pictures[record.id] = (data, record)
        path = self.folders.data / str(record.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with self._database.write() as db:
            enter(db, record)
        told = [record]
        if self.settings.saving.return_mask:
            told.append(record.model_copy(update={"id": f"{record.id}.mask", "index": 1_000_000 + k, "role": "mask"}))
            self._pictures[told[-1].id] = (data, told[-1])
        with self._told:
            for each in told:
                job.images.append(each)
                self._tell(job, ImageReady(record=each))

    def _end(self, job: _Job, state: str, event: Event) -> None:
        with self._told:
            job.state, job.finished = state, time.time()
            self._tell(job, event)


if __name__ == "__main__":
    from modules.frontends import serve

    serve.run(StandIn(pace=0.25))
