"""The weights of a loaded model as its file holds them, for putting back what adapters changed."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from modules.weights.build import weight_of
from modules.weights.facts import Component, ModelFacts
from modules.weights.headers import Header
from modules.weights.keymaps import Target
from modules.weights.reading import ModelFile


class Pristine:
    """Reads single tensors of a checkpoint again; the file is mapped when first asked, and again after `close`.

    The mapping is its own: what is done to the weights in memory does not show in it.
    """

    def __init__(self, header: Header, facts: ModelFacts) -> None:
        self._header = header
        self._components: Mapping[str, Component] = {
            "unet": facts.unet,
            **{f"te{number}": tower.component for number, tower in enumerate(facts.towers, 1)},
        }
        self._file: ModelFile | None = None

    def __call__(self, target: Target, name: str) -> Tensor:
        """ "weight" or "bias" of a layer.

        Raises:
            BadFile: the checkpoint is gone or was changed.
        """
        if self._file is None:
            self._file = ModelFile(self._header)
        return weight_of(self._file, self._components[target.net], f"{target.path}.{name}")

    def close(self) -> None:
        """Let go of the file; tensors that were handed out keep their part of the mapping."""
        if self._file is not None:
            self._file.close()
            self._file = None
