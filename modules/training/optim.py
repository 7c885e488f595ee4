"""Muon for matrices and convolutions, Adam for the rest, and the small things around them.

Muon (Jordan et al. 2024): the momentum of a weight matrix is replaced by the nearest (half-)orthogonal matrix, found by
a few Newton-Schulz steps; the update is then scaled to the root mean square of an Adam step (Liu et al.,
arXiv:2502.16982), so one learning rate serves both. Adam: Kingma & Ba (arXiv:1412.6980) with decoupled weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def newton_schulz(g: Tensor, steps: int = 4) -> Tensor:
    """[rows, columns] -> about U Vᵀ of its singular value decomposition, in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.to(torch.bfloat16)
    wide = x.shape[0] <= x.shape[1]
    if not wide:
        x = x.T
    x = x / (x.float().norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. For parameters of two or more dimensions; the first is the output's.

    With `every` = 2 each matrix is orthogonalised in every second step only, the halves taking turns, and its last
    direction is used again in between: momentum turns slowly, and this work is a quarter of a small model's step.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, momentum: float = 0.95, every: int = 1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "every": every})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"], state["steps"] = torch.zeros_like(p), 0
                momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                rows, columns = p.shape[0], p[0].numel()
                if "direction" not in state or (state["steps"] + index) % group["every"] == 0:
                    nesterov = p.grad.lerp(momentum, group["momentum"])
                    state["direction"] = newton_schulz(nesterov.reshape(rows, columns)).reshape(p.shape)
                state["steps"] += 1
                p.add_(state["direction"], alpha=-group["lr"] * 0.2 * math.sqrt(max(rows, columns)))


class Optimizers:
    """Muon and Adam side by side, stepped as one. A parameter goes to Muon if `by_muon(name, parameter)` says so."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], lr: float, betas: tuple[float, float], every: int = 1
    ) -> None:
        muon: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, p in named:
            (muon if by_muon(name, p) else rest).append(p)
        self.lr = lr
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            Muon(muon, lr=lr, every=every),
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=0.0, foreach=True),
        )

    def step(self, factor: float, clip: float = 1.0) -> float:
        """One step at `factor` times the learning rate; returns the norm of the gradient before clipping."""
        params = [p for part in self.parts for group in part.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(params, clip)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def by_muon(name: str, p: nn.Parameter) -> bool:
    """Hidden matrices and kernels; not embeddings, and not the first and last layers, which face data directly."""
    edge = ("embedding", "conv_in", "conv_out", "input_blocks.0.", "out.2.", "quant_conv")
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 32 and not any(part in name for part in edge)


class Average:
    """Exponential moving average of parameters, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        params = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [params[name].detach() for name in self.values], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.values = state["updates"], state["values"]


def warm_constant_cosine(step: int, total: int, warm: int, hold: float, floor: float = 0.01) -> float:
    """Learning-rate factor: linear warm-up over `warm` steps, 1 until `hold` of the total, cosine down to `floor`."""
    if step < warm:
        return (step + 1) / warm
    progress = step / max(total, 1)
    if progress < hold:
        return 1.0
    fall = min((progress - hold) / (1 - hold), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall))
