"""An adapter file opened: its layers, its bundled embeddings, and what in it nobody can read. Tensors stay mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.schema.errors import BadFile
from modules.weights.adapters.family import family_of
from modules.weights.adapters.parts import NUMBERS, Parts
from modules.weights.build import pinned_copy
from modules.weights.keymaps import LayerName, split_key
from modules.weights.reading import DTYPES, ModelFile, open_model

BUNDLED = "bundle_emb."


@dataclass(frozen=True)
class Adapter:
    """`layers`: layer -> part -> key in the file. `unread`: keys of no known form. `scales`: what a PEFT config says.

    `bundled`: name of an embedding that comes along -> vector name ("clip_l", "emb_params", …) -> key.
    """

    path: Path
    file: ModelFile
    layers: Mapping[LayerName, Mapping[str, str]]
    unread: tuple[str, ...] = ()
    bundled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scales: Mapping[LayerName, float] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    """By key, in memory that a card copies from."""

    @property
    def family(self) -> str | None:
        header = self.file.header
        return family_of({key: info.shape for key, info in header.tensors.items()}, header.metadata)

    def parts(self, layer: LayerName, device: torch.device, again: bool = False) -> Parts:
        """The tensors of a layer, read now, on a device; single numbers stay where the program reads them. `again`:
        they will be asked for at every call, so a card copies them by itself."""
        found = {}
        for part, key in self.layers[layer].items():
            if again and device.type == "cuda" and part not in NUMBERS:
                if key not in self.kept:
                    self.kept[key] = pinned_copy(self.file.tensor(key))
                found[part] = self.kept[key].to(device, non_blocking=True)
            else:
                found[part] = self.file.tensor(key).to("cpu" if part in NUMBERS else device)
        return self._parts(layer, found)

    def shapes(self, layer: LayerName) -> Parts:
        """As `parts`, but nothing is read except single numbers: shapes without content (device "meta")."""
        return self._parts(layer, {part: self._shape_only(key) for part, key in self.layers[layer].items()})

    def signature(self, layer: LayerName) -> tuple:
        """Equal for layers that fit the same weights: names and shapes, and which axis an (IA)³ acts on."""
        tensors = self.file.header.tensors
        return tuple(
            (part, tensors[key].shape, bool(self.file.tensor(key).any()) if part == "on_input" else None)
            for part, key in sorted(self.layers[layer].items())
        )

    def _shape_only(self, key: str) -> Tensor:
        info = self.file.header.tensors[key]
        if sum(info.shape) <= len(info.shape):  # one element
            return self.file.tensor(key)
        dtype = DTYPES[info.dtype]
        return torch.empty(info.shape, dtype=torch.float32 if dtype.is_floating_point else dtype, device="meta")

    def _parts(self, layer: LayerName, tensors: dict[str, Tensor]) -> Parts:
        scale = self.scales.get(layer)
        if scale is not None and "alpha" not in tensors and "scale" not in tensors:
            tensors["scale"] = torch.tensor(scale)
        return Parts(tensors)


def open_adapter(path: Path) -> Adapter:
    """Open a file and sort its keys; no weight is read.

    Raises:
        BadFile: it is no intact model file, or no key of it is an adapter's.
    """
    file = open_model(path)
    layers: dict[LayerName, dict[str, str]] = {}
    bundled: dict[str, dict[str, str]] = {}
    unread: list[str] = []
    for key in file.header.tensors:
        if key.startswith(BUNDLED):
            name, _, vector = key.removeprefix(BUNDLED).partition(".")
            bundled.setdefault(name, {})[vector] = key
            continue
        found = split_key(key)
        if found is None:
            unread.append(key)
        else:
            layers.setdefault(found[0], {})[found[1]] = key
    if not layers and not bundled:
        raise BadFile(f"{path.name} holds no adapter: none of its {len(unread)} keys is of a known form.")
    scales = _peft_scales(layers, file)
    return Adapter(path, file, layers, tuple(unread), bundled, scales)


def _peft_scales(layers: Mapping[LayerName, Mapping[str, str]], file: ModelFile) -> dict[LayerName, float]:
    """Scales from PEFT's configuration: in the metadata (diffusers) or in adapter_config.json beside the file."""
    configs = _peft_configs(file)
    if not configs:
        return {}
    scales = {}
    for layer, parts in layers.items():
        config = configs.get(layer.scope) or configs.get("")
        if config:
            down = parts.get("lora_down.weight")
            rank = file.header.tensors[down].shape[0] if down else None
            rank = rank or _matching(config.get("rank_pattern"), layer, config.get("r"))
            alpha = _matching(config.get("alpha_pattern"), layer, config.get("lora_alpha", config.get("alpha")))
            if isinstance(alpha, (int, float)) and isinstance(rank, int) and rank > 0:
                scales[layer] = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return scales


def _peft_configs(file: ModelFile) -> dict[str, dict[str, Any]]:
    """By scope; "" is for every layer."""
    text = file.header.metadata.get("lora_adapter_metadata")
    beside = file.header.path.with_name("adapter_config.json")
    try:
        if text is None:
            if not beside.is_file() or beside.stat().st_size > 1_000_000:
                return {}
            text = beside.read_text("utf-8")
        said = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    configs: dict[str, dict[str, Any]] = {}
    for key, value in said.items():
        net, dot, name = key.partition(".")
        scope = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}.get(net) if dot else ""
        if scope is not None:
            configs.setdefault(scope, {})[name if dot else key] = value
    return configs


def _matching(pattern: Any, layer: LayerName, default: Any) -> Any:
    """The value of the entry whose (dotted) name the layer's ends with."""
    if isinstance(pattern, dict):
        for name, value in pattern.items():
            flat = str(name).replace(".", "_")
            if layer.name == flat or layer.name.endswith(f"_{flat}"):
                return value
    return default
