"""Which build of torch fits a machine: facts in, pip arguments out.

Builds of torch 2.13 (its release compatibility matrix): CUDA 12.6, 13.0 (the one of the default index on Linux) and
13.2, ROCm 7.2 (Linux), CPU. CUDA 13 needs driver 580 and a card of compute capability 7.5; older cards and drivers
have CUDA 12.6, which in turn does not know cards of 10.0 and above. The default index has the CPU build for Windows
and the Metal build for Apple silicon.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from modules.bootstrap.problem import BootstrapProblem

TORCH = "2.13.0"
TORCHVISION = "0.28.0"  # the one made for it; spandrel, which opens upscaler models, wants it
PACKAGES = (f"torch=={TORCH}", f"torchvision=={TORCHVISION}")
INDEX = "https://download.pytorch.org/whl"
CUDA_OLD, CUDA, ROCM, XPU = "cu126", "cu130", "rocm7.2", "xpu"
CUDA_13_DRIVER = 580
CUDA_13_COMPUTE = 7.5
CUDA_126_COMPUTE_END = 10.0
# The AMD architectures the ROCm build has kernels for; others (most graphics inside processors) draw faster on the CPU.
ROCM_ARCHITECTURES = frozenset((
    "gfx900", "gfx906", "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030",
    "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200", "gfx1201",
))  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Facts that decide. `system` and `arch` as platform.system() and platform.machine() say them.

    `driver`: major version of the NVIDIA driver; `compute`: lowest compute capability of the NVIDIA cards; both None
    where unknown. `amd`: architectures (gfx1100 ...) of AMD cards that the kernel driver shows.
    """

    system: str
    arch: str
    nvidia: bool = False
    driver: int | None = None
    compute: float | None = None
    amd: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """Arguments of one `python -m pip`. `probe`: an address that must answer first, or the next attempt is made."""

    pip: tuple[str, ...]
    probe: str | None = None


@dataclass(frozen=True)
class Choice:
    """What is installed (`build`, for the terminal) and the attempts, of which the first that succeeds counts."""

    build: str
    attempts: tuple[Attempt, ...]


def choose(machine: Machine, *, command: str | None = None, index_url: str | None = None) -> Choice:
    """The torch for this machine. `command` (TORCH_COMMAND) beats `index_url` (TORCH_INDEX_URL) beats the machine.

    Raises BootstrapProblem where no build exists.
    """
    if command:
        return Choice("torch as TORCH_COMMAND says", (Attempt(_tokens(command)),))
    if index_url:
        return Choice(f"torch {TORCH} from {index_url}", (_from(index_url),))

    x86 = machine.arch.lower() in ("x86_64", "amd64")
    if machine.system == "Darwin":
        if x86:
            raise BootstrapProblem(
                f"torch {TORCH} is not made for Macs with an Intel processor: Easel needs a Mac with Apple silicon, "
                "Linux or Windows (TORCH_COMMAND may name a torch of your own, 2.10 or newer)."
            )
        return Choice(f"torch {TORCH} for Apple silicon", (PLAIN,))

    if machine.nvidia and (x86 or machine.system == "Linux"):
        if _needs_cuda_12(machine):
            return Choice(f"torch {TORCH} for CUDA 12.6 (older card or driver)", (_from(f"{INDEX}/{CUDA_OLD}"),))
        if machine.system == "Linux":
            return Choice(f"torch {TORCH} for CUDA 13.0", (PLAIN,))
        return Choice(f"torch {TORCH} for CUDA 13.0", (_from(f"{INDEX}/{CUDA}"),))

    if machine.system == "Linux" and x86 and ROCM_ARCHITECTURES.intersection(machine.amd):
        return Choice(f"torch {TORCH} for ROCm 7.2", (_from(f"{INDEX}/{ROCM}"),))

    if machine.system == "Linux":
        # The default index would bring the CUDA build, some gigabytes that are of no use here. It stays the second
        # choice for machines that reach no other index.
        cpu = _from(f"{INDEX}/cpu", "--retries", "0", "--timeout", "15")
        return Choice(f"torch {TORCH} for the CPU", (Attempt(cpu.pip, probe=f"{INDEX}/cpu/torch/"), PLAIN))
    return Choice(f"torch {TORCH} for the CPU", (PLAIN,))


def _needs_cuda_12(machine: Machine) -> bool:
    if machine.compute is not None and machine.compute >= CUDA_126_COMPUTE_END:
        return False
    old_driver = machine.driver is not None and machine.driver < CUDA_13_DRIVER
    old_card = machine.compute is not None and machine.compute < CUDA_13_COMPUTE
    return old_driver or old_card


PLAIN = Attempt(("install", *PACKAGES))


def _from(index: str, *more: str) -> Attempt:
    return Attempt(("install", *PACKAGES, "--index-url", index, *more))


def _tokens(command: str) -> tuple[str, ...]:
    """`pip install torch==… --index-url …`, as A1111's users write it, without the leading pip."""
    try:
        tokens = shlex.split(command)
    except ValueError as error:
        raise BootstrapProblem(f"TORCH_COMMAND cannot be read ({error}).", exit_code=2) from None
    if tokens[:2] != ["pip", "install"] or len(tokens) < 3:
        raise BootstrapProblem(
            "TORCH_COMMAND must look like: pip install torch==2.13.0 --index-url <address>.", exit_code=2
        )
    return tuple(tokens[1:])
