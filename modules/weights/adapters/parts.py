"""What a file holds for one layer, and what a format is: a rule from these tensors to the change of a weight.

All arithmetic is float32. A rule gets the pristine weight W [O, I] or [O, I, k, k] and answers ΔW with as many
elements in the same order, at multiplier 1 with alpha or scale applied; `table.changed` adds it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

NUMBERS = ("alpha", "scale", "on_input")
"""Parts of one element, asked for by `Parts.number` alone."""


class Parts:
    """The tensors of one layer under their kohya/LyCORIS names, as float32."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensor if tensor.is_meta else tensor.float() for name, tensor in tensors.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self._tensors.get(name)

    def number(self, name: str) -> float | None:
        """A tensor of one element as a number."""
        tensor = self._tensors.get(name)
        return None if tensor is None else float(tensor)

    def scale(self, rank: int | None) -> float:
        """What a product of factors is multiplied with: `scale` if the file says so, else alpha / rank, else 1.

        Alpha 0 means "as the rank", as trainers take it.
        """
        said = self.number("scale")
        if said is not None:
            return said
        alpha = self.number("alpha")
        return alpha / rank if alpha and rank else 1.0


Rule = Callable[[Parts, Tensor, int | None], Tensor]
"""(parts, W, ranks to use or None for all) -> ΔW."""
Adding = Callable[[Parts, Tensor, float, int | None, bool], Tensor | None]
"""(parts, W, multiplier, ranks, whether W may be written to) -> W + multiplier · ΔW; None: use the rule."""


@dataclass(frozen=True)
class Format:
    """`belongs` says from the parts of a layer whether it is of this format. `added`: a way without ΔW in between."""

    name: str
    belongs: Callable[[Parts], bool]
    delta: Rule
    added: Adding | None = None


def flat(tensor: Tensor) -> Tensor:
    """[A, B, ...] -> [A, B·...]"""
    return tensor.reshape(tensor.shape[0], -1)
