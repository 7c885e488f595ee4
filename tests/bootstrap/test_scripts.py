"""The commands a user types: webui-user.sh, webui.sh, test.sh, python webui.py."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="no bash")
SCRIPTS = ("webui-user.sh", "webui.sh", "test.sh", ".ci/run")
VARIABLES = ("PYTHON", "python_cmd", "VENV_DIR", "venv_dir", "VIRTUAL_ENV", "COMMANDLINE_ARGS", "TORCH_COMMAND")


@pytest.fixture
def program(tmp_path) -> Path:
    """The scripts in a folder with a space in its name, and a `python` that writes down how it was called."""
    folder = tmp_path / "my easel"
    (folder / ".ci").mkdir(parents=True)
    for name in SCRIPTS:
        shutil.copy2(ROOT / name, folder / name)
    fake = folder / "fake python"
    fake.write_text(
        "#!/bin/sh\n"
        'printf "<%s>" "$@"\n'
        'echo " VENV_DIR=$VENV_DIR TORCH_COMMAND=$TORCH_COMMAND COMMANDLINE_ARGS=$COMMANDLINE_ARGS"\n'
        "exit 7\n"
    )
    fake.chmod(0o755)
    return folder


def call(program: Path, name: str, *arguments: str, cwd: Path | None = None, **variables: str):
    environ = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environ |= {"PYTHON": str(program / "fake python")} | variables
    return subprocess.run(
        [str(program / name), *arguments], env=environ, cwd=cwd or "/", capture_output=True, text=True, timeout=60
    )


@needs_bash
@pytest.mark.parametrize("name", ["webui-user.sh", "webui.sh"])
def test_flags_pass_through_and_the_exit_code_comes_back(program, name):
    done = call(program, name, "--port", "1", "--ckpt-dir", "/my models", COMMANDLINE_ARGS="--listen")
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(f"<{program}/webui.py><--port><1><--ckpt-dir></my models> ")
    assert done.stdout.rstrip().endswith("COMMANDLINE_ARGS=--listen")


@needs_bash
def test_settings_of_an_a1111_file_arrive(program):
    """Such a file exports some lines and only sets others; it does not start anything itself."""
    (program / "webui-user.sh").write_text(
        "#!/bin/bash\n"
        'export COMMANDLINE_ARGS="--xformers --medvram"\n'
        'python_cmd="$(dirname "${BASH_SOURCE[0]}")/fake python"\n'
        'venv_dir="my venv"\n'
        'TORCH_COMMAND="pip install torch"\n'
        'clone_dir="stable-diffusion-webui"\n'
    )
    done = call(program, "webui.sh", "--listen", PYTHON="")
    assert done.returncode == 7, done.stderr
    assert done.stdout.strip() == (
        f"<{program}/webui.py><--listen> VENV_DIR=my venv TORCH_COMMAND=pip install torch "
        "COMMANDLINE_ARGS=--xformers --medvram"
    )


@needs_bash
def test_sourced_the_settings_start_nothing(program):
    done = subprocess.run(
        [str(BASH), "-c", 'source "$0"; echo still here', str(program / "webui-user.sh")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "still here\n"


@needs_bash
def test_the_venvs_python_is_taken_when_it_is_there(program):
    (program / "venv/bin").mkdir(parents=True)
    (program / "venv/bin/python").symlink_to(program / "fake python")
    done = call(program, "webui.sh", PYTHON="/no/such/python")
    assert done.returncode == 7, done.stderr
    # ... but not when another one, or none, is asked for
    assert call(program, "webui.sh", PYTHON="/no/such/python", VENV_DIR="other").returncode == 127
    assert call(program, "webui.sh", PYTHON="/no/such/python", VENV_DIR="-").returncode == 127


@needs_bash
def test_the_newest_enough_python_is_found(program, tmp_path):
    """Python 3.9 calls itself python3 here, and a newer one has its number."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    done = call(program, "webui.sh", PYTHON="", PATH=str(tools))
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "3.10" in done.stderr
    (tools / "python3.12").write_text('#!/bin/sh\n[ "$1" = -c ] || echo "found: $1"\n')
    (tools / "python3.12").chmod(0o755)
    assert call(program, "webui.sh", PYTHON="", PATH=str(tools)).stdout == f"found: {program}/webui.py\n"


@needs_bash
@pytest.mark.parametrize("name", ["test.sh", ".ci/run"])
def test_the_test_command_runs_from_anywhere_and_passes_the_code_on(program, name, tmp_path):
    done = call(program, name, cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("<-m><modules.bootstrap.run_tests>")


@pytest.mark.skipif(os.name == "nt", reason="no such bits")
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_executed(name):
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", ["webui.bat", "webui-user.bat"])
def test_batch_files_have_their_line_ends_and_pass_arguments(name):
    text = (ROOT / name).read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n")
    assert b"%*" in text


def test_webui_py_is_understood_by_old_pythons():
    source = (ROOT / "webui.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 7))
    # The check comes before anything else is imported, and before anything newer is used.
    body = ast.parse(source).body
    assert isinstance(body[1], ast.Import)
    assert [alias.name for alias in body[1].names] == ["sys"]
    assert isinstance(body[2], ast.If)
    assert not any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body[3:])


def test_an_old_python_is_told_in_one_sentence():
    """The first lines of webui.py, run as if by Python 3.8."""
    tree = ast.parse((ROOT / "webui.py").read_text("utf-8"))
    guard = ast.unparse(ast.Module(body=tree.body[2:3], type_ignores=[]))

    class Sys:
        version_info = (3, 8, 10, "final", 0)
        executable = "/usr/bin/python3.8"
        exit = staticmethod(sys.exit)

    with pytest.raises(SystemExit) as caught:
        exec(guard, {"sys": Sys})
    assert "3.10 or newer; this is 3.8 (/usr/bin/python3.8)" in str(caught.value)


def run_webui(*arguments: str, **variables: str):
    environ = {k: v for k, v in os.environ.items() if k not in VARIABLES} | {"VENV_DIR": "-"} | variables
    return subprocess.run(
        [sys.executable, str(ROOT / "webui.py"), *arguments], env=environ, capture_output=True, text=True, timeout=120
    )


def test_help_needs_no_packages():
    done = run_webui("--help")
    assert done.returncode == 0
    assert "--xformers" in done.stdout


def test_a_wrong_flag_ends_with_code_2_before_anything_is_installed(tmp_path):
    done = run_webui("--lisen", VENV_DIR=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert done.stderr == (
        "Easel cannot start. No flag is called --lisen. Did you mean --listen? --help lists them; "
        "IGNORE_CMD_ARGS_ERRORS=1 passes over it.\n"
    )
    assert not (tmp_path / "venv").exists()


def test_exit_stops_after_preparation(tmp_path):
    done = run_webui("--skip-install", "--exit", "--update-all-extensions", "--data-dir", str(tmp_path))
    said = "--update-all-extensions is accepted but changes nothing yet.\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert list(tmp_path.iterdir()) == []
