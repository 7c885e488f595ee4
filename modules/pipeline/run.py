"""The engine as the worker holds it: built once, runs one job after another."""

from __future__ import annotations

from collections.abc import Callable

import torch

from modules.memory import devices
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

    def close(self) -> None:
        self.residency.close()
