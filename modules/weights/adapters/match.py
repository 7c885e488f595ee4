"""Which layers of a model an adapter fits, and whether it was made for this family at all. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from modules.weights.adapters import table
from modules.weights.adapters.family import LABELS, declared
from modules.weights.adapters.file import Adapter
from modules.weights.keymaps import Keymap, LayerName, Target


@dataclass(frozen=True)
class Match:
    """`fitting`: layers by target. `unknown`: layers the model has not. `misfits`: layers of another size there.

    `refusal`: why the whole file is not used, as the rest of a sentence beginning with its name; None if it is.
    """

    fitting: Mapping[Target, LayerName]
    unknown: tuple[LayerName, ...]
    misfits: tuple[LayerName, ...]
    refusal: str | None = None

    @property
    def layers(self) -> int:
        return len(self.fitting) + len(self.unknown) + len(self.misfits)


def match(adapter: Adapter, keys: Keymap, modules: Mapping[Target, nn.Module], family: str, label: str) -> Match:
    """Compare names and shapes; only the header of the file is needed.

    A file of another family shares some layers by chance, so it is judged as a whole: refused where a layer that reads
    the text is of another width, where less than half of it fits, or where it says so itself and nothing shows
    otherwise. `family`, `label`: of the model.
    """
    fitting: dict[Target, LayerName] = {}
    unknown: list[LayerName] = []
    misfits: list[LayerName] = []
    tried: dict[tuple, bool] = {}  # most layers are alike, and trying one takes milliseconds
    for layer in adapter.layers:
        target = keys.get(layer)
        if target is None:
            unknown.append(layer)
        else:
            module = modules[target]
            alike = (adapter.signature(layer), module.weight.shape, getattr(module, "bias", None) is None)
            if alike not in tried:
                tried[alike] = _fits(adapter, layer, module)
            if tried[alike]:
                fitting[target] = layer
            else:
                misfits.append(layer)
    said = declared(adapter.file.header.metadata)
    reads_text = [layer for layer in misfits if _reads_text(layer)]
    confirmed = any(_reads_text(layer) for layer in fitting.values())
    wrong = (
        bool(reads_text)
        or len(fitting) < len(unknown) + len(misfits)
        or (said is not None and said != family and not confirmed)
    )
    refusal = _refusal(adapter, family, label, len(fitting)) if adapter.layers and wrong else None
    return Match(fitting, tuple(unknown), tuple(misfits), refusal)


def _refusal(adapter: Adapter, family: str, label: str, fitting: int) -> str:
    made_for = adapter.family
    if made_for is not None and made_for != family:
        return f"is made for {LABELS[made_for]}, the checkpoint is {label}; choose one made for {label}"
    return f"does not fit this checkpoint ({label}): {fitting} of its {len(adapter.layers)} layers match"


def _reads_text(layer: LayerName) -> bool:
    return layer.scope in ("unet", "") and layer.name.endswith(("attn2_to_k", "attn2_to_v"))


def _fits(adapter: Adapter, layer: LayerName, module: Any) -> bool:
    """Whether the parts give a change of the module's weight: tried out on shapes without content."""
    parts = adapter.shapes(layer)
    weight, bias = module.weight, getattr(module, "bias", None)
    chosen = table.format_of(parts)
    biased = table.changes_bias(parts)
    if chosen is None and not biased:
        return False
    try:
        if chosen is not None:
            table.changed(parts, weight.to("meta"), 1.0)
        if biased:
            if bias is None:
                return chosen is not None  # some trainers write a bias for layers that have none
            table.changed_bias(parts, bias.to("meta"), 1.0)
    except (RuntimeError, ValueError, KeyError, IndexError):
        return False
    return True
