"""Token merging: self-attention over fewer tokens, the most alike taken together (Bolya & Hoffman, arXiv:2303.17604).

Tokens of a picture are split in two: in every 2x2 patch the first is a target, the others are candidates. The `ratio`
of all tokens whose best target is most alike goes into that target as a mean; after attention each gets its target's
answer. Every picture is matched by itself, without chance, so that it does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Merging:
    """What share of a picture's tokens is merged, where there are as many of them as latent pixels."""

    ratio: float
    tokens: int

    def match(self, x: Tensor, height: int, width: int) -> Match | None:
        """Which of x [B, height * width, C] go together; None where nothing is merged."""
        count = int(x.shape[1] * self.ratio)
        if count <= 0 or self.tokens // x.shape[1] > 1:
            return None
        return _match(x, height, width, count)


@dataclass(frozen=True)
class Match:
    """Places of [B, N, C]: `targets` [D] and `candidates` [N - D] split the tokens; of the candidates, by their order,
    `kept` [B, K] stay and `gone` [B, M] go into the targets `into` [B, M]."""

    targets: Tensor
    candidates: Tensor
    kept: Tensor
    gone: Tensor
    into: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, K + D, C]."""
        sources, targets = x[:, self.candidates], x[:, self.targets]
        channels = x.shape[-1]
        moved = sources.gather(1, _wide(self.gone, channels))
        targets = targets.scatter_reduce(1, _wide(self.into, channels), moved, reduce="mean")
        return torch.cat([sources.gather(1, _wide(self.kept, channels)), targets], dim=1)

    def unmerge(self, merged: Tensor) -> Tensor:
        """[B, K + D, C] -> [B, N, C]."""
        channels, count = merged.shape[-1], self.kept.shape[1]
        kept, targets = merged[:, :count], merged[:, count:]
        length = len(self.targets) + len(self.candidates)
        x = torch.empty(merged.shape[0], length, channels, dtype=merged.dtype, device=merged.device)
        x[:, self.targets] = targets
        x.scatter_(1, _wide(self.candidates[self.kept], channels), kept)
        answers = targets.gather(1, _wide(self.into, channels))
        return x.scatter_(1, _wide(self.candidates[self.gone], channels), answers)


def _match(x: Tensor, height: int, width: int, count: int) -> Match:
    first = torch.zeros(height, width, dtype=torch.uint8, device=x.device)
    first[: height // 2 * 2 : 2, : width // 2 * 2 : 2] = 1
    # Sorted rather than picked by `first`, whose count the program would have to wait for.
    place, others = first.flatten().argsort(stable=True), height * width - (height // 2) * (width // 2)
    targets, candidates = place[others:], place[:others]
    unit = x / x.norm(dim=-1, keepdim=True)
    # Row by row: a product over a batch may round otherwise than one picture's own.
    best = [(row[candidates] @ row[targets].T).max(dim=-1) for row in unit]
    order = torch.stack([alike.values for alike in best]).argsort(dim=-1, descending=True)
    nearest = torch.stack([alike.indices for alike in best])
    gone, kept = order[:, :count], order[:, count:]
    return Match(targets, candidates, kept, gone, nearest.gather(1, gone))


def _wide(index: Tensor, channels: int) -> Tensor:
    return index[..., None].expand(-1, -1, channels)
