"""What a model file is, by its keys and shapes alone: the folder it lies in says nothing. Torch-free.

kind_of(read_header(path))     # "lora", "vae", "embedding", …
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from modules.weights import assembly, layouts
from modules.weights.headers import Header

Kind = Literal[
    "checkpoint", "unet", "vae", "lora", "embedding", "hypernetwork", "text encoder", "controlnet", "ip-adapter",
    "motion module", "upscaler", "face restorer", "taesd", "vae-approx", "unknown",
]  # fmt: skip

LORA_PARTS = (
    ".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".lora.down.weight", ".lora.up.weight",
    "_lora.down.weight", "_lora.up.weight", ".lora_linear_layer.down.weight", ".hada_w1_a", ".lokr_w1", ".lokr_w1_a",
    ".lokr_w2", ".oft_blocks", ".oft_diag", ".dora_scale", ".on_input", ".a1.weight", ".w_norm", ".diff",
)  # fmt: skip
_BLOCKS = re.compile(r"(320|640|768|1024|1280)\.[01]\.")


def _lora(h: Header) -> bool:
    return any(key.endswith(LORA_PARTS) for key in h.tensors)


def _hypernetwork(h: Header) -> bool:
    return all(_BLOCKS.match(key) for key in h.tensors)


def _checkpoint(h: Header) -> bool:
    keys = h.tensors
    denoiser = any(key.startswith("model.diffusion_model.") for key in keys)
    return denoiser and any(key.startswith(("cond_stage_model.", "conditioner.", "text_encoders.")) for key in keys)


def _embedding(h: Header) -> bool:
    named = {"emb_params", "clip_l", "clip_g"} & set(h.tensors) or any(
        k.startswith("string_to_param") for k in h.tensors
    )
    small = len(h.tensors) < 10 and all(
        1 <= len(i.shape) <= 2 and (i.shape or (0,))[-1] in (768, 1024, 1280, 4096) for i in h.tensors.values()
    )
    return bool(named) or small


def _starts(*heads: str) -> Callable[[Header], bool]:
    return lambda h: any(key.startswith(heads) for key in h.tensors)


def _has(*names: str) -> Callable[[Header], bool]:
    return lambda h: any(name in h.tensors or f"params_ema.{name}" in h.tensors for name in names)


def _face_restorer(h: Header) -> bool:
    """GFPGAN; CodeFormer and RestoreFormer: a VAE around a book of codes, told by a part that VAEs do not have."""
    book = _has("quantize.embedding.weight")(h)
    return _has("stylegan_decoder.style_mlp.1.weight")(h) or (
        book and _has("position_emb", "encoder.mid.attn_1.norm1.weight")(h)
    )


ROWS: tuple[tuple[Kind, Callable[[Header], bool]], ...] = (
    ("lora", _lora),
    ("controlnet", _starts("control_model.", "input_hint_block.", "controlnet_cond_embedding.", "lllite_unet")),
    ("controlnet", _has("lora_controlnet", "adapter.body.0.block1.weight", "body.0.block1.weight")),
    ("ip-adapter", _starts("ip_adapter.", "image_proj.")),
    ("motion module", lambda h: any("temporal_transformer" in key for key in h.tensors)),
    ("checkpoint", _checkpoint),
    ("unet", lambda h: assembly.is_unet_only(h) or _starts("joint_blocks.0.", "double_blocks.0.")(h)),
    ("hypernetwork", _hypernetwork),
    ("vae-approx", lambda h: "conv8.weight" in h.tensors and len(h.tensors) == 16),
    ("taesd", _starts("19.weight", "14.weight", "decoder.layers.18.", "encoder.layers.14.")),
    ("face restorer", _face_restorer),
    ("vae", lambda h: layouts.is_diffusers_vae(h.tensors)
        or any(f"{p}decoder.conv_in.weight" in h.tensors for p in ("", "first_stage_model.", "vae."))),
    ("upscaler", _has("conv_first.weight", "model.0.weight", "body.0.rdb1.conv1.weight", "body.0.weight")),
    ("text encoder", lambda h: layouts.is_clip_text(h.tensors)
        or _starts("encoder.block.0.layer.0.", "transformer.resblocks.0.")(h)),
    ("embedding", _embedding),
)  # fmt: skip


def kind_of(header: Header) -> Kind:
    """The first row that knows the file."""
    for kind, test in ROWS:
        if test(header):
            return kind
    return "unknown"
