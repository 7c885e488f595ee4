"""A push towards listening to "left", "middle" and "right".

To use a word for a place a net must multiply what it reads by where it is. Both factors start near nothing, so does the
gradient of either, and a short training never leaves that saddle: colours and kinds were learned in minutes, places
not at all. `prime_places` gives the product a start: in every cross-attention of the coarser levels two numbers of a
query are set to read the column, two of a key to read the word, so that the word is looked at where it applies. What
to do there, and everything else, is still learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.nets.unet import CrossAttention, UNet

WORDS: tuple[tuple[str, ...], ...] = (("left",), ("right",), ("middle", "center", "centre"))
LOUDER = 3.0
"""Factor on the embeddings of those words, which nothing had made use of and so stayed small."""
LOGIT = 4.0
"""Attention logit of a word at the edge of the picture it names."""


def _ridge(inputs: Tensor, targets: Tensor, penalty: float = 1e-2) -> Tensor:
    """Weights [D, K] of the linear map from inputs [N, D] to targets [N, K], shrunk a little."""
    gram = inputs.T @ inputs
    scale = gram.diagonal().mean()
    return torch.linalg.solve(gram + penalty * scale * torch.eye(len(gram)), inputs.T @ targets)


@torch.no_grad()
def prime_places(
    unet: UNet, x: Tensor, timesteps: Tensor, context: Tensor, word_of: Tensor, smallest_side: int = 2
) -> dict[str, list[float]]:
    """Set two rows of `to_q` and `to_k` in each cross-attention on a grid of `smallest_side` to half of x's side.

    word_of [B, T]: 0 left, 1 right, 2 middle, -1 any other token of context [B, T, D]. The rows given up are those
    that did least. Returns for each attention how well (R squared) column and centre could be read from its queries.
    """
    seen: dict[str, Tensor] = {}
    handles = []

    def listen(name: str, module: nn.Module) -> None:
        def keep(_: nn.Module, inputs: Sequence[Tensor], __: Tensor) -> None:
            seen[name] = inputs[0].float()

        handles.append(module.register_forward_hook(keep))

    chosen = {
        name: module for name, module in unet.named_modules()
        if isinstance(module, CrossAttention) and name.endswith("attn2")
    }  # fmt: skip
    for name, module in chosen.items():
        listen(name, module)
    unet(x, timesteps, context)
    for handle in handles:
        handle.remove()

    tokens, words = context.reshape(-1, context.shape[-1]).float(), word_of.flatten()
    side_word = (words == 0).float() - (words == 1).float()
    middle_word = (words == 2).float() - 0.5 * (words == 0).float() - 0.5 * (words == 1).float()
    # Few tokens are words for places; they count as much as all others together.
    weight = torch.where(words >= 0, ((words < 0).sum() / (words >= 0).sum()).sqrt(), torch.tensor(1.0))[:, None]
    keys = _ridge(tokens * weight, torch.stack([side_word, middle_word], 1) * weight, 1e-4)

    fits: dict[str, list[float]] = {}
    for name, module in chosen.items():
        features = seen[name]
        side = round(features.shape[1] ** 0.5)
        if not smallest_side <= side <= x.shape[-1] // 2:
            continue
        column = (torch.arange(side) - (side - 1) / 2) / ((side - 1) / 2)
        centre = 1 - 2 * column.abs()
        wanted = torch.stack([-column, centre - centre.mean()], 1).repeat(side, 1).repeat(len(features), 1)
        rows = features.reshape(-1, features.shape[-1])
        queries = _ridge(rows, wanted)
        error = (rows @ queries - wanted).square().mean(0) / wanted.square().mean(0).clamp(min=1e-9)
        fits[name] = [round(1 - float(value), 2) for value in error]
        to_q, to_k = module.to_q, module.to_k
        assert isinstance(to_q, nn.Linear)
        assert isinstance(to_k, nn.Linear)
        gain = (LOGIT * (to_q.weight.shape[0] // module.heads) ** 0.5) ** 0.5
        idle = (to_q.weight.norm(dim=1) * to_k.weight.norm(dim=1)).argsort()[:2]
        to_q.weight[idle] = gain * queries.T
        to_k.weight[idle] = gain * keys.T
    return fits
