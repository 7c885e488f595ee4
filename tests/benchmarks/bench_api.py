"""Many clients at once against a live server: does each get its own picture, and how long do small questions take?

python -m tests.benchmarks.bench_api [clients] [jobs of each]     # 16 4
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import uvicorn

from modules.frontends import serve
from modules.schema.folders import Folders
from modules.service.generation import GenerationService

SHIPPED = Path(__file__).parents[2] / "models" / "Stable-diffusion"
BODY = {"prompt": "a red house", "steps": 4, "width": 64, "height": 64, "cfg_scale": 5}


def main(clients: int, jobs: int) -> None:
    with tempfile.TemporaryDirectory() as data:
        folders = Folders.under(Path(data))
        folders = Folders(**{**vars(folders), "checkpoint_dirs": (*folders.checkpoint_dirs, SHIPPED)})
        service = GenerationService(folders)
        bound = serve.open_port("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(serve.build_app(service, page=False), log_level="error"))
        threading.Thread(target=server.run, args=([bound],), daemon=True).start()
        while not server.started:
            time.sleep(0.02)
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/sdapi/v1"
        measure(url, clients, jobs)
        server.should_exit = True
        service.close()


def measure(url: str, clients: int, jobs: int) -> None:
    got: dict[int, str] = {}
    running = threading.Event()
    running.set()

    def draw(first: int) -> None:
        with httpx.Client(timeout=600) as client:
            for seed in range(first, first + jobs):
                answer = client.post(f"{url}/txt2img", json={**BODY, "seed": seed})
                got[seed] = answer.json()["images"][0]

    asked: dict[str, list[float]] = {"progress": [], "interrupt": []}

    def ask(kind: str) -> None:
        with httpx.Client(timeout=60) as client:
            while running.is_set():
                begun = time.perf_counter()
                if kind == "progress":
                    client.get(f"{url}/progress")
                else:
                    client.post(f"{url.removesuffix('/sdapi/v1')}/jobs/{'0' * 32}/cancel")
                asked[kind].append(time.perf_counter() - begun)
                time.sleep(0.05)

    httpx.post(f"{url}/txt2img", json=BODY, timeout=600)
    threads = [threading.Thread(target=draw, args=(k * 1000,)) for k in range(clients)]
    watchers = [threading.Thread(target=ask, args=(kind,)) for kind in asked]
    begun = time.perf_counter()
    for thread in (*threads, *watchers):
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    running.clear()
    for thread in watchers:
        thread.join()
    alone = {
        seed: httpx.post(f"{url}/txt2img", json={**BODY, "seed": seed}, timeout=600).json()["images"][0] for seed in got
    }
    same = sum(got[seed] == alone[seed] for seed in got)
    print(f"{clients} clients, {len(got)} jobs in {seconds:.1f} s; {same} equal to a run alone")
    for kind, times in asked.items():
        ms = [1000 * t for t in sorted(times)]
        p99 = ms[min(len(ms) - 1, int(len(ms) * 0.99))]
        print(
            f"{kind}: {len(ms)} asked, median {statistics.median(ms):.0f} ms, p99 {p99:.0f} ms, worst {ms[-1]:.0f} ms"
        )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:3] or ("16", "4")))
