"""The first thing `webui.py` does: read the flags, make the environment ready, hand back the options."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from modules.bootstrap.environment import ensure, read_wanted
from modules.bootstrap.options import Options, read_options
from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.system import System
from modules.bootstrap.torch_choice import INDEX, XPU


def prepare(arguments: list[str], root: Path, system: System | None = None) -> Options:
    """Options, once this Python holds all packages. `arguments`: without the program's name; `root`: its folder.

    May become the venv's Python on the way. What cannot be is said in one sentence, and the program ends (see
    BootstrapProblem for the codes); --exit ends it too, with 0.
    """
    system = system or System()
    try:
        options = read_options(arguments, os.environ, root)
        flags = options.flags
        wanted = read_wanted(os.environ, root, system)
        wanted = replace(
            wanted,
            torch_index=wanted.torch_index or (f"{INDEX}/{XPU}" if flags["use_ipex"] else None),
            make=not flags["skip_prepare_environment"],
            install=not (flags["skip_install"] or flags["skip_prepare_environment"]),
            reinstall_torch=flags["reinstall_torch"],
        )
        ensure(wanted, [str(root / "webui.py"), *arguments], system, os.environ)
    except BootstrapProblem as problem:
        print(f"Easel cannot start. {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    for name, value in options.environment(os.environ).items():
        os.environ[name] = value
    for sentence in options.notices:
        system.say(sentence)
    if flags["exit"]:
        sys.exit(0)
    return options
