"""Everything this room does to the machine outside its own files, in one small class that a test can stand in for."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.torch_choice import Machine


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it wrote to stderr."""

    code: int
    errors: str = ""


class System:
    """The running Python and its machine."""

    @property
    def python(self) -> str:
        return sys.executable

    @property
    def prefix(self) -> Path:
        """Folder of the venv that is running, or of Python itself."""
        return Path(sys.prefix)

    @property
    def in_a_venv(self) -> bool:
        return sys.prefix != sys.base_prefix

    @property
    def site_packages(self) -> Path:
        """Where pip installs; it changes its time stamp whenever a package comes or goes."""
        if os.name == "nt":
            return self.prefix / "Lib" / "site-packages"
        return self.prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def say(self, sentence: str) -> None:
        print(sentence, flush=True)

    def run(self, command: list[str], *, show_errors: bool = True) -> Finished:
        """Run to the end. Its output goes to the terminal as it comes; stderr is kept as well."""
        import subprocess  # 5 ms that a warm start does not need

        try:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        except OSError as error:
            return Finished(127, f"{command[0]}: {error.strerror}")
        kept = []
        with process:
            assert process.stderr is not None
            for line in process.stderr:
                kept.append(line)
                if show_errors:
                    sys.stderr.write(line)
        return Finished(process.returncode, "".join(kept))

    def pass_through(self, command: list[str]) -> int:
        """Run with the terminal as its own; the exit code."""
        import subprocess

        sys.stdout.flush()
        return subprocess.call(command)

    def replace(self, command: list[str]) -> NoReturn:
        """Become another program; never returns."""
        sys.stdout.flush()
        sys.stderr.flush()
        if os.name != "nt":
            try:
                os.execv(command[0], command)
            except OSError as error:
                raise BootstrapProblem(f"{command[0]} cannot be started: {error.strerror}.") from None
        import subprocess  # Windows has no exec: wait for the child and end as it ends

        with subprocess.Popen(command) as child:
            while True:
                try:
                    sys.exit(child.wait())
                except KeyboardInterrupt:
                    continue  # Ctrl+C reaches the child too, which decides

    def answers(self, address: str, seconds: float = 4.0) -> bool:
        """Whether an address can be reached, name look-up included, within `seconds`."""
        import threading
        import urllib.request

        found = []

        def ask() -> None:
            try:
                request = urllib.request.Request(address, method="HEAD")
                with urllib.request.urlopen(request, timeout=seconds) as answer:
                    found.append(answer.status < 400)
            except (OSError, ValueError):
                found.append(False)

        # A thread, because no timeout covers the name look-up.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(seconds)
        return bool(found and found[0])

    def free_bytes(self, folder: Path) -> int:
        """Room on the disk of a folder, which need not be there yet."""
        import shutil

        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def machine(self) -> Machine:
        return look()


def look(root: Path = Path("/")) -> Machine:
    """The facts that choose torch's build, from nvidia-smi and the kernel's files below `root`."""
    import platform

    system, arch = platform.system(), platform.machine()
    if system == "Darwin":
        return Machine(system, arch)
    driver, compute = _ask_nvidia_smi()
    if driver is None:
        driver = _driver_of_proc(root)
    nvidia = driver is not None
    return Machine(system, arch, nvidia, driver, compute, amd_architectures(root) if system == "Linux" else ())


def _ask_nvidia_smi() -> tuple[int | None, float | None]:
    """Driver's major version and lowest compute capability, or None twice."""
    import shutil
    import subprocess

    # Under WSL the tool may lie outside the search path.
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if tool is None:
        return None, None
    try:
        done = subprocess.run(
            [tool, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    return read_nvidia_smi(done.stdout) if done.returncode == 0 else (None, None)


def read_nvidia_smi(text: str) -> tuple[int | None, float | None]:
    """Lines of "580.65.06, 8.9", one per card."""
    drivers, computes = [], []
    for line in text.splitlines():
        driver, _, compute = line.partition(",")
        try:
            drivers.append(int(driver.strip().split(".")[0]))
            computes.append(float(compute))
        except ValueError:
            continue  # "[N/A]" from a driver too old to say
    return (min(drivers) if drivers else None), (min(computes) if computes else None)


def _driver_of_proc(root: Path) -> int | None:
    """The driver's major version when nvidia-smi is missing. In a container the device must be there as well."""
    import re

    if not (root / "dev/nvidiactl").exists():
        return None
    try:
        found = re.search(r"\s(\d+)\.\d+", (root / "proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return int(found[1]) if found else None


def amd_architectures(root: Path) -> tuple[str, ...]:
    """gfx names of the cards that the kernel's compute driver shows; empty without one.

    `gfx_target_version` is major * 10000 + minor * 100 + stepping; minor and stepping are written as hex in the name.
    """
    found = set()
    for file in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties")):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == "gfx_target_version" and value.isdigit() and int(value):
                number = int(value)
                found.add(f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}")
    return tuple(sorted(found))
