"""Making the venv, installing what is missing, and doing nothing the second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modules.bootstrap.environment import ENTERING, Wanted, ensure, read_wanted, venv_python
from modules.bootstrap.problem import BootstrapProblem
from modules.bootstrap.system import Finished, System
from modules.bootstrap.torch_choice import PACKAGES, TORCH, Machine

BOTH = " ".join(PACKAGES)
PINS = {"torch": f"{TORCH}+cpu", "alpha": "1.0", "beta": "2.0"}
AGAIN = ["webui.py", "--port", "1"]


class Became(Exception):
    """Instead of becoming another program."""


class Recorder(System):
    """A System that writes down what would be done. `answers_of` maps a word of a command to how it ends."""

    def __init__(self, prefix: Path, *, machine: Machine = Machine("Linux", "x86_64"), reachable: bool = True) -> None:  # noqa: B008
        self.commands: list[list[str]] = []
        self.said: list[str] = []
        self.free = 10**12
        self.answers_of: dict[str, Finished] = {}
        self._prefix, self._machine, self._reachable = prefix, machine, reachable
        self.packages = prefix / "packages"
        self.packages.mkdir(parents=True, exist_ok=True)

    prefix = property(lambda self: self._prefix)  # type: ignore[assignment]
    python = property(lambda self: "python")  # type: ignore[assignment]
    in_a_venv = False  # type: ignore[assignment]
    site_packages = property(lambda self: self.packages)  # type: ignore[assignment]

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def run(self, command: list[str], *, show_errors: bool = True) -> Finished:
        self.commands.append(command)
        for word, finished in self.answers_of.items():
            if any(word in part for part in command):
                return finished
        return Finished(0)

    def replace(self, command: list[str]):
        self.commands.append(command)
        raise Became

    def answers(self, address: str, seconds: float = 4.0) -> bool:
        return self._reachable

    def free_bytes(self, folder: Path) -> int:
        return self.free

    def machine(self) -> Machine:
        return self._machine


@pytest.fixture
def requirements(tmp_path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text("alpha==1.0\nbeta==2.0\n")
    return file


@pytest.fixture
def venv(tmp_path) -> Path:
    return tmp_path / "venv"


@pytest.fixture
def wanted(venv, requirements) -> Wanted:
    return Wanted(venv=venv, files=(requirements,))


def start(wanted: Wanted, system: Recorder, have: dict[str, str] = PINS) -> list[str]:
    """One start inside the venv; the pip commands it gave, as lines without python and manners."""
    before = len(system.commands)
    ensure(replace(wanted, venv=system.prefix), AGAIN, system, {}, have.get)
    lines = [" ".join(command).partition(" --no-warn-script")[0] for command in system.commands[before:]]
    return [line.replace(" --disable-pip-version-check --no-input --retries 2", "") for line in lines]


# ---- which Python


@pytest.mark.parametrize(
    ("environ", "active", "expected"),
    [
        ({}, False, "venv"),
        ({}, True, None),  # an active venv is used as it is
        ({"VENV_DIR": "mine"}, True, "mine"),
        ({"venv_dir": "mine"}, False, "mine"),
        ({"VENV_DIR": "/else/where"}, False, "/else/where"),
        ({"VENV_DIR": "-"}, False, None),
        ({"SKIP_VENV": "1"}, False, None),
        ({"VENV_DIR": ""}, False, "venv"),
    ],
)
def test_where_the_venv_is(tmp_path, environ, active, expected):
    system = Recorder(tmp_path)
    system.in_a_venv = active  # type: ignore[misc]
    assert read_wanted(environ, tmp_path, system).venv == (tmp_path / expected if expected else None)


def test_variables_are_read(tmp_path):
    environ = {"TORCH_COMMAND": "pip install x", "TORCH_INDEX_URL": "u", "INDEX_URL": "i", "REQS_FILE": "other.txt"}
    found = read_wanted(environ, tmp_path, Recorder(tmp_path))
    assert (found.torch_command, found.torch_index, found.index) == ("pip install x", "u", "i")
    assert found.files == (tmp_path / "other.txt",)


def test_outside_the_venv_it_is_made_and_entered(tmp_path, wanted, venv):
    system, environ = Recorder(tmp_path / "elsewhere"), {}
    with pytest.raises(Became):
        ensure(wanted, AGAIN, system, environ)
    make, become = system.commands
    assert make == ["python", "-m", "venv", "--clear", str(venv)]
    assert become == [str(venv_python(venv)), *AGAIN]


def test_a_venv_that_is_there_is_entered_at_once(tmp_path, wanted, venv):
    venv_python(venv).parent.mkdir(parents=True)
    venv_python(venv).touch()
    system = Recorder(tmp_path / "elsewhere")
    with pytest.raises(Became):
        ensure(wanted, AGAIN, system, {})
    assert system.commands == [[str(venv_python(venv)), *AGAIN]]


def test_a_venv_that_does_not_become_the_running_one_is_no_loop(tmp_path, wanted, venv):
    with pytest.raises(BootstrapProblem, match="delete that folder"):
        ensure(wanted, AGAIN, Recorder(tmp_path / "elsewhere"), {ENTERING: str(venv)})


def test_a_folder_with_other_things_is_not_cleared(tmp_path, wanted, venv):
    venv.mkdir()
    (venv / "holiday.jpg").touch()
    system = Recorder(tmp_path / "elsewhere")
    with pytest.raises(BootstrapProblem, match="no venv"):
        ensure(wanted, AGAIN, system, {})
    assert system.commands == []
    assert (venv / "holiday.jpg").exists()


def test_without_preparation_no_venv_is_made(tmp_path, wanted):
    system = Recorder(tmp_path / "elsewhere")
    with pytest.raises(BootstrapProblem, match="skip-prepare-environment"):
        ensure(replace(wanted, make=False), AGAIN, system, {})
    assert system.commands == []


def test_a_venv_is_made_for_real_and_needs_nothing_the_second_time(tmp_path):
    """Bare Python, a requirements file that asks for nothing, and a torch that is already as wished."""
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    script = tmp_path / "webui.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from modules.bootstrap.environment import ensure, read_wanted\n"
        "from modules.bootstrap.system import System\n"
        "root = Path(__file__).parent\n"
        "def have(name): return '2.13.0'\n"
        "again = [str(root / 'webui.py'), *sys.argv[1:]]\n"
        "ensure(read_wanted(os.environ, root, System()), again, System(), os.environ, have)\n"
        "assert 'EASEL_ENTERING_VENV' not in os.environ\n"
        "print(sys.prefix, *sys.argv[1:], 'subprocess' in sys.modules)\n"
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("VENV_DIR", "venv_dir", "SKIP_VENV", "VIRTUAL_ENV")}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    bare = os.path.realpath(sys.executable)  # the Python below this test's own venv
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [bare, str(script), "a flag"], env=environ, capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    venv = tmp_path / "venv"
    assert outputs[0][0].startswith(f"Making a venv in {venv}")
    assert outputs[1] == [f"{venv} a flag False"]  # the second start: no word, no subprocess
    assert outputs[0][-1].startswith(f"{venv} a flag")
    assert (venv / "easel-packages.json").exists()


# ---- what is installed


def test_nothing_is_installed_when_all_is_there(wanted, venv):
    assert start(wanted, Recorder(venv)) == []


def test_the_second_start_does_not_even_look(wanted, venv):
    system = Recorder(venv)
    start(wanted, system)

    def nobody_asks(name: str) -> str | None:
        raise AssertionError(name)

    ensure(wanted, AGAIN, system, {}, nobody_asks)
    assert system.commands == []


def test_a_first_start_installs_torch_then_the_rest(wanted, venv, requirements):
    system = Recorder(venv)
    torch, rest = start(wanted, system, {})
    assert torch.startswith(f"python -m pip install {BOTH} --index-url https://download.pytorch.org/whl/cpu")
    assert rest == f"python -m pip install -r {requirements}"
    assert any("alpha, beta" in sentence for sentence in system.said)


def test_only_what_differs_is_installed(wanted, venv, requirements):
    assert start(wanted, Recorder(venv), {**PINS, "beta": "1.9"}) == [f"python -m pip install -r {requirements}"]
    (only,) = start(wanted, Recorder(venv.with_name("other")), {**PINS, "torch": "2.12.0"})
    assert BOTH in only


@pytest.mark.parametrize("change", ["file", "packages", "stamp"])
def test_a_change_is_noticed(wanted, venv, requirements, change):
    system = Recorder(venv)
    start(wanted, system)
    if change == "file":
        requirements.write_text("alpha==1.1\n")
    elif change == "packages":  # pip was used by hand
        os.utime(system.packages, ns=(1, 1))
    else:
        (venv / wanted.stamp_name).write_text("{damaged")
    assert start(wanted, system, {**PINS, "alpha": "0.9"}) == [f"python -m pip install -r {requirements}"]


def test_a_damaged_stamp_or_a_read_only_python_is_no_harm(wanted, venv):
    system = Recorder(venv)
    (venv / wanted.stamp_name).mkdir()  # cannot be written, cannot be read
    assert start(wanted, system) == []
    assert start(wanted, system) == []


def test_skip_install_installs_nothing(wanted, venv):
    assert start(replace(wanted, install=False), Recorder(venv), {}) == []


def test_without_the_cpu_index_the_default_one_is_taken_without_waiting(wanted, venv):
    system = Recorder(venv, reachable=False)
    torch, _rest = start(wanted, system, {})
    assert torch == f"python -m pip install {BOTH}"
    assert sum("default index" in sentence for sentence in system.said) == 1


def test_a_cpu_index_that_answers_but_fails_is_passed_over_too(wanted, venv):
    system = Recorder(venv)
    system.answers_of = {"whl/cpu": Finished(1, "ERROR: No matching distribution found for torch")}
    first, second, _rest = start(wanted, system, {})
    assert "whl/cpu" in first
    assert second == f"python -m pip install {BOTH}"


def test_torch_command_and_indexes_are_obeyed(wanted, venv, requirements):
    chosen = replace(wanted, torch_command="pip install torch==2.11.0 --pre", index="https://mirror.example")
    torch, rest = start(chosen, Recorder(venv), {})
    assert torch == "python -m pip install torch==2.11.0 --pre"
    assert rest == f"python -m pip install -r {requirements} --index-url https://mirror.example"
    # Any torch will do then, so a second start with it installs nothing.
    assert start(chosen, Recorder(venv), {**PINS, "torch": "2.11.0"}) == []


def test_another_torch_source_than_last_time_installs_anew(wanted, venv):
    system = Recorder(venv)
    start(wanted, system)
    (only,) = start(replace(wanted, torch_index="https://download.pytorch.org/whl/cu126"), system)
    assert only.endswith(f"{BOTH} --index-url https://download.pytorch.org/whl/cu126 --force-reinstall")


def test_reinstall_torch(wanted, venv):
    system = Recorder(venv)
    start(wanted, system)
    (only,) = start(replace(wanted, reinstall_torch=True), system)
    assert only.endswith("--force-reinstall")


# ---- what goes wrong

FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
OFFLINE = (
    "WARNING: Retrying after connection broken by 'NewConnectionError(Temporary failure in name resolution)'\n"
    "ERROR: Could not find a version that satisfies the requirement alpha==1.0 (from versions: none)\n"
    "ERROR: No matching distribution found for alpha==1.0\n"
)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (FULL, ("disk is full", "VENV_DIR")),
        (OFFLINE, ("cannot be reached", "INDEX_URL")),
        ("ERROR: No matching distribution found for alpha==1.0\n", ("no build for this Python", "PYTHON")),
        ("error: externally-managed-environment\n\n× This environment is ...\n", ("belongs to the operating system",)),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", ("written",)),
        ("noise\nERROR: something new\nmore noise\n", ("code 1", "ERROR: something new")),
        ("", ("code 1",)),
    ],
)
def test_each_failure_is_one_sentence_with_a_remedy(wanted, venv, errors, words):
    system = Recorder(venv)
    system.answers_of = {"-r": Finished(1, errors)}
    with pytest.raises(BootstrapProblem) as caught:
        start(wanted, system, {"torch": TORCH})
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert caught.value.exit_code == 4
    assert not (venv / wanted.stamp_name).exists()


def test_a_failed_torch_is_said_and_tried_again_next_time(wanted, venv):
    system = Recorder(venv, reachable=False)
    system.answers_of = {"torch==": Finished(1, OFFLINE)}
    with pytest.raises(BootstrapProblem, match="torch could not be installed: the package index cannot be reached"):
        start(wanted, system, {})
    system.answers_of = {}
    assert BOTH in start(wanted, system, {})[0]


def test_a_full_disk_while_making_the_venv(tmp_path, wanted):
    system = Recorder(tmp_path / "elsewhere")
    system.answers_of = {"venv": Finished(1, "OSError: [Errno 28] No space left on device\n")}
    with pytest.raises(BootstrapProblem, match="disk is full"):
        ensure(wanted, AGAIN, system, {})
    # What venv says of a failed ensurepip names no cause; the disk itself does.
    system.answers_of = {"venv": Finished(1, "Error: Command '[...]' returned non-zero exit status 1.\n")}
    with pytest.raises(BootstrapProblem, match="exit status 1"):
        ensure(wanted, AGAIN, system, {})
    system.free = 1_000
    with pytest.raises(BootstrapProblem, match="disk is full"):
        ensure(wanted, AGAIN, system, {})


def test_a_missing_requirements_file_is_said(wanted, venv):
    with pytest.raises(BootstrapProblem, match="requirements_versions"):
        start(replace(wanted, files=(Path("/nowhere/requirements_versions.txt"),)), Recorder(venv))


def test_a_python_without_venv_module_is_told_what_to_install(tmp_path):
    """Debian's python3 without python3-venv: ensurepip cannot be found."""
    code = (
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'ensurepip' else real(name)\n"
        "from pathlib import Path\n"
        "from modules.bootstrap.start import prepare\n"
        f"prepare([], Path({str(tmp_path)!r}))\n"
    )
    environ = {**os.environ, "VENV_DIR": str(tmp_path / "new venv"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1, done.stderr
    assert "venv" in done.stderr
    assert "apt install python3" in done.stderr


# ---- the real System


def test_a_command_is_run_with_its_errors_kept(capfd):
    done = System().run([sys.executable, "-c", "import sys; print('out'); print('bad', file=sys.stderr); sys.exit(3)"])
    assert (done.code, done.errors) == (3, "bad\n")
    assert capfd.readouterr().out == "out\n"
    assert System().run(["/no/such/program"]).code == 127


def test_free_room_is_asked_of_the_nearest_folder(tmp_path):
    import shutil

    there = shutil.disk_usage(tmp_path).free
    assert abs(System().free_bytes(tmp_path / "not" / "yet") - there) < 10**9


def test_site_packages_are_where_pip_installs():
    import sysconfig

    assert System().site_packages == Path(sysconfig.get_path("purelib"))


def test_an_address_that_does_not_answer_is_given_up_quickly():
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        assert System().answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3) is False
        assert time.monotonic() - begin < 5
    assert System().answers("http://127.0.0.1:9/", seconds=2) is False


def test_the_stamp_holds_what_decides(wanted, venv):
    start(wanted, Recorder(venv))
    stamp = json.loads((venv / wanted.stamp_name).read_text())
    assert stamp["torch"] == [TORCH, None, None]
    assert stamp["files"] == ["alpha==1.0\nbeta==2.0\n"]
    assert stamp["python"] == sys.version
