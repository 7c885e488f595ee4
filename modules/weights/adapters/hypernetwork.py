"""Hypernetworks: small nets that change what attention takes its keys and values from.

One pair of nets for each width of a context; each is h(x) = x + multiplier · f(x) with f a stack of linear layers,
activations and layer norms. Several act one after the other. As A1111 writes them:

    {320: (state of k, state of v), 640: …, "layer_structure": [1, 2, 1], "activation_func": "relu", …}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.memory.devices import is_memory
from modules.nets.attention import ContextMap
from modules.schema.errors import BadFile
from modules.weights.reading import open_model, plain_values

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "swish": nn.Hardswish,  # A1111's name for it
    **{
        cls.__name__.lower(): cls
        for cls in (
            nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.ReLU6,
            nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.Softshrink,
            nn.Hardshrink, nn.LogSigmoid, nn.RReLU, nn.PReLU,
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class Hypernetwork:
    """`pairs`: width of a context -> (k net, v net), in float32."""

    name: str
    pairs: Mapping[int, tuple[nn.Sequential, nn.Sequential]]


def open_hypernetwork(path: Path, device: torch.device) -> Hypernetwork:
    """Read a file as A1111 writes them.

    Raises:
        BadFile: it is damaged, no hypernetwork, or uses an activation nobody knows.
    """
    said = plain_values(path)
    states: dict[int, dict[str, dict[str, Tensor]]] = {}
    with open_model(path) as file:
        for key in file.header.tensors:
            width, _, rest = key.partition(".")
            side, _, name = rest.partition(".")
            if not width.isdigit() or side not in ("0", "1") or not name:
                continue
            name = name.replace("linear1.", "linear.0.").replace("linear2.", "linear.1.").removeprefix("linear.")
            states.setdefault(int(width), {}).setdefault(side, {})[name] = file.tensor(key)
    if not states:
        raise BadFile(f"{path.name} is no hypernetwork: it has no nets for any width; get it again from its source.")
    try:
        pairs = {
            width: (_net(width, said, sides["0"], device), _net(width, said, sides["1"], device))
            for width, sides in states.items()
        }
    except (KeyError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        if is_memory(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise BadFile(f"{path.name} is no intact hypernetwork ({reason}); get it again from its source.") from None
    return Hypernetwork(path.stem, pairs)


def empty_net(width: int, said: Mapping[str, Any]) -> nn.Sequential:
    """The net a file's entries describe, for contexts of that width.

    Raises:
        ValueError: an activation nobody knows, or a structure that does not begin and end with 1.
    """
    structure = [float(s) for s in said.get("layer_structure") or (1, 2, 1)]
    activation = str(said.get("activation_func") or "linear").lower()
    if activation != "linear" and activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}")
    if len(structure) > 32 or structure[0] != 1 or structure[-1] != 1:
        raise ValueError(f"layer structure {structure}")
    activate_output = said.get("activate_output", True)
    dropout = _dropout(said, len(structure))
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(structure)):
        last = i == len(structure) - 2
        layers.append(nn.Linear(int(width * before), int(width * after)))
        if activation != "linear" and (not last or activate_output):
            layers.append(ACTIVATIONS[activation]())
        if said.get("is_layer_norm"):
            layers.append(nn.LayerNorm(int(width * after)))
        if dropout[i + 1] > 0:
            layers.append(nn.Dropout(p=dropout[i + 1]))
    return nn.Sequential(*layers)


def _net(width: int, said: Mapping[str, Any], state: dict[str, Tensor], device: torch.device) -> nn.Sequential:
    with torch.device("meta"):
        net = empty_net(width, said)
    net.load_state_dict({name: t.to(device, torch.float32) for name, t in state.items()}, strict=True, assign=True)
    return net.eval().requires_grad_(False)


def _dropout(said: Mapping[str, Any], layers: int) -> list[float]:
    """How much is dropped behind each layer while training; here it only tells which places of the stack are taken."""
    structure = said.get("dropout_structure")
    if said.get("use_dropout") and structure is None:
        last = 0.3 if said.get("last_layer_dropout") else 0.0
        structure = [0.0, *[0.3] * (layers - 3), last, 0.0][:layers]
    if structure is None:
        return [0.0] * layers
    if len(structure) != layers:
        raise ValueError(f"dropout structure {structure}")
    return [float(p) for p in structure]


def context_map(networks: Sequence[tuple[Hypernetwork, float]]) -> ContextMap | None:
    """All of them, one after the other, each with its multiplier; None where there is none."""
    active = [(network, multiplier) for network, multiplier in networks if multiplier]
    if not active:
        return None

    def mapped(context: Tensor) -> tuple[Tensor, Tensor]:
        k = v = context
        for network, multiplier in active:
            pair = network.pairs.get(context.shape[-1])
            if pair is not None:
                k = k + (pair[0](k.float()) * multiplier).to(k.dtype)
                v = v + (pair[1](v.float()) * multiplier).to(v.dtype)
        return k, v

    return mapped
