"""Adapters on a loaded model: which weights change, and how they come back.

    networks = Networks(unet, towers, source, "sd1", "SD 1.x")
    outcome = networks.apply((Network(path, "ink", text_encoder=0.8, unet=0.8),))
    networks.apply(())                      # every weight is again what the checkpoint's file says, bit for bit

A changed weight is always made anew from the checkpoint's file, never from what is in memory, so nothing adds up. Only
weights whose recipe (which adapters, how strong) differs from what is in memory are touched. Several adapters on one
weight act in the order they are named, each on what the one before made, as in A1111; for all formats that do not look
at the weight that is a sum, in which the order does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modules.nets.attention import ContextMap
from modules.nets.layers import Delta
from modules.nets.packed import Packed
from modules.nets.unet import UNet
from modules.schema.errors import BadFile
from modules.weights.adapters import blocks, table
from modules.weights.adapters.file import Adapter, open_adapter
from modules.weights.adapters.hypernetwork import Hypernetwork, context_map, open_hypernetwork
from modules.weights.adapters.match import Match, match
from modules.weights.keymaps import Keymap, Target, block_of, keymap


class Source(Protocol):
    """Where pristine weights come from."""

    def __call__(self, target: Target, name: str) -> Tensor:
        """ "weight" or "bias" of a layer as the checkpoint's file holds it, in the file's number type; not to be
        written to."""
        ...

    def close(self) -> None:
        """Let go of what was opened for that; it is opened again when asked."""
        ...


@dataclass(frozen=True)
class Network:
    """One file and how strong it is. `text_encoder`, `unet`: multipliers. `ranks`: how many of a LoRA's are used.

    `blocks`: block weights as written in `lbw=`. A hypernetwork has one multiplier, `unet`.
    """

    path: Path
    name: str
    text_encoder: float = 1.0
    unet: float = 1.0
    ranks: int | None = None
    blocks: str = ""
    is_hypernetwork: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a set of networks. `applied`, `refused`: names. `warnings`: sentences for the user.

    `embeddings`: bundled ones, name -> vector name -> rows [n, D]; `bundled_by`: which network each came with.
    `text_key` is equal for equal text encoders.
    """

    applied: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    context_map: ContextMap | None = None
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    bundled_by: Mapping[str, str] = field(default_factory=dict)
    text_key: tuple = ()


@dataclass(frozen=True)
class _Step:
    """One adapter's part in a weight."""

    file: _Opened
    target: Target
    multiplier: float
    ranks: int | None

    @property
    def key(self) -> tuple:
        return (self.file.stamp, self.multiplier, self.ranks)


@dataclass(frozen=True, eq=False)
class _Opened:
    """`stamp` names one state of a file."""

    stamp: tuple[str, int, int]
    adapter: Adapter
    match: Match


class Networks:
    """All that adapters do to one loaded model. `beside`: weights stay as they are, layers hold a delta instead."""

    def __init__(
        self,
        unet: UNet,
        towers: Sequence[nn.Module],
        source: Source,
        family: str,
        label: str,
        device: torch.device,
        beside: bool = False,
    ) -> None:
        self._nets: dict[str, nn.Module] = {"unet": unet, **{f"te{n}": net for n, net in enumerate(towers, 1)}}
        self._source, self._family, self._label, self._device = source, family, label, device
        self._beside = beside
        self._unet, self._towers = unet, towers
        self._keys: Keymap | None = None
        self._modules: dict[Target, nn.Module] = {}
        self._files: dict[tuple[str, int, int], _Opened | Hypernetwork | BadFile] = {}
        self._recipes: dict[Target, tuple] = {}
        self._wanted: tuple[Network, ...] = ()
        self._outcome = Outcome()

    @property
    def wanted(self) -> tuple[Network, ...]:
        """The networks asked for last."""
        return self._wanted

    @property
    def outcome(self) -> Outcome:
        """Of the networks that are applied now."""
        return self._outcome

    def apply(self, wanted: Sequence[Network]) -> Outcome:
        """Make the model one with exactly these networks; the same as before costs nothing.

        A file that is missing, damaged or of another family is left out and named in the warnings. After an exception
        no network is applied at all.
        """
        wanted = tuple(wanted)
        if not wanted and not self._wanted:
            return self._outcome
        stamps = tuple(_stamp(network.path) for network in wanted)
        if wanted == self._wanted and all(stamp in self._files for stamp in stamps if stamp):
            return self._outcome
        try:
            outcome, steps = self._plan(wanted, stamps)
            self._carry_out(steps)
        except BaseException:
            self.restore()
            raise
        self._wanted, self._outcome = wanted, outcome
        self._files = {stamp: self._files[stamp] for stamp in stamps if stamp in self._files}
        return outcome

    def restore(self) -> None:
        """Bring every weight back."""
        self._wanted, self._outcome = (), Outcome()
        self._carry_out({})

    # ------------------------------------------------------------------------------------------------ planning

    def _plan(self, wanted: tuple[Network, ...], stamps: tuple) -> tuple[Outcome, dict[Target, list[_Step]]]:
        """Open the files and decide what is done to which weight; nothing is changed yet."""
        steps: dict[Target, list[_Step]] = {}
        applied, refused, warnings = [], [], []
        hypernetworks: list[tuple[Hypernetwork, float]] = []
        bundled: dict[str, Mapping[str, Tensor]] = {}
        bundled_by: dict[str, str] = {}
        for network, stamp in zip(wanted, stamps):
            try:
                opened = self._open(network, stamp)
            except BadFile as error:
                refused.append(network.name)
                warnings.append(f"{network.name} was not applied: {error.message}")
                continue
            if isinstance(opened, Hypernetwork):
                if opened.pairs.keys().isdisjoint(self._context_widths()):
                    refused.append(network.name)
                    warnings.append(
                        f"{network.name} was not applied: this hypernetwork has nets for contexts of "
                        f"{', '.join(map(str, sorted(opened.pairs)))}, none of which {self._label} has; choose another."
                    )
                else:
                    applied.append(network.name)
                    hypernetworks.append((opened, network.unet))
                continue
            if opened.match.refusal:
                refused.append(network.name)
                warnings.append(f"{network.name} was not applied: it {opened.match.refusal}.")
                continue
            factors = self._block_factors(network)
            if factors is None:
                warnings.append(
                    f"lbw={network.blocks} of {network.name} was ignored: give 17, 26, 12 or 20 numbers, a preset such "
                    "as OUTALL, or block names such as IN04+M00."
                )
                factors = {}
            warnings += _told(network.name, opened)
            applied.append(network.name)
            for target in opened.match.fitting:
                strength = network.text_encoder if target.is_text else network.unet
                strength *= factors.get(block_of(target), 1.0)
                if strength:
                    steps.setdefault(target, []).append(_Step(opened, target, strength, network.ranks))
            for name, vectors in opened.adapter.bundled.items():
                bundled[name] = {vector: opened.adapter.file.tensor(key).clone() for vector, key in vectors.items()}
                bundled_by[name] = network.path.stem
        text_key = tuple((target, tuple(s.key for s in on)) for target, on in steps.items() if target.is_text)
        outcome = Outcome(
            tuple(applied), tuple(refused), tuple(warnings), context_map(hypernetworks), bundled, bundled_by, text_key
        )
        return outcome, steps

    def _open(self, network: Network, stamp: tuple[str, int, int] | None) -> _Opened | Hypernetwork:
        if stamp is None:
            raise BadFile(f"{network.path.name} is gone; put it back into {network.path.parent.name}.")
        if stamp not in self._files:
            try:
                self._files[stamp] = self._read(network, stamp)
            except BadFile as error:
                self._files[stamp] = error
        found = self._files[stamp]
        if isinstance(found, BadFile):
            raise found
        return found

    def _read(self, network: Network, stamp: tuple[str, int, int]) -> _Opened | Hypernetwork:
        if network.is_hypernetwork:
            return open_hypernetwork(network.path, self._device)
        adapter = open_adapter(network.path)
        keys = self._names()
        return _Opened(stamp, adapter, match(adapter, keys, self._modules, self._family, self._label))

    def _names(self) -> Keymap:
        if self._keys is None:
            self._keys = keymap(self._unet, self._towers)
            for target in set(self._keys.values()):
                self._modules[target] = self._nets[target.net].get_submodule(target.path)
        return self._keys

    def _context_widths(self) -> set[int]:
        self._names()
        return {
            module.in_features
            for target, module in self._modules.items()
            if target.path.endswith(".to_k") and isinstance(module, nn.Linear)
        }

    def _block_factors(self, network: Network) -> Mapping[str, float] | None:
        if not network.blocks:
            return {}
        self._names()
        return blocks.block_weights(network.blocks, frozenset(map(block_of, self._modules)) - {""})

    # ------------------------------------------------------------------------------------------------ carrying out

    @torch.no_grad()
    def _carry_out(self, steps: Mapping[Target, list[_Step]]) -> None:
        try:
            self._write_all(steps)
        finally:
            self._source.close()
            if not self._beside:  # nothing of the files is needed now, and a file in use could not be replaced
                for opened in self._files.values():
                    if isinstance(opened, _Opened):
                        opened.adapter.file.close()

    def _write_all(self, steps: Mapping[Target, list[_Step]]) -> None:
        for target in [*steps, *(target for target in self._recipes if target not in steps)]:
            recipe = tuple(step.key for step in steps.get(target, ()))
            if self._recipes.get(target, ()) == recipe:
                continue
            self._recipes[target] = ("half-way",)  # should writing fail, this one must be restored whatever it was
            self._write(target, steps.get(target, []))
            if recipe:
                self._recipes[target] = recipe
            else:
                del self._recipes[target]

    def _write(self, target: Target, steps: list[_Step]) -> None:
        module: Any = self._modules[target]
        if self._beside and hasattr(module, "delta"):
            module.delta = self._delta(steps, again=True) if steps else None
            return
        for name, value in self._values(target, module, steps):
            if isinstance(module, Packed):
                module.put(name, value)
            else:
                _put(module, name, value)

    def _values(self, target: Target, module: Any, steps: list[_Step]) -> list[tuple[str, Tensor]]:
        """The pristine tensors of a layer, or with `steps` the changed ones."""
        weight = self._source(target, "weight")
        bias = self._source(target, "bias") if getattr(module, "bias", None) is not None else None
        if steps:
            # A packed layer's weight is a shape without content; it lies on the CPU.
            device = torch.device("cpu") if module.weight.is_meta else module.weight.device
            weight, bias = self._delta(steps)(weight.to(device), None if bias is None else bias.to(device))
        return [("weight", weight), *([("bias", bias)] if bias is not None else [])]

    def _delta(self, steps: list[_Step], again: bool = False) -> Delta:
        def changed(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
            for step in steps:
                layer = step.file.match.fitting[step.target]
                parts = step.file.adapter.parts(layer, weight.device, again)
                weight = table.changed(parts, weight, step.multiplier, step.ranks)
                if bias is not None:
                    bias = table.changed_bias(parts, bias, step.multiplier)
            return weight, bias

        return changed


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a parameter its value.

    On a card in its own memory, which a captured graph knows by address. On the CPU, where parameters may be the mapped
    file itself, as a new parameter: a changed weight is then the only copy, and a restored one is again the file.
    """
    parameter: nn.Parameter = getattr(module, name)
    with torch.inference_mode(parameter.is_inference()):  # such a tensor can be written to in that mode only
        if parameter.device.type == "cpu" and parameter.is_contiguous():
            setattr(module, name, nn.Parameter(value.to(parameter.dtype), requires_grad=False))
        else:
            parameter.copy_(value)


def _told(name: str, opened: _Opened) -> list[str]:
    """What to say of the keys that did not match."""
    match, unread = opened.match, opened.adapter.unread
    told = []
    if match.unknown or match.misfits:
        left_out = [*match.unknown, *match.misfits]
        told.append(
            f"{name}: {len(left_out)} of {match.layers} layers do not fit this checkpoint and were left out "
            f"(the first is {left_out[0]})."
        )
    if unread:
        told.append(f"{name}: {len(unread)} keys are of no known form and were left out (the first is {unread[0]}).")
    return told


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_size, status.st_mtime_ns
