"""(IA)³ (Liu et al., arXiv:2205.05638): rows, or with `on_input` columns, of W are scaled: ΔW = W ⊙ w."""

from __future__ import annotations

from torch import Tensor

from modules.weights.adapters.parts import Format, Parts


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    axis = 1 if parts.number("on_input") else 0
    shape = [1] * weight.dim()
    shape[axis] = weight.shape[axis]
    return weight * parts["weight"].reshape(shape)


FORMAT = Format("IA3", lambda parts: "weight" in parts and "on_input" in parts, delta)
