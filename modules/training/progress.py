"""What a training has come to: its step and loss curve, and one file from which a killed run goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.training.optim import Average, Optimizers


def always(step: int) -> bool:
    """The `keep_going` of a run that nobody stops."""
    return True


def write_state(state: dict[str, Any], path: Path) -> None:
    """torch.save beside the target, then rename: a kill while writing leaves the old checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    torch.save(state, temporary)
    temporary.replace(path)


class Progress:
    """Weights, average, optimiser, step and curve of one training, kept in `checkpoint`; goes on from it if it exists.

    `curve`: (step, mean loss) pairs. A state that is resumed repeats an uninterrupted run, since each step's randomness
    is a function of the recipe's seed and the step alone.
    """

    def __init__(
        self, model: nn.Module, optimizers: Optimizers, average: Average, checkpoint: Path, save_every: float
    ) -> None:
        self.model, self.optimizers, self.average = model, optimizers, average
        self.checkpoint, self.save_every = checkpoint, save_every
        self.step = 0
        self.curve: list[tuple[int, float]] = []
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            optimizers.load_state_dict(state["optimizers"])
            average.load_state_dict(state["average"])
            self.step, self.curve = state["step"], state["curve"]
        self._first = self.step
        self._began = self._saved = time.monotonic()

    @property
    def pace(self) -> float:
        """Seconds a step, over the steps of this run."""
        return (time.monotonic() - self._began) / max(self.step - self._first, 1)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(), "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict(), "step": self.step, "curve": self.curve,
        }  # fmt: skip
        write_state(state, self.checkpoint)
        self._saved = time.monotonic()

    def save_if_due(self) -> None:
        """Save if the last time is more than `save_every` seconds ago."""
        if time.monotonic() - self._saved > self.save_every:
            self.save()

    def finish(self) -> None:
        """Save, and leave the averaged weights in the model."""
        self.save()
        self.model.load_state_dict(self.average.values, strict=False)
