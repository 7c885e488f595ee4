"""Small nets with adapters on them: a model without a file, and adapters of every format under every naming.

small = Small.of("SD 1.x", seed)
networks = small.networks()                       # as a loaded model has them
write_adapter(path, {layer: parts_for(...)}, naming="kohya")
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.nets.clip import TextEncoder
from modules.nets.layers import PLAIN, Ops
from modules.nets.unet import UNet
from modules.weights.adapters.apply import Networks
from modules.weights.keymaps import Target, diffusers_names
from tests.weights.tiny import LAYOUTS, randomise

FAMILIES = {
    "SD 1.x": "sd1",
    "SD 1.x inpainting": "sd1",
    "SD 2.x": "sd2",
    "SDXL": "sdxl",
    "SDXL refiner": "sdxl-refiner",
    "SSD-1B": "sdxl",
}


@dataclass
class MemorySource:
    """Pristine weights kept in memory; counts what is asked for, and fails at the read numbered `fails_at`."""

    states: dict[str, dict[str, Tensor]]
    reads: list[tuple[Target, str]] = field(default_factory=list)
    fails_at: int | None = None

    def __call__(self, target: Target, name: str) -> Tensor:
        self.reads.append((target, name))
        if self.fails_at is not None and len(self.reads) >= self.fails_at:
            self.fails_at = None
            raise OSError("the disk is gone")
        return self.states[target.net][f"{target.path}.{name}"]

    def close(self) -> None:
        pass


@dataclass
class Small:
    """A denoiser and its text encoders with random weights."""

    label: str
    unet: UNet
    towers: list[TextEncoder]
    source: MemorySource

    @classmethod
    def of(cls, label: str, seed: int, dtype: torch.dtype = torch.float32, ops: Ops = PLAIN) -> Small:
        layout = LAYOUTS[label]
        generator = torch.Generator().manual_seed(seed)
        with torch.device("meta"):
            unet, towers = UNet(layout.unet, ops), [TextEncoder(config) for _, _, config in layout.towers]
        for net in (unet, *towers):
            randomise(net, generator, dtype)
        nets: dict[str, nn.Module] = {"unet": unet, **{f"te{n}": tower for n, tower in enumerate(towers, 1)}}
        states = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in nets.items()}
        return cls(label, unet, towers, MemorySource(states))

    def networks(self, beside: bool = False) -> Networks:
        family = FAMILIES[self.label]
        return Networks(self.unet, self.towers, self.source, family, self.label, torch.device("cpu"), beside=beside)

    def nets(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, **{f"te{n}": tower for n, tower in enumerate(self.towers, 1)}}

    def layer(self, target: Target) -> Any:
        return self.nets()[target.net].get_submodule(target.path)

    def digest(self) -> str:
        """Of every weight, bit for bit."""
        digest = hashlib.sha256()
        for net in self.nets().values():
            for name, tensor in net.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ names

PEFT_PARTS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
DIFFUSERS_PARTS = {"lora_down.weight": "lora.down.weight", "lora_up.weight": "lora.up.weight"}


def key_of(small: Small, target: Target, part: str, naming: str) -> str:
    """The key of a part of a layer as a program of that name writes it."""
    theirs = diffusers_names(small.unet).get(target.path, target.path) if target.net == "unet" else target.path
    text = "" if target.path == "text_projection" else "text_model."
    one = len(small.towers) == 1
    te = {"te1": "text_encoder", "te2": "text_encoder_2"}.get(target.net, "")
    if naming in ("kohya", "kohya ldm"):
        path = target.path if naming == "kohya ldm" else theirs
        prefix = "lora_unet_" if target.net == "unet" else f"lora_{'te' if one else target.net}_{text}"
        return f"{prefix}{path}".replace(".", "_") + f".{part}"
    if naming == "lycoris":
        return f"lycoris_{'' if target.net == 'unet' else text}{theirs}".replace(".", "_") + f".{part}"
    if naming == "ldm":
        clip = {"te1": "clip_l" if small.label != "SD 2.x" else "clip_h", "te2": "clip_g"}.get(target.net)
        return f"diffusion_model.{target.path}.{part}" if clip is None else (
            f"text_encoders.{clip}.transformer.{text}{target.path}.{part}"
        )  # fmt: skip
    base = "unet." if target.net == "unet" else f"{te}.{text}"
    if naming == "diffusers old":  # processors of their own for attentions, 2023
        theirs = re.sub(r"(attn\d)\.to_(q|k|v|out)(?:\.0)?$", r"\1.processor.to_\2_lora", theirs)
        theirs = re.sub(r"self_attn\.(q|k|v|out)_proj$", r"self_attn.to_\1_lora", theirs)
        return f"{base}{theirs}.{part.removeprefix('lora_')}"
    if naming == "diffusers":
        return f"{base}{theirs}.{DIFFUSERS_PARTS.get(part, part)}"
    if naming == "peft":
        return f"{base}{theirs}.{PEFT_PARTS.get(part, part)}"
    assert naming == "peft raw"
    return f"base_model.model.{'' if target.net == 'unet' else text}{theirs}.{PEFT_PARTS.get(part, part)}"


def write_adapter(
    path: Path,
    small: Small,
    layers: Mapping[Target, Mapping[str, Tensor]],
    naming: str = "kohya",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """An adapter file for a net's layers: parts by their kohya names."""
    tensors = {
        key_of(small, target, part, naming): tensor.contiguous()
        for target, parts in layers.items()
        for part, tensor in parts.items()
    }
    save_file(tensors, path, dict(metadata or {}))
    return path


# ------------------------------------------------------------------------------------------------ formats


class Dice:
    """Random tensors of one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.3) -> Tensor:
        return torch.randn(shape, generator=self._generator) * scale


def number(value: float) -> Tensor:
    return torch.tensor(value)
