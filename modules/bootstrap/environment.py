"""The Python that runs Easel: its venv, and the pinned packages in it.

A start goes: enter the venv (made if there is none) → compare the stamp → done. Only when the stamp does not fit are
packages compared, and only what is missing or of another version is installed. The stamp lies in the venv, so it goes
with it; it holds what was wanted and the time stamp of the packages' folder, which pip changes with every package.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.requirements import installed_version, missing, read_requirements, same_version
from modules.bootstrap.system import Finished, System
from modules.bootstrap.torch_choice import TORCH, choose

# Set for the moment between two Pythons, so that a venv that does not become the running one is no endless loop.
ENTERING = "EASEL_ENTERING_VENV"
ROOM_FOR_VENV = 50_000_000
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "2"]
PIP_MANNERS = ["--no-warn-script-location", "--prefer-binary"]


@dataclass(frozen=True)
class Wanted:
    """What the environment must hold.

    `venv`: its folder, or None for the Python that runs. `files`: requirements files, read together. `torch_command`,
    `torch_index`, `index`: TORCH_COMMAND, TORCH_INDEX_URL, INDEX_URL. `make`/`install` off: take things as they are.
    """

    venv: Path | None
    files: tuple[Path, ...]
    torch_command: str | None = None
    torch_index: str | None = None
    index: str | None = None
    make: bool = True
    install: bool = True
    reinstall_torch: bool = False
    stamp_name: str = "easel-packages.json"


def read_wanted(environ: Mapping[str, str], root: Path, system: System) -> Wanted:
    """The variables of webui-user.sh / webui-user.bat.

    An active venv is used as it is, as A1111 does, unless VENV_DIR names another; `-` or SKIP_VENV=1 means the running
    Python.
    """
    folder = environ.get("VENV_DIR") or environ.get("venv_dir") or ""
    if folder == "-" or environ.get("SKIP_VENV") == "1" or (not folder and system.in_a_venv):
        venv = None
    else:
        venv = root / os.path.expanduser(folder or "venv")
    return Wanted(
        venv=venv,
        files=(root / (environ.get("REQS_FILE") or "requirements.txt"),),
        torch_command=environ.get("TORCH_COMMAND") or None,
        torch_index=environ.get("TORCH_INDEX_URL") or None,
        index=environ.get("INDEX_URL") or None,
    )


def ensure(
    wanted: Wanted,
    again: list[str],
    system: System,
    environ: dict[str, str] | os._Environ[str],
    installed: Callable[[str], str | None] = installed_version,
) -> None:
    """Return when this very Python holds everything wanted; otherwise become the venv's Python, running `again`.

    `again`: the arguments after the Python's name that bring this program back here. Raises BootstrapProblem.
    """
    if wanted.venv is not None and os.path.realpath(system.prefix) != os.path.realpath(wanted.venv):
        _enter(wanted.venv, again, wanted.make, system, environ)
        return
    environ.pop(ENTERING, None)
    if not wanted.install:
        return
    stamp = system.prefix / wanted.stamp_name
    text = _stamp_text(wanted)
    old = _read_stamp(stamp)
    if old == {**text, "packages": _changed(system)} and not wanted.reinstall_torch:
        return
    _install_missing(wanted, old, system, installed)
    # Not to be written in a Python of the system: the packages are compared at each start instead, some 20 ms.
    with contextlib.suppress(OSError):
        stamp.write_text(json.dumps({**text, "packages": _changed(system)}), "utf-8")


# ---- the venv


def venv_python(venv: Path) -> Path:
    """The Python inside a venv."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def _enter(
    venv: Path, again: list[str], make: bool, system: System, environ: dict[str, str] | os._Environ[str]
) -> None:
    if environ.get(ENTERING) == str(venv):
        raise BootstrapProblem(
            f"The Python in {venv} does not run as a venv; delete that folder and start again, it is made anew."
        )
    python = venv_python(venv)
    if not python.exists():
        if not make:
            raise BootstrapProblem(
                f"There is no venv in {venv} and --skip-prepare-environment asks to make none: leave that flag away "
                "once, or set VENV_DIR to - to use the running Python."
            )
        _make_venv(venv, system)
    environ[ENTERING] = str(venv)
    system.replace([str(python), *again])


def _make_venv(venv: Path, system: System) -> None:
    if venv.is_dir() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise BootstrapProblem(
            f"{venv} holds something that is no venv; set VENV_DIR to another folder, or - for the running Python."
        )
    import importlib.util

    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise BootstrapProblem(
            f"This Python ({system.python}) has no venv module: install it (Debian, Ubuntu: apt install "
            f"python{version}-venv) and start again, or set VENV_DIR to - to use the running Python."
        )
    system.say(f"Making a venv in {venv} with Python {sys.version.split()[0]}")
    # --clear also mends a venv whose making was interrupted or whose Python is gone.
    done = system.run([system.python, "-m", "venv", "--clear", str(venv)], show_errors=False)
    if done.code != 0:
        # ensurepip keeps the cause to itself, and without room there is nothing else to look for.
        full = system.free_bytes(venv) < ROOM_FOR_VENV
        done = Finished(done.code, "no space left on device") if full else done
        raise BootstrapProblem(_why(done, f"The venv could not be made in {venv}"))


# ---- packages


def _stamp_text(wanted: Wanted) -> dict[str, object]:
    """All that decides what is installed; the files themselves instead of a hash, they are short."""
    return {
        "python": sys.version,
        "torch": [TORCH, wanted.torch_command, wanted.torch_index],
        "files": [_text(path) for path in wanted.files],
    }


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise BootstrapProblem(f"The requirements file {path} cannot be read: {error.strerror}.") from None


def _read_stamp(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _changed(system: System) -> int:
    """When a package last came or went, in nanoseconds; 0 if nobody can say."""
    try:
        return system.site_packages.stat().st_mtime_ns
    except OSError:
        return 0


def _install_missing(
    wanted: Wanted, old_stamp: dict[str, object], system: System, installed: Callable[[str], str | None]
) -> None:
    wishes = [requirement for path in wanted.files for requirement in read_requirements(path)]
    needed = missing(wishes, installed)
    torch = installed("torch")
    # Another TORCH_COMMAND or TORCH_INDEX_URL than last time is a wish for another build of the same version.
    other_source = bool(old_stamp) and old_stamp.get("torch") != [TORCH, wanted.torch_command, wanted.torch_index]
    own_torch = wanted.torch_command is not None and torch is not None
    fits = own_torch or (torch is not None and same_version(TORCH, torch))
    renew = wanted.reinstall_torch or other_source
    if not needed and fits and not renew:
        return
    _make_sure_of_pip(system)
    if renew or not fits:
        _install_torch(wanted, renew and torch is not None, system)
    if needed:
        names = ", ".join(r.name for r in needed)
        system.say(f"Installing {names} into {system.prefix}")
        files = [part for path in wanted.files for part in ("-r", str(path))]
        index = ["--index-url", wanted.index] if wanted.index else []
        done = system.run([system.python, *PIP, "install", *files, *index, *PIP_MANNERS])
        if done.code != 0:
            raise BootstrapProblem(_why(done, "The packages could not be installed"))


def _make_sure_of_pip(system: System) -> None:
    """A venv made by other tools, or one whose making was cut short, has no pip."""
    import importlib.util

    if importlib.util.find_spec("pip") is not None:
        return
    done = system.run([system.python, "-m", "ensurepip", "--upgrade", "--default-pip"], show_errors=False)
    if done.code != 0:
        raise BootstrapProblem(
            f"{system.prefix} has no pip and none can be added: delete that folder and start again, or set VENV_DIR."
        )


def _install_torch(wanted: Wanted, anew: bool, system: System) -> None:
    choice = choose(system.machine(), command=wanted.torch_command, index_url=wanted.torch_index)
    system.say(f"Installing {choice.build}; this is the largest part and happens once")
    done = Finished(1)
    for place, attempt in enumerate(choice.attempts):
        last = place == len(choice.attempts) - 1
        if attempt.probe is not None and not system.answers(attempt.probe):
            done = Finished(1, f"{attempt.probe} does not answer")
        else:
            arguments = list(attempt.pip)
            if wanted.index and "--index-url" not in arguments and not wanted.torch_command:
                arguments += ["--index-url", wanted.index]
            if anew:
                arguments += ["--force-reinstall"]
            done = system.run([system.python, *PIP, *arguments, *PIP_MANNERS], show_errors=last)
        if done.code == 0:
            return
        if not last:
            system.say("The smaller CPU build cannot be had from here; taking torch from the default index instead")
    raise BootstrapProblem(_why(done, "torch could not be installed"))


# ---- what went wrong, in one sentence

_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("no space left on device", "errno 28", "not enough space on the disk", "disk quota exceeded", "errno 122"),
        "the disk is full (the packages need about 2 GB, with CUDA about 8 GB); make room, or set VENV_DIR to a folder "
        "on another disk",
    ),
    (
        ("externally-managed-environment",),
        "this Python belongs to the operating system, which allows no packages in it; unset VENV_DIR, so that a venv "
        "is made",
    ),
    (
        ("read-only file system", "permission denied", "errno 13", "errno 30", "access is denied"),
        "the folder may not be written; start from a folder of your own, or set VENV_DIR to one",
    ),
    (
        (
            "newconnectionerror",
            "connecttimeouterror",
            "readtimeouterror",
            "name resolution",
            "name or service not known",
            "getaddrinfo failed",
            "network is unreachable",
            "connection refused",
            "max retries exceeded",
            "proxyerror",
            "sslerror",
            "nodename nor servname",
        ),
        "the package index cannot be reached; check the network (or set INDEX_URL, TORCH_INDEX_URL to one that can) "
        "and start again, what is already installed stays",
    ),
    (
        ("no matching distribution", "could not find a version"),
        "no build for this Python ({python}) on this machine is on the index; set PYTHON to a Python 3.10 to 3.14 and "
        "delete the venv folder",
    ),
)


def _why(done: Finished, what: str) -> str:
    """The cause that stderr tells, as a sentence with a remedy."""
    heard = done.errors.lower()
    for signs, reason in _REASONS:
        if any(sign in heard for sign in signs):
            return f"{what}: {reason.format(python=sys.version.split()[0])}."
    lines = [line.strip() for line in done.errors.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    return f"{what}: the command ended with code {done.code}" + (f" and said: {errors[-1]}" if errors else ".")
