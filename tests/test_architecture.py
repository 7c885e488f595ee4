"""Imports go one way. The table is the one in docs/architecture.md; a break names the file and both rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = ROOT / "modules"

MAY_IMPORT: dict[str, set[str]] = {
    "bootstrap": set(),
    "schema": set(),
    "prompt": {"schema"},
    "imaging": {"schema"},
    "nets": set(),
    "memory": {"schema"},
    "weights": {"schema", "nets", "memory"},
    "sampling": {"schema"},
    "pipeline": {"schema", "prompt", "imaging", "nets", "memory", "weights", "sampling"},
    "training": {"schema", "prompt", "imaging", "nets", "memory", "weights", "sampling"},
    "service": {"schema", "prompt", "imaging"},
    "frontends": {"schema", "prompt", "imaging", "service"},
}
# Lists the server shows come from the rows the engine uses; these files are free of torch (tested below).
TORCH_FREE_FILES = {
    "modules.memory.budget",
    "modules.memory.machine",
    "modules.memory.policy",
    "modules.pipeline.imports",
    "modules.sampling.table",
    "modules.weights.catalogue",
    "modules.weights.controls",
    "modules.weights.glance",
    "modules.weights.hashing",
    "modules.weights.headers",
    "modules.weights.library",
    "modules.weights.networks",
    "modules.weights.notes",
    "modules.weights.sizes",
}
SERVER_ROOMS = {"service", "frontends"}
# What a room must not touch of the world outside.
FORBIDDEN_PACKAGES: dict[str, set[str]] = {
    "schema": {"torch", "gradio", "fastapi", "numpy", "PIL"},
    "prompt": {"torch", "gradio", "fastapi", "numpy", "transformers"},
    "imaging": {"torch", "gradio", "fastapi"},
    "nets": {"gradio", "fastapi", "safetensors", "PIL"},
    "memory": {"gradio", "fastapi", "PIL", "transformers"},
    "weights": {"gradio", "fastapi", "PIL"},
    "sampling": {"gradio", "fastapi", "PIL", "safetensors", "transformers"},
    "pipeline": {"gradio", "fastapi"},
    "training": {"gradio", "fastapi"},
    "service": {"torch", "gradio", "fastapi", "safetensors", "transformers"},
    "frontends": {"torch", "safetensors", "transformers"},
}
# The worker's child alone runs the engine: this one import, inside a function, is the door.
WORKER_DOOR = ("service/worker.py", "modules.pipeline")


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it from modules."
            base = node.module or ""
            yield node.lineno, base
            if base.startswith("modules"):
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _files() -> list[Path]:
    return sorted(p for p in MODULES.rglob("*.py") if p.parent != MODULES)


def _room(path: Path) -> str:
    return path.relative_to(MODULES).parts[0]


def test_every_folder_is_a_room() -> None:
    folders = {p.name for p in MODULES.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(MODULES)))
def test_imports_go_one_way(path: Path) -> None:
    room = _room(path)
    allowed = MAY_IMPORT[room] | {room}
    for line, name in _imports(path):
        if name.split(".")[0] != "modules" or name == "modules":
            continue
        other = name.split(".")[1]
        if other in allowed:
            continue
        inside = ".".join(name.split(".")[:3])
        if room in SERVER_ROOMS and (inside in TORCH_FREE_FILES or name in {f"modules.{other}"}):
            continue
        if str(path.relative_to(MODULES)).replace("\\", "/") == WORKER_DOOR[0] and name.startswith(WORKER_DOOR[1]):
            continue
        pytest.fail(
            f"{path.relative_to(ROOT)}:{line}: room {room!r} imports room {other!r} ({name}), see docs/architecture.md"
        )


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(MODULES)))
def test_rooms_keep_foreign_packages_out(path: Path) -> None:
    room = _room(path)
    if room == "bootstrap":
        for line, name in _imports(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("modules.bootstrap") or name == "modules", (
                f"{path.relative_to(ROOT)}:{line}: bootstrap is standard library only, not {top}"
            )
        return
    for line, name in _imports(path):
        top = name.split(".")[0]
        assert top not in FORBIDDEN_PACKAGES[room], (
            f"{path.relative_to(ROOT)}:{line}: room {room!r} must not know {top}"
        )


def test_init_files_hold_only_the_rooms_sentence() -> None:
    for path in MODULES.rglob("__init__.py"):
        body = ast.parse(path.read_text("utf-8")).body
        assert len(body) == 1, f"{path.relative_to(ROOT)} holds more than its docstring"
        assert isinstance(body[0], ast.Expr), path


def test_the_server_side_never_loads_torch() -> None:
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in _files()
        if _room(p) in SERVER_ROOMS and p.stem != "__init__"
    ]
    names += sorted(n for n in TORCH_FREE_FILES if (ROOT / (n.replace(".", "/") + ".py")).exists())
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'safetensors.torch'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_engine_starts_without_what_few_pictures_need() -> None:
    """Packages that take seconds to import are imported where they are used: in no module that the engine imports."""
    late, seen, waiting = (
        {"transformers", "spandrel", "torchvision", "open_clip"},
        set[Path](),
        ["modules.pipeline.run"],
    )
    while waiting:
        path = ROOT / (waiting.pop().replace(".", "/") + ".py")
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            found = late & {name.partition(".")[0] for name in names}
            assert not found, f"{path}:{node.lineno} imports {found} at every start of the engine"
            waiting += names
    assert len(seen) > 100
