"""The hooks: where a native extension takes part in drawing. Its extension.py implements any of these functions:

    from modules.pipeline.hooks import Own, Picture, hookimpl

    @hookimpl
    def after_decode(image: Image.Image, picture: Picture, own: Own) -> Image.Image:
        ...

A function names those of the arguments that it wants. None as an answer leaves everything as it is, and what is given
must not be changed in place. They run in the drawing process, one after the other: in the order of the folders' names,
those marked `@hookimpl(tryfirst=True)` first and `trylast=True` last. An extension with a section is asked only where
its section is on. One that fails is left out for the rest of the job; what it had changed is drawn anew without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pluggy
from PIL import Image
from torch import Tensor

from modules.schema.plan import Plan
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest

PROJECT = "easel"
hookimpl = pluggy.HookimplMarker(PROJECT)
hookspec = pluggy.HookspecMarker(PROJECT)


@dataclass(frozen=True)
class Own:
    """What an extension is told of itself. `values` of its section in this request and its own `settings`, all of them,
    checked; `folder` it lies in; `warn` tells the user one sentence, once in a job."""

    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    folder: Path
    warn: Callable[[str], None]


@dataclass(frozen=True)
class Batch:
    """Pictures that are drawn together, in one pass. `numbers`: theirs in the plan, so that `plan.seeds[numbers[i]]` is
    the seed of row i; `size`: width and height in pixels; `second`: the second pass of hires fix."""

    plan: Plan
    numbers: range
    size: tuple[int, int]
    second: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.plan.seeds[k] for k in self.numbers)


@dataclass(frozen=True)
class Picture:
    """Picture number `number` of a plan (from 0)."""

    plan: Plan
    number: int

    @property
    def seed(self) -> int:
        return self.plan.seeds[self.number]


class Denoise(Protocol):
    """x [B, C, h, w], noisy latents at noise level sigma [B] -> the guess at the clean ones [B, C, h, w], guided.

    `cfg_scale` stands for the request's. Any number of calls within one of the sampler's counts as one.
    """

    def __call__(self, x: Tensor, sigma: Tensor, *, cfg_scale: float | None = None) -> Tensor: ...


class Hooks:
    """The functions themselves. Latents are float32 on the device that draws."""

    @hookspec
    def amend_request(self, request: GenerationRequest, own: Own) -> GenerationRequest | None:
        """Once for each job, before anything is looked up; a script (X/Y/Z plot) is made of what comes out. Change one
        with `request.model_copy(update={"steps": 30})`; what comes out is checked as any request."""

    @hookspec
    def expand_prompt(self, prompt: str, negative_prompt: str, seed: int, own: Own) -> tuple[str, str] | None:
        """For each picture, after styles and wildcards and before `<lora:…>` is looked for: its prompt and negative
        prompt. Decide by `seed` alone, so that the picture can be drawn again."""

    @hookspec
    def amend_plan(self, plan: Plan, own: Own) -> Plan | None:
        """Everything is looked up and no weight has moved. The number of pictures and the checkpoint stay."""

    @hookspec
    def wrap_denoiser(self, denoise: Denoise, batch: Batch, own: Own) -> Callable[[Tensor, Tensor], Tensor] | None:
        """For each batch and pass: a function (x [B, C, h, w], sigma [B]) -> denoised [B, C, h, w] that the sampler
        calls instead of `denoise`, and that may call it. Rows must not depend on each other: picture k of a batch has
        to be that seed alone."""

    @hookspec
    def on_step(self, step: int, denoised: Tensor, sigma: float, batch: Batch, own: Own) -> None:
        """After each step (from 0): a copy of the guess it used, [B, C, h, w], at noise level `sigma`. To look at."""

    @hookspec
    def after_sampling(self, latents: Tensor, batch: Batch, own: Own) -> Tensor | None:
        """The latents [B, C, h, w] that a pass drew, in the scale the autoencoder's decoder is given them (divided by
        the family's scaling factor there). The kept part of an inpainted picture is put in afterwards."""

    @hookspec
    def after_decode(self, image: Image.Image, picture: Picture, own: Own) -> Image.Image | None:
        """A decoded picture, RGB, before faces are restored and it is put into its source; the joined one of SD
        upscale. Mode and size stay."""

    @hookspec
    def before_save(self, image: Image.Image, picture: Picture, own: Own) -> Image.Image | None:
        """The finished picture, RGB (or RGBA where its source is so), as it is shown and saved. It may have any size;
        RGB, RGBA or L."""

    @hookspec
    def after_job(self, request: GenerationRequest, records: tuple[SavedRecord, ...], own: Own) -> None:
        """All pictures of a job are there. `path` of a record is relative to the data folder, None where it was not
        saved. Not after an interrupted job."""
