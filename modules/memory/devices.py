"""What machine this is: the device that draws, its memory, the number types it is good at.

`detect()` is the only place that asks; everything else takes `DeviceFacts`, so any machine can be made up in a test.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from modules.memory.machine import DeviceFacts, DeviceKind
from modules.schema.errors import OutOfMemory


def detect(use_cpu: bool = False, index: int = 0) -> DeviceFacts:
    """The best device of this machine: CUDA (or ROCm) card number `index`, else Intel's, else Apple's GPU, else the
    CPU."""
    ram = psutil.virtual_memory().total
    if not use_cpu and torch.cuda.is_available():
        card = torch.cuda.get_device_properties(index)
        capability = (card.major, card.minor)
        # GTX 16xx cards answer float16 convolutions with NaN: a black picture.
        fp16 = capability >= (5, 3) and "GTX 16" not in card.name
        bf16 = torch.version.hip is not None or capability >= (8, 0)
        fp8 = torch.version.hip is None and capability >= (8, 9)
        more = frozenset(["xformers"] * bool(find_spec("xformers")) + ["fp8"] * fp8)
        memory = int(card.total_memory * torch.cuda.get_per_process_memory_fraction(index))
        return DeviceFacts("cuda", card.name, memory, ram, fp16, bf16, index, torch.get_num_threads(), more)
    if not use_cpu and torch.xpu.is_available():
        found = torch.xpu.get_device_properties(index)
        bf16 = torch.xpu.is_bf16_supported()
        return DeviceFacts("xpu", found.name, found.total_memory, ram, True, bf16, index, torch.get_num_threads())
    if not use_cpu and torch.backends.mps.is_available():
        return DeviceFacts("mps", "Apple GPU", ram, ram, fp16=True, threads=torch.get_num_threads())
    features = cpu_features()
    return DeviceFacts(
        "cpu",
        platform.processor() or platform.machine(),
        ram,
        ram,
        fp16="avx512_fp16" in features or "amx_fp16" in features,
        bf16="avx512_bf16" in features or "amx_bf16" in features,
        threads=torch.get_num_threads(),
        features=features,
    )


def cpu_features(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The CPU's flags where the system tells them (Linux), else nothing."""
    if os.name != "posix" or not path.exists():
        return frozenset()
    for line in path.read_text("utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def empty_cache(kind: DeviceKind) -> None:
    """Let others have what torch keeps of a device for later."""
    if kind != "cpu":
        torch.get_device_module(kind).empty_cache()


FULL = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to) allocate|alloc_failed|out_of_(device|host)_memory"
    r"|unable to find an engine to execute",
    re.IGNORECASE,
)
"""How allocators say it that have no error of their own for it: of the processor, cuBLAS, cuDNN (which looks for a way
that needs less memory, and does not find one), Metal, Level Zero."""


def is_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: ours, Python's, the system's, torch's for a card or the processor."""
    if isinstance(error, (OutOfMemory, MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and FULL.search(str(error)) is not None
