"""The engine as the worker holds it: built once, runs one job after another."""

from __future__ import annotations

from collections.abc import Callable

import torch

from modules.memory import devices, policy
from modules.pipeline import text
from modules.pipeline.context import Control, RunContext
from modules.pipeline.generate import generate
from modules.pipeline.text import ConditioningCache
from modules.schema.errors import OutOfMemory
from modules.schema.events import Event
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency


class Engine:
    """Owns the weights. One job at a time; a failing job leaves the loaded model as it was."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.facts = devices.detect()
        self.catalogue = Catalogue(folders, folders.database)
        self.residency = Residency(self.catalogue, self.facts)
        self.conditionings = ConditioningCache()

    def warm(self, settings: Settings) -> None:
        """Load the model a first job would most likely ask for, so that it need not wait."""
        checkpoint = self.catalogue.default(settings.model.sd_model_checkpoint)
        checkpoint, _ = self.catalogue.dressed(checkpoint, settings.model)
        with self.residency.lease(checkpoint, policy.choose(self.facts, settings)) as model:
            text.condition(model, "", "", 1, settings, model.facts.resolution, self.conditionings)
            self.catalogue.hash_of(model.checkpoint)  # the first infotext wants it; of a large file it takes seconds

    def run(
        self,
        job: str,
        request: GenerationRequest,
        settings: Settings,
        emit: Callable[[Event], None],
        control: Control,
    ) -> None:
        """Draw one job, telling `emit` what happens; raises EaselError."""
        ctx = RunContext(
            job, emit, control, self.folders, settings, self.catalogue, self.residency, self.facts, self.conditionings
        )
        try:
            generate(request, ctx)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(
                f"The {self.facts.device} ran out of memory at {request.width}×{request.height}, batch size "
                f"{request.batch_size}; draw smaller or fewer pictures at once."
            ) from error
        finally:
            self.residency.free_when_idle(settings.model.unload_after_minutes * 60)

    def unload(self) -> None:
        """Let go of all weights; the next job loads what it needs."""
        self.residency.close()

    def stats(self) -> dict[str, object]:
        """What is loaded and where, as plain data."""
        loaded = self.residency.loaded
        return {
            "device": self.facts.kind,
            "device_name": self.facts.name,
            "memory": self.facts.memory,
            "checkpoint": loaded.name if loaded else None,
        }

    def close(self) -> None:
        self.residency.close()
