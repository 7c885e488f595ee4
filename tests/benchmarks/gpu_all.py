"""Everything that needs a card, in one call: `python -m tests.benchmarks.gpu_all --out FOLDER [--quick]`.

`--family tiny` with a `--part` rehearses it on a processor (tests/memory/test_gpu_all.py), so that no slip waits for a
card to be found.
Runs the tests marked `gpu`, then measures what only a card can tell, and writes figures.json and the logs to FOLDER.
Each part is a process of its own with a time limit, so that one that fails or hangs leaves the others their turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LIMIT = 150
"""Seconds for one part; those that make the files of random weights may take four times as long."""


def device_of(family: str) -> str:
    return "cpu" if family == "tiny" else "cuda"


def parts(quick: bool) -> dict[str, list[str]]:
    """Name -> arguments of python."""
    families = ["sd1"] if quick else ["sd1", "sdxl"]
    figures = {f"{what} {family}": ["-m", __spec__.name, "--part", what, "--family", family]
               for family in families for what in PARTS}  # fmt: skip
    beside = ["-m", "tests.benchmarks.bench_speed", "--dtype", "float16", "--rounds", "5", "--family"]
    return {
        "tests": ["-m", "pytest", "-q", "-m", "gpu", "tests"],
        **figures,
        **{f"beside diffusers {family}": [*beside, family] for family in families},
        "accelerations": ["-m", "tests.benchmarks.bench_accelerations", "--dtype", "float16"],
    }


def file(family: str) -> dict[str, float]:
    """The file that is measured with, generated where it is not there yet: not on another part's time."""
    from tests.benchmarks import bench_speed as bench

    return {"MB": round(bench.model_file(family, bench.CACHE).stat().st_size / 1e6)}


def loaded(family: str, **changes: Any) -> tuple[Any, Any, Any]:
    """A full-size model as a job loads it, with its sizes and the policy. `changes`: of the policy."""
    from modules.memory import devices
    from modules.memory.policy import choose
    from modules.schema.settings import Settings
    from modules.weights.catalogue import Catalogue
    from modules.weights.residency import Residency
    from modules.weights.sizes import sizes_of
    from tests.benchmarks import bench_speed as bench

    bench.model_file(family, bench.CACHE)
    folders = bench.folders_of(bench.CACHE)
    catalogue = Catalogue(folders, folders.database)
    checkpoint = catalogue.find(family)
    facts = devices.detect(use_cpu=device_of(family) == "cpu")
    sizes = sizes_of(checkpoint)
    settings = Settings().with_options(changes.pop("options", {}))
    policy = replace(choose(facts, settings, sizes), **changes)
    with Residency(catalogue, facts).lease(checkpoint, policy) as model:
        return model, sizes, policy


def seconds_per_call(call: Callable[[], Any], calls: int = 20) -> float:
    import torch

    def settle() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    for _ in range(3):
        call()
    settle()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    settle()
    return (time.perf_counter() - began) / calls


def forget_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def speed(family: str) -> dict[str, float]:
    """Guided calls per second: as it is, by each attention, as a CUDA graph, compiled, in 8 bits."""
    import torch

    from modules.nets.recorded import Compiled, Recorded
    from modules.nets.unet import CrossAttention
    from tests.benchmarks.bench_speed import inputs

    found: dict[str, float] = {}
    for attention in ("sdp", "xformers", "Doggettx", "split", "sub-quadratic"):
        try:
            model, _, policy = loaded(family, attention=attention)
            given = inputs(family, policy.denoiser_dtype, device_of(family))
            with torch.inference_mode():
                found[attention] = 1 / seconds_per_call(partial(model.unet, *given))
                if attention == "sdp":
                    found["sdp, CUDA graph"] = 1 / seconds_per_call(partial(Recorded(model.unet), *given))
                    compiled = Compiled(model.unet, **({"backend": "eager"} if family == "tiny" else {}))
                    began = time.perf_counter()
                    compiled(*given)
                    compiled.wait()
                    found["compilations a second, beside drawing"] = 1 / (time.perf_counter() - began)
                    found["sdp, compiled"] = 1 / seconds_per_call(partial(compiled, *given))
                    for layer in model.unet.modules():
                        if isinstance(layer, CrossAttention):
                            layer.fused = None
                    found["sdp, queries, keys and values apart"] = 1 / seconds_per_call(partial(model.unet, *given))
                    for name, products in (("weights", False), ("products", True)):
                        eight = {"storage": "float8_e4m3fn", "float8_products": products, "packed": False}
                        net = loaded(family, attention=attention, **eight)[0].unet
                        found[f"sdp, float8 {name}"] = 1 / seconds_per_call(partial(net, *given))
        except Exception as error:  # one way that does not work here is a finding, too
            print(f"{attention}: {type(error).__name__}: {str(error)[:200]}")
    return {f"{name}, calls/s": round(value, 4) for name, value in found.items()}


def memory(family: str) -> dict[str, float]:
    """Peak memory and time of a guided call with all weights on the card, parked, and streamed; answers compared."""
    import torch

    from tests.benchmarks.bench_speed import inputs

    found: dict[str, float] = {}
    answers = []
    for use in ("normal", "medvram", "lowvram"):
        forget_peak()
        model, _, policy = loaded(family, options={"memory_use": use})
        given = inputs(family, policy.denoiser_dtype, device_of(family))
        with torch.inference_mode():
            found[f"{use}, ms"] = 1000 * seconds_per_call(partial(model.unet, *given), 10)
            answers.append(model.unet(*given).float())
            model.vae.decode(given[0][:1].to(policy.vae_dtype))
        found[f"{use}, peak MB"] = torch.cuda.max_memory_allocated() / 1e6
        del model
    found["largest difference of answers"] = max((a - answers[0]).abs().max().item() for a in answers)
    return {name: round(value, 4) for name, value in found.items()}


def prediction(family: str) -> dict[str, float]:
    """Predicted peak of a guided call and a decode, as a share of what was measured."""
    import torch

    from modules.memory.budget import Shape
    from modules.memory.policy import predict
    from tests.benchmarks.bench_speed import FAMILIES, inputs

    model, sizes, policy = loaded(family)
    x, t, context, y = inputs(family, policy.denoiser_dtype, device_of(family))
    side = FAMILIES[family].latent * 8
    need = predict(sizes, Shape(side, side), policy)
    resting = torch.cuda.memory_allocated()
    measured: dict[str, float] = {"weights": resting}
    with torch.inference_mode():
        for name, call in {
            "denoising": lambda: model.unet(x, t, context, y),
            "decoding": lambda: model.vae.decode(x[:1].to(policy.vae_dtype)),
        }.items():
            forget_peak()
            call()
            measured[name] = torch.cuda.max_memory_allocated() - resting
    shares = {f"{name}, predicted/measured": getattr(need, name) / max(1, value) for name, value in measured.items()}
    return {name: float(round(value, 3)) for name, value in shares.items()} | {
        f"{name}, MB": round(value / 1e6, 1) for name, value in measured.items()
    }


PARTS: dict[str, Callable[[str], dict[str, float]]] = {
    "file": file, "speed": speed, "memory": memory, "prediction": prediction,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--quick", action="store_true", help="SD 1.x alone")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--family", default="sd1", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(PARTS[asked.part](asked.family)))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    for name, arguments in parts(asked.quick).items():
        log = asked.out / f"{name.replace(' ', '-')}.log"
        extra = ["--json", str(asked.out / f"{name.replace(' ', '-')}.json")] if name.startswith("beside") else []
        began = time.perf_counter()
        with log.open("w") as out:
            command = [sys.executable, *arguments, *extra]
            try:
                limit = LIMIT * (4 if name.startswith("file") else 1)
                code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, timeout=limit).returncode
            except subprocess.TimeoutExpired:
                code = -1
        lines = log.read_text("utf-8", "replace").splitlines()
        figures[name] = {"exit code": code, "seconds": round(time.perf_counter() - began, 1)}
        if lines and lines[-1].startswith("{"):
            figures[name] |= json.loads(lines[-1])
        elif lines:
            figures[name]["last line"] = lines[-1]
        print(name, json.dumps(figures[name]), flush=True)
        (asked.out / "figures.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
