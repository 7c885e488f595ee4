"""Everything that needs a card, in nine minutes: `python -m tests.benchmarks.gpu_all --out FOLDER [--quick]`.

Draws whole jobs, times and weighs the nets, lets memory run out, and runs the tests marked `gpu`; figures.json and the
logs are in FOLDER after every part. Each part is a process of its own with a time limit and tells each figure as it has
it, so that one that fails or hangs leaves the others their turn and what it has found. What is wanted most comes first,
and nothing begins for which the seconds do not suffice. A line says so for each part.

Besides torch, numpy, safetensors, Pillow and PyYAML it takes pydantic (with pydantic_core, annotated_types and
typing_inspection) and psutil; its tests pytest (with pluggy, iniconfig, packaging and pygments). xformers and diffusers
are measured beside where they are there. Nothing is fetched: models are files of random weights, generated once (9 GB).

`--family tiny` with a `--part` rehearses it on a processor (tests/memory/test_gpu_all.py), so that no slip waits for a
card to be found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LIMIT = 120
"""Seconds for one part."""
LONGER = {"file sdxl": 240, "compiled sd1": 180, "compiled sdxl": 240, "tests": 180}
LEAST = 25
"""With fewer seconds left none is begun."""
Figures = Iterator[tuple[str, float]]


def device_of(family: str) -> str:
    return "cpu" if family == "tiny" else "cuda"


def parts(quick: bool) -> dict[str, list[str]]:
    """Name -> arguments of python, what is wanted most first."""
    families = ["sd1"] if quick else ["sd1", "sdxl"]
    first, rest = ("file", "job", "placed", "speed", "limit"), ("memory", "prediction", "compiled")
    found: dict[str, list[str]] = {}
    for group in (first, rest):
        for family in families:
            found |= {f"{what} {family}": ["-m", __spec__.name, "--part", what, "--family", family] for what in group}
        if group is first:
            # Tests that compare with another program cannot be read where that is missing.
            marked = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "-m", "gpu"]
            found["tests"] = [*marked, "tests/memory", "tests/nets", "tests/pipeline/test_memory.py"]
    if find_spec("diffusers"):
        beside = ["-m", "tests.benchmarks.bench_speed", "--dtype", "float16", "--rounds", "5", "--family"]
        found |= {f"beside diffusers {family}": [*beside, family] for family in families}
    return found | {"accelerations": ["-m", "tests.benchmarks.bench_accelerations", "--dtype", "float16"]}


def file(family: str) -> Figures:
    """The file that is measured with, generated where it is not there yet: not on another part's time."""
    from tests.benchmarks import bench_speed as bench

    yield "MB", bench.model_file(family, bench.CACHE).stat().st_size / 1e6


class Jobs:
    """Whole jobs as the worker runs them, over the generated file; pictures go to a folder that goes."""

    def __init__(self, family: str) -> None:
        from modules.pipeline.run import Engine
        from modules.schema.folders import Folders
        from tests.benchmarks import bench_speed as bench

        bench.model_file(family, bench.CACHE)
        self.family, self.side = family, 8 * bench.FAMILIES[family].latent
        self.folder = tempfile.TemporaryDirectory()
        own = vars(Folders.under(Path(self.folder.name)))
        self.engine = Engine(Folders(**{**own, "checkpoint_dirs": bench.folders_of(bench.CACHE).checkpoint_dirs}))
        self.said: list[Any] = []

    def seconds(self, steps: int, options: dict[str, Any] | None = None) -> float:
        from modules.schema.request import GenerationRequest
        from modules.schema.settings import Settings
        from tests.benchmarks.bench_speed import Hand

        request = GenerationRequest(
            prompt="a lighthouse", seed=1, steps=steps, width=self.side, height=self.side, sampler="Euler",
            checkpoint=self.family,
        )  # fmt: skip
        self.said.clear()
        began = time.perf_counter()
        # What random weights draw is nothing to stop for.
        settings = Settings().with_options({"hash_models": False, "disable_nan_check": True, **(options or {})})
        self.engine.run("bench", request, settings, self.said.append, Hand())  # type: ignore[arg-type]
        return time.perf_counter() - began

    def steps_a_second(self, options: dict[str, Any], few: int = 10, many: int = 60) -> float:
        """Guided steps, all that is around them included; what a job costs once is left out."""
        self.seconds(4, options)
        short, long = (min(self.seconds(steps, options) for _ in range(2)) for steps in (few, many))
        return (many - few) / max(long - short, 1e-9)


def job(family: str) -> Figures:
    """What a user sees: seconds to the first picture and to the next, steps a second."""
    jobs = Jobs(family)
    yield "first picture of a program with 20 steps, s", jobs.seconds(20)
    for name, calls in (("plain", "Plain"), ("CUDA graphs", "CUDA graphs")):
        options = {"denoiser_calls": calls}
        yield f"{name}, it/s", jobs.steps_a_second(options)
        yield f"{name}, a picture with 20 steps, s", jobs.seconds(20, options)
    yield (
        "CUDA graphs, Euler's noise of the processor (NV), it/s",
        jobs.steps_a_second({"denoiser_calls": "CUDA graphs", "randn_source": "NV"}),
    )


def placed(family: str) -> Figures:
    """Steps a second and the most memory of jobs with all weights on the card, parked, and streamed."""
    jobs, resident = Jobs(family), 0.0
    for use in ("normal", "medvram", "lowvram"):
        forget_peak()
        rate = jobs.steps_a_second({"memory_use": use}, 5, 25)
        resident = resident or rate
        yield f"{use}, it/s", rate
        yield f"{use}, a step beside one with all weights there", resident / rate
        taken = jobs.engine.gauge.measured()
        yield f"{use}, peak MB", (taken.pop("weights", 0) + max(taken.values(), default=0)) / 1e6
        yield f"{use}, reserved MB", reserved() / 1e6
        jobs.engine.unload()


def limit(family: str) -> Figures:
    """Jobs that may use little of the card: seconds, and how far down the ladder they went (0: nothing had to be)."""
    from modules.schema.events import ImageReady
    from modules.schema.settings import SAVINGS

    jobs = Jobs(family)
    total = jobs.engine.facts.memory
    for gigabytes in {"sd1": (4.0, 2.0, 1.2), "sdxl": (8.0, 4.0, 2.5)}.get(family, (1.0,)):
        jobs.engine.unload()
        restrict(gigabytes * 1e9 / total)
        seconds = jobs.seconds(8)
        (picture,) = (event for event in jobs.said if isinstance(event, ImageReady))
        told = [k for k, saving in enumerate(SAVINGS) if f"Memory saving: {saving}" in picture.record.infotext]
        yield f"{gigabytes} GB, s", seconds
        yield f"{gigabytes} GB, ladder", max(told, default=0)
    restrict(1.0)


def restrict(share: float) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))


def reserved() -> int:
    import torch

    return torch.cuda.memory_reserved() if torch.cuda.is_available() else 0


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


def speed(family: str) -> Figures:
    """Guided calls per second: as it is, as a CUDA graph, by each attention, in 8 bits."""
    import torch

    from modules.nets.attention import ATTENTIONS
    from modules.nets.recorded import Recorded
    from modules.nets.unet import CrossAttention, Prompted
    from tests.benchmarks.bench_speed import inputs

    model, _, policy = loaded(family, attention="sdp")
    x, t, context, y = inputs(family, policy.denoiser_dtype, device_of(family))
    layers = [layer for layer in model.unet.modules() if isinstance(layer, CrossAttention)]

    def rate(call: Callable[..., Any], said: Any = context) -> float:
        return 1 / seconds_per_call(partial(call, x, t, said, y))

    with torch.inference_mode():
        yield "sdp, CUDA graph, calls/s", rate(Recorded(model.unet))
        yield "sdp, calls/s", rate(model.unet, Prompted(context))
        yield "sdp, keys and values anew, calls/s", rate(model.unet)
        fused = [(layer, layer.fused) for layer in layers]
        for layer in layers:
            layer.fused = None
        yield "sdp, queries, keys and values apart, calls/s", rate(model.unet)
        for layer, weight in fused:
            layer.fused = weight
        if torch.cuda.is_available():
            torch.backends.cudnn.benchmark = True
            yield "sdp, CUDA graph, convolutions by measurement, calls/s", rate(Recorded(model.unet))
            torch.backends.cudnn.benchmark = False
        for name in ("sdp-no-mem", "xformers", "Doggettx", "split", "sub-quadratic"):
            for layer in layers:
                layer.attention = ATTENTIONS[name]
            try:
                yield f"{name}, calls/s", rate(model.unet)
            except Exception as error:  # one way that does not work here is a finding, too
                print(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        del model, layers, fused
        for name, products in (("weights", False), ("products", True)):
            eight = {"storage": "float8_e4m3fn", "float8_products": products, "packed": False}
            net = loaded(family, attention="sdp", **eight)[0].unet
            yield f"sdp, float8 {name}, calls/s", rate(net)


def compiled(family: str) -> Figures:
    """Seconds to compile beside drawing, and guided calls per second then, recorded as they are."""
    import torch

    from modules.nets.recorded import Compiled
    from tests.benchmarks.bench_speed import inputs

    model, _, policy = loaded(family, attention="sdp")
    given = inputs(family, policy.denoiser_dtype, device_of(family))
    with torch.inference_mode():
        call = Compiled(model.unet, **({"backend": "eager"} if family == "tiny" else {}))
        began = time.perf_counter()
        right = call(*given).float()
        call.wait()
        yield "compiling, s", time.perf_counter() - began
        yield "compiled, calls/s", 1 / seconds_per_call(partial(call, *given))
        yield "largest difference of answers", (call(*given).float() - right).abs().max().item()
        yield "ready", len(call._ready)


def memory(family: str) -> Figures:
    """Peak memory and time of a guided call with all weights on the card, parked, and streamed; answers compared."""
    import torch

    from tests.benchmarks.bench_speed import inputs

    answers = []
    for use in ("normal", "medvram", "lowvram"):
        forget_peak()
        model, _, policy = loaded(family, options={"memory_use": use})
        given = inputs(family, policy.denoiser_dtype, device_of(family))
        with torch.inference_mode():
            yield f"{use}, ms", 1000 * seconds_per_call(partial(model.unet, *given), 10)
            answers.append(model.unet(*given).float())
        yield f"{use}, peak MB", torch.cuda.max_memory_allocated() / 1e6
        del model
    yield "largest difference of answers", max((a - answers[0]).abs().max().item() for a in answers)


def prediction(family: str) -> Figures:
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
    yield "weights, predicted/measured", need.weights / max(1, resting)
    with torch.inference_mode():
        for name, call in {
            "denoising": lambda: model.unet(x, t, context, y),
            "decoding": lambda: model.vae.decode(x[:1].to(policy.vae_dtype)),
        }.items():
            call()
            forget_peak()
            yield f"{name}, ms", 1000 * seconds_per_call(call, 5)
            taken = torch.cuda.max_memory_allocated() - resting
            yield f"{name}, MB", taken / 1e6
            yield f"{name}, predicted/measured", getattr(need, name) / max(1, taken)


PARTS: dict[str, Callable[[str], Figures]] = {
    "file": file, "job": job, "placed": placed, "speed": speed, "limit": limit, "memory": memory,
    "prediction": prediction, "compiled": compiled,
}  # fmt: skip


def found_in(log: str) -> dict[str, Any]:
    """The figures a part has told, or else its last words."""
    found: dict[str, Any] = {}
    lines = log.splitlines()
    for line in lines:
        if line.startswith("{"):
            found |= json.loads(line)
    return found or {"last line": lines[-1] if lines else ""}


def run(name: str, arguments: list[str], out: Path, seconds: float) -> dict[str, Any]:
    """One part in a process of its own; its figures, however it ends."""
    from modules.service.worker import ENVIRONMENT

    log = out / f"{name.replace(' ', '-')}.log"
    if name.startswith("beside"):
        arguments = [*arguments, "--json", str(log.with_suffix(".json"))]
    began = time.perf_counter()
    environment = {**ENVIRONMENT, **os.environ}  # as the drawing process has it
    with log.open("w") as told:
        try:
            code = subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=told, stderr=subprocess.STDOUT,
                timeout=seconds,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
    spent = round(time.perf_counter() - began, 1)
    return {"exit code": code, "seconds": spent, **found_in(log.read_text("utf-8", "replace"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--quick", action="store_true", help="SD 1.x alone")
    parser.add_argument("--seconds", type=float, default=540, help="for all of it")
    parser.add_argument("--only", nargs="+", help="parts whose names begin so")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--family", default="sd1", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        for name, value in PARTS[asked.part](asked.family):
            print(json.dumps({name: round(value, 4)}), flush=True)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + asked.seconds
    figures: dict[str, Any] = {}
    for name, arguments in parts(asked.quick).items():
        if asked.only and not name.startswith(tuple(asked.only)):
            continue
        left = end - time.perf_counter()
        if left < LEAST:
            figures[name] = {"left out": "no time is left"}
        else:
            figures[name] = run(name, arguments, asked.out, min(left - 5, LONGER.get(name, LIMIT)))
        print(name, json.dumps(figures[name]), flush=True)
        (asked.out / "figures.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
