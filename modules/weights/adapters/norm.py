"""Differences of normalisation layers: `w_norm`, and `b_norm` for the bias (see `table.bias_delta`)."""

from __future__ import annotations

from torch import Tensor

from modules.weights.adapters.parts import Format, Parts


def delta(parts: Parts, weight: Tensor, ranks: int | None) -> Tensor:
    return parts["w_norm"]


FORMAT = Format("Norm", lambda parts: "w_norm" in parts, delta)
