"""CLIP whole: pictures and texts as vectors of one space (Radford et al. 2021, arXiv:2103.00020).

Keys are those of Hugging Face's CLIPModel; `hugging_face` translates the original's and open_clip's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets.torchvision_fit import fit_torchvision

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # channels of an attention head, in every published size
_TOP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}  # fmt: skip
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under Hugging Face's keys, whichever of the layouts they come in; what belongs to neither is left out."""
    if "visual.proj" not in weights:
        wanted = ("text_model.", "vision_model.", "visual_projection.", "text_projection.", "logit_scale")
        return {key: value for key, value in weights.items() if key.startswith(wanted) and "position_ids" not in key}
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        stem, _, leaf = key.rpartition(".")
        block = _BLOCK.fullmatch(key)
        if key in _TOP:
            found[_TOP[key]] = value
        elif stem in _NORMS:
            found[f"{_NORMS[stem]}.{leaf}"] = value
        elif key in ("text_projection", "visual.proj"):
            found[f"{key.removesuffix('.proj').removesuffix('_projection')}_projection.weight"] = value.T
        elif block is not None:
            side = "vision_model" if block[1] else "text_model"
            layer, rest = f"{side}.encoder.layers.{block[2]}", block[3]
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for name, part in zip("qkv", value.chunk(3)):
                    found[f"{layer}.self_attn.{name}_proj.{kind}"] = part
            else:
                inner, _, kind = rest.rpartition(".")
                found[f"{layer}.{_IN_BLOCK[inner]}.{kind}"] = value
    return found


class ClipPair(nn.Module):
    """Built for weights under Hugging Face's keys; KeyError or ValueError where they are no CLIP.

    `activation`: "quick_gelu" in OpenAI's, "gelu" in OpenCLIP's.
    """

    def __init__(self, weights: Mapping[str, Tensor], activation: str) -> None:
        super().__init__()
        fit_torchvision()
        from transformers import CLIPConfig, CLIPModel  # 2 s, only for those who caption pictures

        def side(name: str) -> dict[str, Any]:
            width = weights[f"{name}.encoder.layers.0.layer_norm1.weight"].shape[0]
            layers = {int(key.split(".")[3]) for key in weights if key.startswith(f"{name}.encoder.layers.")}
            return {
                "hidden_size": width, "num_hidden_layers": len(layers), "num_attention_heads": max(1, width // HEAD),
                "intermediate_size": weights[f"{name}.encoder.layers.0.mlp.fc1.weight"].shape[0],
                "hidden_act": activation,
            }  # fmt: skip

        patch = weights["vision_model.embeddings.patch_embedding.weight"].shape[-1]
        places = weights["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
        self.side = round(places**0.5) * patch
        vocabulary = weights["text_model.embeddings.token_embedding.weight"].shape[0]
        self.longest = weights["text_model.embeddings.position_embedding.weight"].shape[0]
        dim = weights["visual_projection.weight"].shape[0]
        config = CLIPConfig(
            text_config={
                **side("text_model"), "vocab_size": vocabulary, "max_position_embeddings": self.longest,
                "projection_dim": dim, "eos_token_id": vocabulary - 1, "bos_token_id": vocabulary - 2,
                "pad_token_id": vocabulary - 1,
            },
            vision_config={**side("vision_model"), "image_size": self.side, "patch_size": patch, "projection_dim": dim},
            projection_dim=dim,
        )  # fmt: skip
        self.model: Any = CLIPModel(config)
        self.model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=True)
        self.model.eval().requires_grad_(False)

    @torch.inference_mode()
    def pictures(self, pixels: Tensor) -> Tensor:
        """[B, 3, side, side] in 0…1 -> unit vectors [B, D]."""
        mean, spread = (torch.tensor(v).view(1, 3, 1, 1).to(pixels) for v in (MEAN, SPREAD))
        pooled = self.model.vision_model(pixel_values=(pixels - mean) / spread).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.inference_mode()
    def texts(self, tokens: Tensor) -> Tensor:
        """Token numbers [B, T], each text's end the highest of it -> unit vectors [B, D]."""
        pooled = self.model.text_model(input_ids=tokens).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)
