"""CLIP text towers with an input of our own.

Radford et al. 2021 (arXiv:2103.00020, section 2.4); OpenCLIP's ViT-H and ViT-bigG (Cherti et al., arXiv:2212.07143)
differ in size and activation only. The encoder takes token embeddings, so textual-inversion rows are just rows; it
returns every hidden state, so which layer is used (clip skip, a family's own choice) is the caller's. Keys are those of
a Hugging Face CLIP text model without the `text_model.` prefix; that library builds the same net, but importing it
takes longer than importing all else of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets.layers import PLAIN, Ops


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a text tower; `heads` is not in the weights. `projection`: width of the pooled output, or None.

    `activation`: "quick_gelu" in OpenAI's towers, "gelu" in OpenCLIP's.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    activation: str = "quick_gelu"
    vocab: int = 49408
    positions: int = 77
    projection: int | None = None


class SelfAttention(nn.Module):
    def __init__(self, config: ClipConfig, ops: Ops) -> None:
        super().__init__()
        self.heads = config.heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (ops.Linear(config.width, config.width) for _ in "kvqo")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, N, width], mask [N, N] added to the scores, whose softmax is taken in float32."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (q @ k.transpose(2, 3)) * q.shape[3] ** -0.5 + mask
        seen = scores.softmax(-1, dtype=torch.float32).to(x.dtype) @ v
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: ClipConfig, ops: Ops) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.fc1 = ops.Linear(config.width, config.mlp)
        self.fc2 = ops.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


class Layer(nn.Module):
    """Residual attention and feed-forward, each behind its norm."""

    def __init__(self, config: ClipConfig, ops: Ops) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, ops)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config, ops)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


def _embedding(count: int, width: int) -> nn.Embedding:
    """Left to `_initialise`: drawn by torch for a net on the meta device, it imports torch's compiler, which takes more
    than a second of every start."""
    return nn.Embedding(count, width, _weight=torch.empty(count, width))


class Embeddings(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.token_embedding = _embedding(config.vocab, config.width)
        self.position_embedding = _embedding(config.positions, config.width)


class Encoder(nn.Module):
    def __init__(self, config: ClipConfig, ops: Ops) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.layers))


class TextEncoder(nn.Module):
    def __init__(self, config: ClipConfig, ops: Ops = PLAIN) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, ops)
        self.final_layer_norm = nn.LayerNorm(config.width)
        _initialise(self, config)
        if config.projection is not None:
            self.text_projection = nn.Linear(config.width, config.projection, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, N] -> token embeddings [B, N, width], without positions."""
        return self.embeddings.token_embedding(ids)

    def hidden_states(self, embeds: Tensor) -> list[Tensor]:
        """Token embeddings [B, N, width] -> the input and each layer's output, layers + 1 tensors [B, N, width].

        None of them has passed `final_layer_norm`.
        """
        n = embeds.shape[1]
        h = embeds + self.embeddings.position_embedding.weight[:n]
        mask = torch.full((n, n), torch.finfo(h.dtype).min, dtype=h.dtype, device=h.device).triu(1)
        states = [h]
        for layer in self.encoder.layers:
            h = layer(h, mask)
            states.append(h)
        return states

    def pooled(self, last: Tensor, ids: Tensor) -> Tensor:
        """The projected end token: last hidden state [B, N, width], token ids [B, N] -> [B, projection].

        The end token has the highest id, and what follows it is padding.
        """
        ends = ids.argmax(dim=-1)
        rows = torch.arange(last.shape[0], device=last.device)
        return self.text_projection(self.final_layer_norm(last[rows, ends]))


def _initialise(tower: TextEncoder, config: ClipConfig) -> None:
    """Normal weights as in the published code of CLIP; biases begin at zero."""
    embedding, narrow, inside = 0.02, config.width**-0.5, (2 * config.width * config.layers) ** -0.5
    spread = {"token_embedding": embedding, "position_embedding": embedding, "out_proj": narrow, "fc1": narrow / 2**0.5}
    for name, parameter in tower.named_parameters():
        if parameter.is_meta or "norm" in name:
            continue
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=spread.get(name.split(".")[-2], inside))
