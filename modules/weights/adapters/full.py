"""Full differences (`diff`), and whole weights (`set_weight`, which takes the weight's place at multiplier 1)."""

from __future__ import annotations

from torch import Tensor

from modules.weights.adapters.parts import Format, Parts


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    value = parts.get("set_weight")
    return parts["diff"] if value is None else value.reshape(weight.shape) - weight


FORMAT = Format("Full", lambda parts: "diff" in parts or "set_weight" in parts, delta)
