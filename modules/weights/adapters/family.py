"""Which family of models an adapter was made for, told from its header alone (no tensor library needed).

What the tensors say counts more than what the metadata says; only attention over the text differs in every family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LABELS = {
    "sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL", "sdxl-refiner": "the SDXL refiner", "sd3": "SD3", "flux": "Flux",
}  # fmt: skip
TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 1280: "sdxl-refiner", 2048: "sdxl"}

_CROSS = re.compile(
    r"attn2[._](?:processor\.)?to_[kv](?:_lora)?\b.*?(?:lora_down|lora_A|lora\.down|_lora\.down|hada_w[12]_b)"
)
_DEEP = re.compile(r"transformer_blocks[._]([2-9]|\d\d)[._].*attn[12]")


def family_of(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str | None:
    """One of LABELS, or None where nothing tells. `shapes`: of every tensor of the file, by key."""
    return _by_names(shapes) or _by_widths(shapes) or declared(metadata)


def declared(metadata: Mapping[str, str]) -> str | None:
    """What the trainer wrote down."""
    base = metadata.get("ss_base_model_version", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    if base.startswith("sdxl") or "stable-diffusion-xl" in architecture:
        return "sdxl-refiner" if "refiner" in base + architecture else "sdxl"
    if base.startswith("flux") or architecture.startswith("flux"):
        return "flux"
    if base.startswith("sd3") or architecture.startswith("stable-diffusion-3"):
        return "sd3"
    if metadata.get("ss_v2") == "True" or base.startswith("sd_v2") or "stable-diffusion-v2" in architecture:
        return "sd2"
    if base.startswith("sd_v1") or "stable-diffusion-v1" in architecture or metadata.get("ss_v2") == "False":
        return "sd1"
    return None


def _by_names(keys: Iterable[str]) -> str | None:
    for key in keys:
        if "double_blocks" in key or "single_blocks" in key or "single_transformer_blocks" in key:
            return "flux"
        if "joint_blocks" in key or "attn_add_" in key or ".attn.add_" in key:
            return "sd3"
        if key.startswith(("lora_te2_", "text_encoder_2.")) or _DEEP.search(key):
            return "sdxl"
    return None


def _by_widths(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    return TEXT_WIDTHS.get(text_width(shapes) or 0)


def text_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How wide the text is that its layers read; None where nothing tells."""
    for key, shape in shapes.items():
        if len(shape) > 1 and _CROSS.search(key):
            return shape[1]
    return None
