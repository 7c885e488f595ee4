"""From the command to the first picture: `python -m tests.benchmarks.bench_first_picture [--json FILE]`.

Starts the program in the environment it runs in, over an empty data folder with the shipped model, and prints how long
it takes to the page, to the first picture, and for each picture after it, with the memory of both processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent.parent
REQUEST = {
    "prompt": "a red house on green hills, night, moon", "width": 128, "height": 128, "steps": 20, "cfg_scale": 5,
}  # fmt: skip
PICTURES = 5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def program(data: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The running program, ended with the block."""
    command = [sys.executable, "webui.py", "--data-dir", str(data), "--models-dir", str(ROOT / "models")]
    environ = {**os.environ, "VENV_DIR": "-", "COMMANDLINE_ARGS": ""}
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_for(client: httpx.Client, path: str, started: float, seconds: float = 120) -> float:
    """Seconds from `started` until the path answers 200."""
    while time.perf_counter() - started < seconds:
        with contextlib.suppress(httpx.TransportError):
            if client.get(path).status_code == 200:
                return time.perf_counter() - started
        time.sleep(0.01)
    raise TimeoutError(f"{path} did not answer within {seconds} s")


def draw(client: httpx.Client, seed: int) -> float:
    """Seconds from submitting a job until its picture is ready."""
    started = time.perf_counter()
    job = client.post("/jobs", json={**REQUEST, "seed": seed}).raise_for_status().json()["id"]
    while True:
        state = client.get(f"/jobs/{job}").json()
        if state["state"] == "done":
            return time.perf_counter() - started
        if state["state"] in ("failed", "cancelled"):
            raise RuntimeError(state["error"])
        time.sleep(0.02)


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        started = time.perf_counter()
        with program(Path(folder), port) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            page = wait_for(client, "/", started)
            draw(client, 1)
            first = time.perf_counter() - started
            rest = [draw(client, seed) for seed in range(2, 2 + PICTURES)]
            server = psutil.Process(process.pid)
            children = server.children(recursive=True)
            worker = max((child.memory_info().rss for child in children), default=0)
            return {
                "page_seconds": round(page, 2),
                "first_picture_seconds": round(first, 2),
                "picture_seconds": round(statistics.median(rest), 2),
                "server_rss_mb": round(server.memory_info().rss / 1e6),
                "worker_rss_mb": round(worker / 1e6),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    figures = measure()
    for name, value in figures.items():
        print(f"{name:24} {value}")
    target = parser.parse_args().json
    if target:
        target.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
