"""The whole test suite from bare Python: `python -m modules.bootstrap.run_tests [pytest arguments]` (test.sh).

Makes the venv, installs requirements.txt and requirements-test.txt, finds or installs Chromium, checks style and types,
then runs pytest, whose closing line is the last output. With pytest arguments only those tests run, and no checks.
Exit code: pytest's; if the tests pass but a check does not, 1.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from modules.bootstrap.environment import ensure, read_wanted
from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.system import System

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_BROWSERS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# One more than cores, since browser tests wait much; more gain little, and each loads torch (300 MB).
MOST_WORKERS = 4


def find_browser(environ: Mapping[str, str]) -> str | None:
    """The Chromium that browser tests drive: $CHROMIUM, or the first that is installed."""
    named = environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    found = (shutil.which(name) for name in (*BROWSERS, *MAC_BROWSERS))
    return next(filter(None, found), None)


def ensure_browser(system: System, environ: Mapping[str, str]) -> str:
    """Its path; installed by the system's packages where that is possible. Raises BootstrapProblem."""
    found = find_browser(environ)
    if found is None and shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        system.say("Installing Chromium for the browser tests")
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
        system.run([*quiet, "update"], show_errors=False)
        system.run([*quiet, "install", "--no-install-recommends", "chromium"])
        found = find_browser(environ)
    if found is None:
        raise BootstrapProblem(
            "The browser tests need Chromium and none was found: install it, or name one in the variable CHROMIUM "
            "(./test.sh -m 'not browser' runs the others)."
        )
    return found


def main(arguments: list[str]) -> int:
    """Everything above; the exit code."""
    system = System()
    os.chdir(ROOT)
    environ = os.environ
    try:
        if sys.version_info < (3, 10):  # noqa: UP036 - the Python that test.sh finds may be any
            raise BootstrapProblem(f"This is Python {sys.version.split()[0]}; set PYTHON to one from 3.10 on.")
        wanted = read_wanted(environ, ROOT, system)
        wanted = replace(
            wanted, files=(*wanted.files, ROOT / "requirements-test.txt"), stamp_name="easel-test-packages.json"
        )
        ensure(wanted, ["-m", "modules.bootstrap.run_tests", *arguments], system, environ)
        if "not browser" not in " ".join(arguments):
            environ["CHROMIUM"] = ensure_browser(system, environ)
    except BootstrapProblem as problem:
        print(f"The tests cannot run. {problem}", file=sys.stderr)
        return problem.exit_code

    checks = 0 if arguments else _check(system)
    workers = min((os.cpu_count() or 1) + 1, MOST_WORKERS)
    # Several processes of several threads each would only push each other off the cores.
    environ.setdefault("OMP_NUM_THREADS", "1" if workers > 1 else str(os.cpu_count() or 1))
    spread = [] if arguments else ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    tests = system.pass_through([system.python, "-m", "pytest", *spread, *arguments])
    return tests or checks


def _check(system: System) -> int:
    """Style and types; 1 if one of them finds something."""
    system.say("Style (ruff)")
    style = system.pass_through([system.python, "-m", "ruff", "check", "."])
    system.say("Types (pyright)")
    types = system.pass_through([system.python, "-m", "pyright", "--pythonpath", system.python])
    return int(style != 0 or types != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
