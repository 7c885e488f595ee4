"""Steps to progress events and previews."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modules.imaging.grid import sheet
from modules.pipeline import preview
from modules.pipeline.context import RunContext
from modules.pipeline.preview import Film
from modules.schema.events import Preview, Progress
from modules.schema.plan import Plan
from modules.weights.residency import LoadedModel


@dataclass
class Meter:
    """Counts denoising steps over the whole job. `eta` is judged from the steps done since the first began.

    `per_batch`: steps that each batch takes, all passes together; `offset`: those of its earlier passes. `batches`: how
    many there are, where not as many as the plan says. `size`: of this pass's pictures, where not as the plan says.
    """

    ctx: RunContext
    plan: Plan
    per_batch: int
    batches: int | None = None
    batch: int = 0
    offset: int = 0
    steps_done: int = 0
    text: str = ""
    size: tuple[int, int] | None = None
    film: Film | None = None
    began: float | None = None
    previewed: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        return self._batches * self.per_batch

    @property
    def _batches(self) -> int:
        return len(self.plan.batches()) if self.batches is None else self.batches

    @property
    def _size(self) -> tuple[int, int]:
        return self.size or (self.plan.request.width, self.plan.request.height)

    def say(self, text: str) -> None:
        """Name the stage; also a point where an interrupt takes effect."""
        self.ctx.check()
        self.text = text
        self._emit()

    def start_batch(self, number: int) -> None:
        self.batch, self.offset = number, 0
        self.steps_done = number * self.per_batch
        wanted = self.plan.request.filmstrip
        self.film = Film(min(wanted, self.per_batch), self.per_batch) if wanted else None
        self.say("Drawing" if self._batches == 1 else f"Drawing {number + 1} of {self._batches}")
        if self.began is None:
            self.began = time.monotonic()

    def start_pass(self, text: str, offset: int) -> None:
        """A further pass over the same pictures begins, after `offset` steps of this batch."""
        self.offset = offset
        self.say(text)

    def step(self, index: int, model: LoadedModel, denoised: Tensor, shown: Tensor | None = None) -> None:
        """Step `index` (from 0) of this pass is done; `denoised` [B, C, h, w] is the present guess at the result.
        `shown` [B, C, h, w] is what a preview shows instead."""
        self.ctx.check()
        self.steps_done = self.batch * self.per_batch + min(self.offset + index + 1, self.per_batch)
        self._emit()
        if self.film is not None and self.film.sees(self.offset + index):
            with torch.inference_mode():
                self.film.take(self.offset + index, model, denoised, self._size)
        settings = self.plan.settings.preview
        now = time.monotonic()
        every = settings.show_progress_every_n_steps
        if (
            not settings.live_previews_enable
            or every < 1
            or (index + 1) % every
            or now - self.previewed < settings.live_preview_refresh_period / 1000
        ):
            return
        self.previewed = now
        with torch.inference_mode():
            latents = denoised if shown is None else shown
            seen = latents if settings.show_progress_grid else latents[:1]
            images = [preview.quick(model, latent, self._size, settings.show_progress_type) for latent in seen]
            image = sheet(images, -1, preview.MOST_PIXELS) or images[0]
        self.ctx.emit(Preview(step=self.steps_done, format="jpeg", data=preview.encode(image)))

    def _emit(self) -> None:
        eta = None
        if self.began is not None and self.steps_done:
            eta = (time.monotonic() - self.began) / self.steps_done * (self.total - self.steps_done)
        self.ctx.emit(Progress(step=self.steps_done, steps=self.total, eta=eta, text=self.text))
