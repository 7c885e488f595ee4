"""An engine without a model, behind the real one's interface: pictures of one colour, real files, faults on demand.

The prompt says what happens, word by word: `step=0.05` (seconds), `boom` (TypeError), `refuse` (BadRequest), `memory`
(MemoryError), `exit` (SystemExit), `die` (SIGKILL to itself), `unsaved` (pictures kept in memory), `deaf` (hears
nothing), `hang` (does nothing any more).
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

from PIL import Image

from modules.imaging.naming import NameFields
from modules.imaging.save import encode_png, kept_as, save_named
from modules.schema.errors import BadRequest, Cancelled
from modules.schema.events import Event, ImageReady, Preview, Progress
from modules.schema.folders import Folders
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.settings import SECTION_OF, Settings


class Engine:
    def __init__(self, folders: Folders) -> None:
        self.folders = folders

    def stats(self) -> dict[str, Any]:
        return {"device": "fake"}

    def run(
        self,
        job: str,
        request: GenerationRequest,
        settings: Settings,
        emit: Callable[[Event], None],
        control: Any,
    ) -> None:
        settings = settings.with_options({k: v for k, v in request.override_settings.items() if k in SECTION_OF})
        words = request.prompt.split()
        pause = float(next((w[5:] for w in words if w.startswith("step=")), 0))
        count = request.n_iter * request.batch_size
        for k in range(count):
            if k in control.finished:
                continue
            image = Image.new("RGB", (request.width, request.height), ((request.seed + k) % 256, 0, 0))
            skipped = False
            for step in range(1, request.steps + 1):
                time.sleep(pause)
                if "deaf" not in words:
                    if control.cancelled:
                        raise Cancelled("The job was interrupted.")
                    skipped = control.take_skip()
                    if skipped:
                        break
                emit(Progress(step=k * request.steps + step, steps=count * request.steps, eta=0.0, text="Sampling"))
                emit(Preview(step=step, format="png", data=encode_png(image, None)))
                self._fault(words, step)
            if not skipped:
                emit(self._save(job, request, settings, image, k, "unsaved" in words))

    def _fault(self, words: list[str], step: int) -> None:
        if step < 2:
            return
        if "hang" in words:
            time.sleep(3600)
        if "boom" in words:
            raise TypeError("no such thing")
        if "refuse" in words:
            raise BadRequest("Steps must be lucky; use 7.", field="steps")
        if "memory" in words:
            raise MemoryError
        if "exit" in words:
            raise SystemExit(3)
        if "die" in words:
            os.kill(os.getpid(), signal.SIGKILL)

    def _save(
        self, job: str, request: GenerationRequest, settings: Settings, image: Image.Image, k: int, unsaved: bool
    ) -> ImageReady:
        seed, source = request.seed + k, request.source
        infotext = (
            f"{request.prompt}\nSteps: {request.steps}, Sampler: {request.sampler}, CFG scale: {request.cfg_scale:g},"
            f" Seed: {seed}, Size: {request.width}x{request.height}, Model: fake"
        )
        parents = (source.images[k % len(source.images)],) if source and source.images else ()
        parents += (source.mask.image,) if source and source.mask else ()
        path, data = None, None
        if unsaved or not settings.saving.samples_save:
            data = encode_png(image, infotext)
        else:
            saved = save_named(image, infotext, NameFields(seed=seed), settings.saving, self.folders.data)
            path = kept_as(saved, self.folders.data)
        record = SavedRecord(
            id=uuid.uuid4().hex, job=job, index=k, path=path, width=image.width, height=image.height, seed=seed,
            infotext=infotext, created=time.time(), problem="no disk" if unsaved else None, parents=parents,
        )  # fmt: skip
        return ImageReady(record=record, data=data)


class Broken:
    """An engine that cannot be built."""

    def __init__(self, folders: Folders) -> None:
        raise ImportError("no module named flux")
