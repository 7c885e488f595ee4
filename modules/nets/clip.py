"""CLIP text towers through transformers' modules, with an input of our own.

Radford et al. 2021 (arXiv:2103.00020); OpenCLIP's ViT-H and ViT-bigG (Cherti et al., arXiv:2212.07143) differ in size
and activation only. The encoder takes token embeddings, so textual-inversion rows are just rows; it returns every
hidden state, so which layer is used (clip skip, a family's own choice) is the caller's. Keys are those of a Hugging
Face CLIP text model without the `text_model.` prefix, whichever transformers release builds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modules.nets.layers import PLAIN, Ops
from modules.nets.torchvision_fit import fit_torchvision

fit_torchvision()
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402  (needs the line above)


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


class TextEncoder(nn.Module):
    def __init__(self, config: ClipConfig, ops: Ops = PLAIN) -> None:
        super().__init__()
        self.config = config
        options: dict[str, Any] = {
            "vocab_size": config.vocab,
            "hidden_size": config.width,
            "intermediate_size": config.mlp,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "max_position_embeddings": config.positions,
            "hidden_act": config.activation,
            "eos_token_id": 49407,  # the class default, 2, selects a legacy pooling rule
            "attn_implementation": "eager",  # exact additive mask; too small for fused kernels to matter
        }
        model = CLIPTextModel(CLIPTextConfig(**options))
        inner = getattr(model, "text_model", model)  # transformers < 5 nests the tower one level deeper
        # The buffer would stay on the meta device after loading; positions are added from the table directly.
        del inner.embeddings.position_ids
        if ops is not PLAIN:
            _give_linears(inner, ops)
        self.embeddings = inner.embeddings
        self.encoder = inner.encoder
        self.final_layer_norm = inner.final_layer_norm
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
        mask = torch.full((n, n), torch.finfo(h.dtype).min, dtype=h.dtype, device=h.device).triu(1)[None, None]
        states = [h]
        for layer in self.encoder.layers:
            out = layer(h, mask)
            h = out[0] if isinstance(out, tuple) else out  # transformers < 5 returns a tuple
            states.append(h)
        return states

    def pooled(self, last: Tensor, ids: Tensor) -> Tensor:
        """The projected end token: last hidden state [B, N, width], token ids [B, N] -> [B, projection].

        The end token has the highest id, and what follows it is padding.
        """
        ends = ids.argmax(dim=-1)
        rows = torch.arange(last.shape[0], device=last.device)
        return self.text_projection(self.final_layer_norm(last[rows, ends]))


def _give_linears(net: nn.Module, ops: Ops) -> None:
    """Another kind of linear layer in the place of each that transformers has built."""
    for owner in list(net.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) is nn.Linear:
                setattr(owner, name, ops.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None))
