"""The ControlNets that stand beside a loaded model: in memory as long as it is, made as its denoiser is made.

(net,) = model.controls.use([facts])      # others than these are let go of
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from modules.memory.pages import small_pages
from modules.memory.policy import Policy
from modules.memory.streaming import Stream
from modules.nets.attention import Attention
from modules.nets.controlnet import ControlNet
from modules.nets.layers import Ops
from modules.nets.streamed import Streamed, connect
from modules.nets.unet import UNetConfig
from modules.schema.errors import BadRequest
from modules.weights.build import control_blueprint, fill
from modules.weights.controls import FAMILIES, ControlFacts
from modules.weights.reading import open_header


class Controls:
    """Of one model. `unet`: the configuration of its denoiser; `ops`, `attention`, `stream`: what that is made with."""

    def __init__(
        self, name: str, unet: UNetConfig, policy: Policy, ops: Ops, attention: Attention, stream: Stream | None
    ) -> None:
        self._name, self._unet, self._policy = name, unet, policy
        self._ops, self._attention, self._stream = ops, attention, stream
        self._nets: dict[tuple[Path, tuple[int, int]], ControlNet] = {}

    def __iter__(self) -> Iterator[ControlNet]:
        return iter(list(self._nets.values()))

    def use(self, wanted: Sequence[ControlFacts], before: Callable[[], None] = lambda: None) -> list[ControlNet]:
        """The nets of these files, in their order; those that were there and are not wanted go. `before`: called where
        something is to be read.

        Raises:
            BadRequest: one is for another family of models.
            BadFile: one is damaged.
        """
        keys = [(facts.header.path, facts.stamp) for facts in wanted]
        for facts in wanted:
            self.check(facts)
        for key in [key for key in self._nets if key not in keys]:
            self._release(self._nets.pop(key))
        for key, facts in zip(keys, wanted):
            if key not in self._nets:
                before()
                self._nets[key] = self._load(facts)
        return [self._nets[key] for key in keys]

    def check(self, facts: ControlFacts) -> None:
        """Raises BadRequest where a ControlNet does not fit this model."""
        if not facts.fits(asdict(self._unet)):
            family = FAMILIES.get(self._unet.context_dim, "another kind of model")
            raise BadRequest(misfit(facts, self._name, family), field="controlnet")

    def clear(self) -> None:
        """Let go of all."""
        self.use(())

    def to(self, device: torch.device) -> None:
        """All of them, where they are not there yet."""
        for net in self:
            if any(parameter.device != device for parameter in net.parameters()):
                net.to(device)

    def _load(self, facts: ControlFacts) -> ControlNet:
        policy = self._policy
        net, component = control_blueprint(facts, self._unet, self._attention, self._ops)
        with open_header(facts.header) as file, small_pages():
            fill(
                net, file, component, policy.device, policy.denoiser_dtype, policy.channels_last, policy.storage_dtype,
                pinned=not policy.lean,
            )  # fmt: skip
        if policy.device.type == "cuda":
            net.fuse()
        if self._stream is not None:
            connect(net, self._stream.add, self._stream.take)
        return net

    def _release(self, net: ControlNet) -> None:
        if self._stream is not None:
            self._stream.remove([id(layer) for layer in net.modules() if isinstance(layer, Streamed)])


def misfit(facts: ControlFacts, checkpoint: str, family: str) -> str:
    """What to say where a ControlNet and a checkpoint do not go together."""
    return (
        f"The ControlNet {facts.header.path.stem} is for {facts.family} and {checkpoint} is {family}; choose a "
        f"ControlNet for {family}, or a checkpoint for this one."
    )
