"""The engine as the worker holds it: built once, runs one job after another."""

from __future__ import annotations

import contextlib
import gc
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec

import torch

from modules.imaging.save import safe_write
from modules.memory import devices, policy
from modules.memory.budget import History
from modules.memory.fastest import Fastest
from modules.memory.gauge import Gauge, give_back
from modules.memory.machine import DeviceFacts
from modules.nets.attention import ATTENTIONS, Attention
from modules.pipeline import text
from modules.pipeline.context import Control, Kept, RunContext, Share
from modules.pipeline.extensions import HookFailed, Library
from modules.pipeline.faces import Faces
from modules.pipeline.plan import with_seeds
from modules.pipeline.scripted import generate
from modules.pipeline.text import ConditioningCache
from modules.pipeline.upscalers import Upscalers
from modules.schema.errors import EaselError, OutOfMemory
from modules.schema.events import Event, ImageReady, Warned
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import SAVINGS, Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency
from modules.weights.sizes import sizes_of

ON_NVIDIA = ("sdp", "xformers")
"""torch has fused kernels for every head size there; Doggettx would take a gigabyte for being measured."""
ON_A_CARD = ("sdp", "xformers", "split", "Doggettx")
ON_A_PROCESSOR = ("sdp", "split", "onednn")


def candidates(facts: DeviceFacts) -> dict[str, Attention]:
    """Attentions among which a device's best is found. Many scores at once never win on a processor, and take 1 GB."""
    others = ON_A_CARD if facts.is_card else ON_A_PROCESSOR
    names = ON_NVIDIA if facts.kind == "cuda" and torch.version.hip is None else others
    return {name: ATTENTIONS[name] for name in names if name != "xformers" or find_spec("xformers")}


class Engine:
    """Owns the weights. One job at a time; a failing job leaves the loaded model as it was."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.facts = devices.detect()
        self.catalogue = Catalogue(folders, folders.database)
        self._attention = self._fastest()
        self.residency = Residency(self.catalogue, self.facts, self._attention)
        self.conditionings = ConditioningCache()
        self.upscalers = Upscalers(folders, self.facts)
        self.faces = Faces(folders, self.facts)
        self.gauge = Gauge(self.facts)
        self.extensions = Library(folders.extensions, folders.extension_mark)
        self._noted: tuple[str, ...] = ()

    def warm(self, settings: Settings) -> None:
        """Load the model a first job would most likely ask for, so that it need not wait."""
        self.extensions.load(settings)
        checkpoint = self.catalogue.default(settings.model.sd_model_checkpoint)
        checkpoint, _ = self.catalogue.dressed(checkpoint, settings.model)
        chosen = policy.choose(self.facts, settings, sizes_of(checkpoint, self.folders))
        with self.residency.lease(checkpoint, chosen) as model:
            text.condition(model, "", "", 1, settings, model.facts.resolution, self.conditionings)
            if settings.model.hash_models:
                self.catalogue.hash_of(model.checkpoint)  # seconds of a large file, and the first infotext wants it
        self.residency.free_when_idle(settings.model.unload_after_minutes * 60, self._rest)

    def run(
        self,
        job: str,
        request: GenerationRequest,
        settings: Settings,
        emit: Callable[[Event], None],
        control: Control,
    ) -> None:
        """Draw one job, telling `emit` what happens; raises EaselError.

        A job that runs out of memory goes on with its unfinished pictures, saving more memory each time; one in which
        an extension fails, without it.
        """
        finished = set(control.finished)
        wishes = settings.performance
        self._attention.without = frozenset({"xformers"} if wishes.disable_xformers else ())
        if torch.are_deterministic_algorithms_enabled() != wishes.deterministic:  # saying it imports torch's compiler
            torch.use_deterministic_algorithms(wishes.deterministic, warn_only=True)
        request = with_seeds(request)  # what goes on after a failure is the same job
        kept: dict[int, Kept] = {}

        def told(event: Event) -> None:
            if isinstance(event, ImageReady):
                finished.add(event.record.index)
            emit(event)

        notes = policy.notes(self.facts, settings)
        for message in notes if notes != self._noted else ():  # once, not for every job
            told(Warned(message=message))
        self._noted = notes
        hooks = self.extensions.hooks_for(settings, request.extensions, lambda said: told(Warned(message=said)))
        try:
            while True:
                ctx = RunContext(
                    job, told, Share(control, frozenset(finished)), self.folders, settings, self.catalogue,
                    self.residency, self.facts, self.conditionings, self.upscalers, self.faces, self.gauge,
                    kept=kept, hooks=hooks,
                )  # fmt: skip
                parts = "all" if settings.performance.memory_saving == SAVINGS[-1] else wishes.use_cpu
                self.upscalers.use(policy.for_part(self.facts, parts, *policy.UPSCALING))
                self.faces.use(policy.for_part(self.facts, parts, *policy.RESTORING))
                self.gauge.begin()
                try:
                    saving = self._drawn(request, ctx)
                except HookFailed:  # that extension is asked no more
                    continue
                if saving is None:
                    return self._learn()
                told(Warned(message=f"The memory of {self.facts.name} ran out; going on with: {saving}."))
                settings = settings.with_options({"memory_saving": saving})
        finally:
            if wishes.offload_after_job:
                self.residency.step_aside()
                self.upscalers.close()
                self.faces.close()
            self.residency.free_when_idle(settings.model.unload_after_minutes * 60, self._rest)

    def _drawn(self, request: GenerationRequest, ctx: RunContext) -> str | None:
        """Draw. None if it was done, or what to do next against too little memory; OutOfMemory if nothing is left."""
        try:
            generate(request, ctx)
        except Exception as error:
            if not devices.is_memory(error):
                raise
            tried = SAVINGS.index(ctx.settings.performance.memory_saving)
            if isinstance(error, OutOfMemory):  # already the weights alone did not fit: what was kept besides goes
                tried = max(tried, SAVINGS.index("one prompt at a time") - (not self.facts.is_card))
            left = SAVINGS[tried + 1 : len(SAVINGS) if self.facts.is_card else SAVINGS.index("weights streamed")]
            if not left:
                if isinstance(error, OutOfMemory):
                    raise
                raise OutOfMemory(
                    f"The {self.facts.device} ran out of memory at {request.width}×{request.height}, batch size "
                    f"{request.batch_size}; draw smaller or fewer pictures at once."
                ) from error
            traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
        else:
            return None
        self.upscalers.close()
        self.faces.close()
        self.conditionings.clear()
        self.residency.forget_calls()
        gc.collect()  # whatever holds itself
        devices.empty_cache(self.facts.kind)
        return left[0]

    def _learn(self) -> None:
        """Let the next prediction of such a job profit from what this one took."""
        if self.gauge.expected is None or not (measured := self.gauge.measured()):
            return
        path = self.folders.memory_history
        history = History.read(path).seen(*self.gauge.expected, measured)
        with contextlib.suppress(EaselError):  # it is measured again then
            safe_write(path, history.as_json().encode(), overwrite=True)

    def _fastest(self) -> Fastest:
        """The attention that measures best here; what an earlier run found is beside the database."""
        path = self.folders.database.with_name("attention.json")
        known = {}
        with contextlib.suppress(OSError, ValueError):
            known = dict(json.loads(path.read_text("utf-8")))

        def remember(found: Mapping[str, str]) -> None:
            with contextlib.suppress(EaselError):  # it is measured again then
                safe_write(path, json.dumps(dict(found), indent=1).encode(), overwrite=True)

        return Fastest(candidates(self.facts), self.facts.name, known, remember)

    def unload(self) -> None:
        """Let go of all weights; the next job loads what it needs."""
        self.upscalers.close()
        self.faces.close()
        self.residency.close()
        self._rest()

    def _rest(self) -> None:
        self.conditionings.clear()
        give_back()

    def stats(self) -> dict[str, object]:
        """What is loaded and where, as plain data. `held`: bytes of weights and of what is kept to save work.

        `machine` is all that decides how a job is drawn; `fixed`, what was taken before anything was loaded.
        """
        loaded = self.residency.loaded
        return {
            "device": self.facts.kind,
            "device_name": self.facts.name,
            "memory": self.facts.memory,
            "checkpoint": loaded.name if loaded else None,
            "machine": {**asdict(self.facts), "features": sorted(self.facts.features)},
            "fixed": self.gauge.fixed,
            "now": self.gauge.now(),
            "extensions": dict(self.extensions.problems),
            "held": {**self.residency.held(), "cache": self.conditionings.bytes + self.upscalers.bytes},
            **self.gauge.card(),
        }

    def close(self) -> None:
        self.residency.close()
