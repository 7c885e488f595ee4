"""Easel beside diffusers: `python -m tests.benchmarks.bench_speed [--json FILE] [--family sd1|sdxl] [--dtype …] …`.

Full-size files of random weights are generated once into a cache folder. Both programs then read the same file and do
the same work: one denoiser call with guidance, a VAE decode, a prompt; in the same process, one after the other, round
by round, and the best round counts, for wall time and for processor time (which other programs disturb less). Cold
starts and memory are measured in processes of their own. The table goes to docs/benchmarks.md with `--write`.

`--peer comfyui --peer-path FOLDER` measures beside a checkout of ComfyUI instead, run by `--peer-python` (peers.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modules.memory import devices
from modules.memory.machine import dtype_of
from modules.nets.autoencoder import AutoencoderConfig
from modules.pipeline.run import Engine
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.service.worker import ENVIRONMENT
from modules.weights.residency import LoadedModel
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.programs import FAMILIES, added, easel, folders_of, inputs, their_text, theirs
from tests.weights.full_size import LAYOUTS
from tests.weights.tiny import write_layout, write_tiny_sd15

DTYPES = ("float32", "bfloat16", "float16")
ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "easel-benchmarks"


@dataclass(frozen=True)
class Row:
    """Seconds or megabytes of both, and easel / peer."""

    name: str
    easel: float
    peer: float

    @property
    def ratio(self) -> float:
        return self.easel / self.peer if self.peer else float("nan")

    def plain(self) -> dict[str, object]:
        return {"name": self.name, "easel": self.easel, "peer": self.peer, "ratio": round(self.ratio, 3)}


def model_file(family: str, cache: Path) -> Path:
    """The random file, made at the first asking (SD 1.x: 2.1 GB, SDXL: 6.9 GB; a minute or three)."""
    path = folders_of(cache).checkpoint_dirs[0] / f"{family}.safetensors"
    if not path.exists():
        print(f"generating {path} …", flush=True)
        making = path.with_suffix(".part")
        if family == "tiny":
            write_tiny_sd15(making, 1)
        else:
            write_layout(making, LAYOUTS[FAMILIES[family].layout], 1, vae=AutoencoderConfig())
        making.rename(path)
    return path


# ------------------------------------------------------------------------------------------------ measuring


def interleaved(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[tuple[float, float], ...]:
    """The best (wall, processor) seconds of each over the rounds, after one that warms up."""
    best = [[float("inf")] * 2, [float("inf")] * 2]
    for number in range(rounds + 1):
        for which, work in enumerate((ours, other)):
            spent = timed(work)
            if number:
                best[which] = [min(pair) for pair in zip(best[which], spent)]
    return tuple((wall, processor) for wall, processor in best)


def rows_of(name: str, ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> Iterator[Row]:
    (wall, processor), (their_wall, their_processor) = interleaved(ours, other, rounds)
    yield Row(f"{name}, s", round(wall, 3), round(their_wall, 3))
    if not torch.cuda.is_available():
        yield Row(f"{name}, processor s", round(processor, 3), round(their_processor, 3))


def compare(family: str, dtype: torch.dtype, cache: Path, rounds: int, device: str) -> Iterator[Row]:
    """Denoiser, decoder and text encoder beside theirs, one pair in memory at a time."""
    path, label = model_file(family, cache), f"{family} {str(dtype).removeprefix('torch.')}"
    model = easel(path, cache, dtype, device)
    with torch.inference_mode():
        for name, work in (
            ("denoiser, one guided call", _denoiser(model, path, family, dtype, device)),
            ("VAE decode", _decoder(model, path, family, dtype, device)),
            ("text encoder (CLIP-L)", _text(model, dtype, device)),
        ):
            yield from rows_of(f"{label} {name}", *work(), rounds)
            gc.collect()


def beside(asked: argparse.Namespace, family: str, dtype: torch.dtype) -> Iterator[Row]:
    """Denoiser and decoder beside another program's, which works in a process of its own when it is its turn."""
    path, number = model_file(family, asked.cache), str(dtype).removeprefix("torch.")
    model = easel(path, asked.cache, dtype, asked.device)
    given = inputs(family, dtype, asked.device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "inputs.pt"
        torch.save(list(given), file)
        work = {"denoiser": lambda: model.unet(*given), "decoder": lambda: model.vae.decode(given[0][:1])}
        with Peer(
            asked.peer, asked.peer_path, asked.peer_python, path, file, number, asked.device, torch.get_num_threads()
        ) as peer:
            for name, ours in work.items():
                best, theirs = (float("inf"),) * 2, (float("inf"),) * 2
                for turn in range(asked.rounds + 1):
                    spent, other = timed(ours), peer.seconds(name)
                    if turn:
                        best, theirs = (min(best[0], spent[0]), min(best[1], spent[1])), tuple(map(min, theirs, other))
                label = f"{family} {number} {name} beside {asked.peer} {peer.version}"
                yield Row(f"{label}, s", round(best[0], 3), round(theirs[0], 3))
                if asked.device == "cpu":
                    yield Row(f"{label}, processor s", round(best[1], 3), round(theirs[1], 3))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


Pair = Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]


def _denoiser(model: LoadedModel, path: Path, family: str, dtype: torch.dtype, device: str) -> Pair:
    def pair() -> tuple[Callable[[], Any], Callable[[], Any]]:
        unet = theirs(path, family, "unet", dtype, device)
        x, t, context, y = inputs(family, dtype, device)
        return lambda: model.unet(x, t, context, y), lambda: unet(x, t, context, **added(y)).sample

    return pair


def _decoder(model: LoadedModel, path: Path, family: str, dtype: torch.dtype, device: str) -> Pair:
    def pair() -> tuple[Callable[[], Any], Callable[[], Any]]:
        vae, z = theirs(path, family, "vae", dtype, device), inputs(family, dtype, device)[0][:1]
        return lambda: model.vae.decode(z), lambda: vae.decode(z).sample

    return pair


def _text(model: LoadedModel, dtype: torch.dtype, device: str) -> Pair:
    def pair() -> tuple[Callable[[], Any], Callable[[], Any]]:
        text, ids = their_text(dtype, device), torch.arange(77, device=device)[None].repeat(2, 1)
        tower = model.towers[0].net
        return lambda: tower.hidden_states(tower.embed(ids)), lambda: text(ids)

    return pair


def remainder(family: str, dtype: torch.dtype, cache: Path, steps: int) -> Iterator[Row]:
    """A job of the whole program: the processor seconds of all but denoiser and decoder, beside theirs in 20 steps.

    Fewer `steps` than 20 may be drawn: what they leave out of all else is next to nothing.
    """
    model_file(family, cache)
    name = str(dtype).removeprefix("torch.")
    settings = Settings().with_options({"precision": name, "vae_precision": name, "sd_model_checkpoint": family})

    folder = tempfile.TemporaryDirectory()
    own = vars(Folders.under(Path(folder.name)))
    engine = Engine(Folders(**{**own, "checkpoint_dirs": folders_of(cache).checkpoint_dirs}))

    def drawn(side: int, steps: int) -> float:
        began = time.process_time()
        request = GenerationRequest(prompt="a lighthouse", seed=1, steps=steps, width=side, height=side)
        engine.run("bench", request, settings, lambda event: None, Hand())  # type: ignore[arg-type]
        return time.process_time() - began

    engine.warm(settings)
    drawn(64, 1)  # loads, hashes
    spent = {"denoiser": 0.0, "decoder": 0.0}
    model = next(iter(engine.residency._kept.values()))
    for part, net in (("denoiser", model.unet), ("decoder", model.vae.decoder)):
        net.register_forward_pre_hook(lambda *_, part=part: spent.__setitem__(part, spent[part] - time.process_time()))
        net.register_forward_hook(lambda *_, part=part: spent.__setitem__(part, spent[part] + time.process_time()))
    whole = drawn(8 * FAMILIES[family].latent, steps)
    nets = spent["denoiser"] * 20 / steps + spent["decoder"]
    yield Row(
        f"{family} {name} all but denoiser and VAE of a job, beside them in 20 steps, processor s",
        round(whole - sum(spent.values()), 3), round(nets, 3),
    )  # fmt: skip
    engine.close()
    folder.cleanup()


class Hand:
    cancelled, finished = False, frozenset[int]()

    def take_skip(self) -> bool:
        return False


def cold(family: str, dtype: str, cache: Path, device: str, rounds: int) -> Iterator[Row]:
    """From a fresh process to the end of the first guided call, and the most memory each needed for it.

    The best of the rounds, each program first in every other one: a virtual machine fetches memory that nothing in it
    has used for a while from its host, which the program that starts first waits for.
    """
    path = model_file(family, cache)
    found: dict[str, list[dict[str, float]]] = {"easel": [], "diffusers": []}
    for number in range(rounds):
        for who in sorted(found, reverse=bool(number % 2)):
            found[who].append(_cold_start(who, family, dtype, path, cache, device))
    mine, other = ({name: min(one[name] for one in facts) for name in facts[0]} for facts in found.values())
    label = f"{family} {dtype}"
    yield Row(f"{label} cold process to first step, s", mine["wall"], other["wall"])
    yield Row(f"{label} the same, processor s", mine["processor"], other["processor"])
    yield Row(f"{label} file to loaded nets, s", mine["load"], other["load"])
    yield Row(f"{label} peak RSS, MB", mine["rss"], other["rss"])
    yield Row(f"{label} peak RSS / file", mine["rss"], round(path.stat().st_size / 1e6))


def _cold_start(who: str, family: str, dtype: str, path: Path, cache: Path, device: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.programs", who, family, dtype, str(path), str(cache), device]
    environ = {**ENVIRONMENT, **os.environ} if who == "easel" else None  # as the drawing process has it
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = next(line for line in child.stdout if line.startswith("{"))
        return {"wall": round(time.perf_counter() - began, 2), **json.loads(line)}


# ------------------------------------------------------------------------------------------------ telling


def machine() -> str:
    import diffusers

    facts = devices.detect()
    features = ", ".join(sorted(facts.features & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}))
    return (
        f"{facts.kind}: {facts.name}, {facts.memory / 1e9:.0f} GB, {torch.get_num_threads()} threads, {features}; "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}"
    )


def table(rows: list[Row]) -> str:
    lines = ["| what | Easel | diffusers | ratio |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r.name} | {r.easel:g} | {r.peer:g} | {r.ratio:.2f} |" for r in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--family", nargs="+", choices=["sd1", "sdxl"], default=["sd1"])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the processor; all where not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "cold", "rest"])
    parser.add_argument("--steps", type=int, default=20, help="of the job whose remaining work is measured")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for the generated files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    parser.add_argument("--peer", choices=PEERS, help="another program than diffusers")
    parser.add_argument("--peer-path", type=Path, help="folder of its checkout")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has what it needs")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.peer and not (asked.peer_path and asked.peer_path.is_dir()):
        parser.error("--peer needs --peer-path, the folder of that program's checkout")
    if asked.peer and asked.write:
        parser.error("--write is for the table beside diffusers; leave it out with --peer")
    rows: list[Row] = []

    def told(found: Iterator[Row]) -> None:
        for row in found:
            rows.append(row)
            print(f"{row.name:48} {row.easel:10g} {row.peer:10g}   {row.ratio:.3f}", flush=True)

    for family in asked.family:
        model_file(family, asked.cache)
        for dtype in asked.dtype:
            if asked.peer:
                told(beside(asked, family, dtype_of(dtype)))
                continue
            if asked.only in (None, "speed"):
                told(compare(family, dtype_of(dtype), asked.cache, asked.rounds, asked.device))
            if asked.only in (None, "cold"):
                told(cold(family, dtype, asked.cache, asked.device, asked.rounds))
            if asked.only in (None, "rest"):
                told(remainder(family, dtype_of(dtype), asked.cache, asked.steps))
    if asked.json:
        asked.json.write_text(json.dumps([row.plain() for row in rows], indent=1))
    if asked.write:
        head, _, tail = DOCUMENT.read_text("utf-8").partition("<!-- measured -->")
        rest = tail.partition("<!-- end -->")[2]
        DOCUMENT.write_text(f"{head}<!-- measured -->\n{machine()}\n\n{table(rows)}\n<!-- end -->{rest}", "utf-8")


if __name__ == "__main__":
    main()
