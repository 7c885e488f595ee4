"""Facts of a machine as plain values, and the names of devices and number types. Torch-free: the server predicts too.

Which machine this is, `memory.devices.detect` finds out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DeviceKind = Literal["cuda", "xpu", "mps", "cpu"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
"""Of one number of each type."""


@dataclass(frozen=True)
class DeviceFacts:
    """`memory` and `ram` in bytes (on CPU and MPS, which share it, `memory` is the RAM). `kind` "cuda" is also ROCm,
    "xpu" are Intel's cards.

    `fp16`, `bf16`: the device computes in them at speed and rightly. `features`: CPU flags such as "amx_bf16"; on a
    card "xformers", where that can be used, and "fp8", where it multiplies in 8 bits.
    """

    kind: DeviceKind
    name: str
    memory: int
    ram: int
    fp16: bool = False
    bf16: bool = False
    index: int = 0
    threads: int = 1
    features: frozenset[str] = frozenset()

    @property
    def on(self) -> str:
        """The device as torch names it."""
        return f"{self.kind}:{self.index}" if self.is_card else self.kind

    @property
    def is_card(self) -> bool:
        """Whether it has memory of its own, beside the RAM."""
        return self.kind in ("cuda", "xpu")

    @property
    def device(self) -> torch.device:
        return device_of(self.on)


def device_of(name: str) -> torch.device:
    import torch  # asked for by the engine alone

    return torch.device(name)


def dtype_of(name: str) -> torch.dtype:
    import torch  # as above

    return getattr(torch, name)
