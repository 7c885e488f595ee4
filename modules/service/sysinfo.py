"""What a report of a problem needs to tell of this machine, and nothing that is only its owner's to know.

Every fact is chosen by itself: no passwords, no folders, no prompts. Keys are A1111's where it has them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil

from modules.imaging.save import safe_write
from modules.schema.errors import EaselError
from modules.schema.fields import all_facts
from modules.schema.settings import SECTION_OF, Settings
from modules.schema.version import NAME, VERSION
from modules.service.settings_store import SettingsStore

VARIABLES = (
    "COMMANDLINE_ARGS", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "GRADIO_TEMP_DIR", "HSA_OVERRIDE_GFX_VERSION",
    "IGNORE_CMD_ARGS_ERRORS", "INDEX_URL", "LD_PRELOAD", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "REQS_FILE", "SD_WEBUI_LOG_LEVEL", "SKIP_VENV",
    "TORCH_COMMAND", "TORCH_INDEX_URL", "VENV_DIR",
)  # fmt: skip
"""Of these it is told that they are set, not to what."""


def file_name() -> str:
    """A1111's, of now."""
    return time.strftime("sysinfo-%Y-%m-%d-%H-%M.json")


def sysinfo(
    flags: Mapping[str, Any],
    settings: Settings,
    worker: Mapping[str, Any] | None = None,
    jobs: Mapping[str, int] | None = None,
    startup: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """All of it, fit for JSON. `flags` by A1111's dests; `worker`: what the worker says of itself; `startup` in
    seconds."""
    ram = psutil.virtual_memory()
    return {
        "Program": f"{NAME} {VERSION}",
        "Platform": platform.platform(),
        "Python": sys.version.split()[0],
        "CPU": {
            "model": _processor(), "count logical": psutil.cpu_count(), "count physical": psutil.cpu_count(False),
        },
        "RAM": {"total": ram.total, "available": ram.available, "used": ram.used},
        "Worker": {k: v for k, v in (worker or {}).items() if isinstance(v, str | int | float | bool)},
        "Jobs": dict(jobs or {}),
        "Flags": sorted(name for name, value in flags.items() if value is True),
        "Environment": [name for name in VARIABLES if os.environ.get(name)],
        "Config": config(settings),
        "Startup": {name: round(seconds, 3) for name, seconds in (startup or {}).items()},
        "Packages": sorted({f"{found.name}=={found.version}" for found in distributions()}, key=str.lower),
    }  # fmt: skip


def as_text(told: Mapping[str, Any]) -> str:
    return json.dumps(told, indent=4, ensure_ascii=False)


def dump(folder: Path, flags: Mapping[str, Any], settings_file: Path, state: Path) -> int:
    """Writes the file of --dump-sysinfo into `folder` and says so; the program's exit code."""
    told = sysinfo(flags, SettingsStore(settings_file, state / "settings").settings)
    try:
        written = safe_write(folder / file_name(), as_text(told).encode(), overwrite=True)
    except EaselError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"Sysinfo saved as {written}.")
    return 0


def config(settings: Settings) -> dict[str, Any]:
    """Settings that differ from their default. Texts that anything may stand in are only named."""
    found: dict[str, Any] = {}
    for section in dict.fromkeys(SECTION_OF.values()):
        for key, fact in all_facts(type(getattr(settings, section))).items():
            value = settings.option(key)
            if value != fact.default:
                plain = isinstance(value, bool | int | float) or value in fact.choices
                found[key] = value if plain else "(another than the default)"
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
