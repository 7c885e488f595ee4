"""Hypernetworks as A1111 writes them, of every activation and structure, against a forward pass written out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.schema.errors import BadFile
from modules.weights.adapters.apply import Network
from modules.weights.adapters.hypernetwork import ACTIVATIONS, context_map, open_hypernetwork
from tests.weights.adapters.nets import Dice, Small
from tests.weights.adapters.test_apply import draw

CPU = torch.device("cpu")


def write(path: Path, widths: tuple[int, ...], dice: Dice, **said: Any) -> dict[Any, Any]:
    """A file as A1111 saves it, and its content. `said`: its settings."""
    said = {
        "step": 5, "name": path.stem, "layer_structure": [1, 2, 1], "activation_func": "relu", "is_layer_norm": False,
        "activate_output": False, "use_dropout": False, "dropout_structure": None, "last_layer_dropout": False,
    } | said  # fmt: skip
    content: dict[Any, Any] = {width: (_state(width, said, dice), _state(width, said, dice)) for width in widths}
    content |= {key: value for key, value in said.items() if value != "absent"}
    torch.save(content, path)
    return content


def _dropped(said: dict[str, Any]) -> list[float]:
    structure = said["layer_structure"]
    if said["dropout_structure"] not in (None, "absent"):
        return said["dropout_structure"]
    if not said["use_dropout"] or said["use_dropout"] == "absent":
        return [0] * len(structure)
    return [0, *[0.3] * (len(structure) - 3), 0.3 if said["last_layer_dropout"] else 0, 0]


def _modules(said: dict[str, Any]) -> list[str]:
    """What stands at each place of the stack."""
    places = []
    steps = len(said["layer_structure"]) - 1
    for i in range(steps):
        places.append("linear")
        if said["activation_func"] not in (None, "linear") and (i < steps - 1 or said["activate_output"]):
            places.append("activation")
        if said["is_layer_norm"]:
            places.append("norm")
        if _dropped(said)[i + 1] > 0:
            places.append("dropout")
    return places


def _state(width: int, said: dict[str, Any], dice: Dice) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    sizes = iter(pairwise(int(width * s) for s in said["layer_structure"]))
    out = width
    for place, kind in enumerate(_modules(said)):
        if kind == "linear":
            before, out = next(sizes)
            state |= {f"linear.{place}.weight": dice(out, before), f"linear.{place}.bias": dice(out)}
        elif kind == "norm":
            state |= {f"linear.{place}.weight": 1 + dice(out), f"linear.{place}.bias": dice(out)}
        elif kind == "activation" and said["activation_func"] == "prelu":
            state[f"linear.{place}.weight"] = torch.tensor([0.3])  # the one that learns
    return state


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "swish": F.hardswish, "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "elu": F.elu,
    "leakyrelu": F.leaky_relu, "gelu": F.gelu, "mish": F.mish, "hardswish": F.hardswish, "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid, "relu6": F.relu6, "selu": F.selu, "celu": F.celu, "silu": F.silu,
    "softplus": F.softplus, "softsign": F.softsign, "tanhshrink": F.tanhshrink, "softshrink": F.softshrink,
    "hardshrink": F.hardshrink, "logsigmoid": F.logsigmoid, "rrelu": F.rrelu, "prelu": F.prelu,
}  # fmt: skip


def forward(x: Tensor, state: dict[str, Tensor], said: dict[str, Any]) -> Tensor:
    """The stack, one thing after the other."""
    for place, kind in enumerate(_modules(said)):
        if kind == "linear":
            x = x @ state[f"linear.{place}.weight"].T + state[f"linear.{place}.bias"]
        elif kind == "activation":
            learned = (state[f"linear.{place}.weight"],) if said["activation_func"] == "prelu" else ()
            x = FUNCTIONS[said["activation_func"]](x, *learned)
        elif kind == "norm":
            x = F.layer_norm(x, x.shape[-1:], state[f"linear.{place}.weight"], state[f"linear.{place}.bias"])
    return x


SETTINGS: list[dict[str, Any]] = [
    {},
    {"activation_func": "linear"},
    {"activation_func": None},
    *({"activation_func": name, "activate_output": True} for name in ACTIVATIONS),
    {"activate_output": True},
    {"is_layer_norm": True},
    {"is_layer_norm": True, "activate_output": True, "layer_structure": [1, 1.5, 1.5, 1]},
    {"use_dropout": True, "layer_structure": [1, 2, 2, 1]},
    {"use_dropout": True, "last_layer_dropout": True, "layer_structure": [1, 2, 2, 1]},
    {"dropout_structure": [0, 0.1, 0.2, 0], "layer_structure": [1, 2, 4, 1], "is_layer_norm": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_structure_maps_as_written_out(tmp_path: Path, settings: dict[str, Any], test_seed: int) -> None:
    dice = Dice(test_seed)
    content = write(tmp_path / "h.pt", (8, 16), dice, **settings)
    mapped = context_map([(open_hypernetwork(tmp_path / "h.pt", CPU), 0.7)])
    assert mapped is not None
    for width in (8, 16):
        x = dice(2, 3, width, scale=1)
        for got, state in zip(mapped(x), content[width]):
            torch.testing.assert_close(got, x + 0.7 * forward(x, state, content))


def test_what_old_files_leave_out(tmp_path: Path, test_seed: int) -> None:
    dice = Dice(test_seed)
    content = write(tmp_path / "h.pt", (8,), dice, activate_output=True)
    stripped = {key: value for key, value in content.items() if key not in (
        "activate_output", "layer_structure", "is_layer_norm", "use_dropout", "dropout_structure",
        "last_layer_dropout",
    )}  # fmt: skip
    torch.save(stripped, tmp_path / "old.pt")
    mapped = context_map([(open_hypernetwork(tmp_path / "old.pt", CPU), 1.0)])
    assert mapped is not None
    x = dice(1, 2, 8)
    torch.testing.assert_close(mapped(x)[0], x + forward(x, content[8][0], content))
    renamed = {
        8: tuple({key.replace("linear.0.", "linear1.").replace("linear.1.", "linear2."): value
                  for key, value in state.items()} for state in write(
                      tmp_path / "x.pt", (8,), dice, activation_func=None)[8])
    }  # fmt: skip
    torch.save(renamed, tmp_path / "older.pt")
    assert open_hypernetwork(tmp_path / "older.pt", CPU).pairs.keys() == {8}


def test_several_act_one_after_the_other(tmp_path: Path, test_seed: int) -> None:
    dice = Dice(test_seed)
    write(tmp_path / "a.pt", (8,), dice)
    write(tmp_path / "b.pt", (8,), dice)
    a, b = (open_hypernetwork(tmp_path / f"{name}.pt", CPU) for name in "ab")
    both, first, second = context_map([(a, 0.5), (b, 0.3)]), context_map([(a, 0.5)]), context_map([(b, 0.3)])
    assert both is not None
    assert first is not None
    assert second is not None
    x = dice(1, 2, 8)
    torch.testing.assert_close(both(x)[0], second(first(x)[0])[0])
    torch.testing.assert_close(both(x)[1], second(first(x)[1])[1])
    other = dice(1, 2, 12)
    assert torch.equal(both(other)[0], other)
    assert context_map([(a, 0.0)]) is None


def test_it_changes_what_a_denoiser_sees_and_nothing_else(tmp_path: Path, test_seed: int) -> None:
    small, dice = Small.of("SD 1.x", test_seed), Dice(test_seed)
    write(tmp_path / "h.pt", (small.unet.config.context_dim,), dice)
    pristine, networks = small.digest(), small.networks()
    outcome = networks.apply([Network(tmp_path / "h.pt", "h", unet=0.5, is_hypernetwork=True)])
    assert outcome.applied == ("h",)
    assert small.digest() == pristine
    x, t, context = dice(1, 4, 8, 8, scale=1), torch.tensor([500.0]), dice(1, 5, 32, scale=1)
    with torch.no_grad():
        plain = small.unet(x, t, context)
        changed = small.unet(x, t, context, context_map=outcome.context_map)
    assert (plain - changed).abs().max() > 1e-4
    assert torch.equal(draw(small.unet, test_seed), draw(small.unet, test_seed))
    assert networks.apply([]).context_map is None


def test_one_for_other_widths_is_refused(tmp_path: Path, test_seed: int) -> None:
    small = Small.of("SD 1.x", test_seed)
    write(tmp_path / "h.pt", (48,), Dice(test_seed))
    outcome = small.networks().apply([Network(tmp_path / "h.pt", "h", is_hypernetwork=True)])
    assert outcome.refused == ("h",)
    assert "contexts of 48" in outcome.warnings[0]


@pytest.mark.parametrize(
    "damage", [{"activation_func": "exec"}, {"layer_structure": [1, 3, 1]}, {"layer_structure": [2, 2, 1]}]
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, damage: dict[str, Any], test_seed: int) -> None:
    content = write(tmp_path / "h.pt", (8,), Dice(test_seed))
    torch.save(content | damage, tmp_path / "h.pt")
    with pytest.raises(BadFile, match=r"h\.pt is no intact hypernetwork"):
        open_hypernetwork(tmp_path / "h.pt", CPU)
