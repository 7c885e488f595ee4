"""What the optional accelerations gain and what they change: `python -m tests.benchmarks.bench_accelerations`.

The gain is that of a full-size SD 1.x at 512x512, random weights: processor seconds of what is left out or smaller,
beside the plain way, call by call. The error is that of the shipped model, whose pictures mean something: the mean and
the largest difference of a picture's values (of 255) from the picture drawn plainly, over a few seeds. How many calls
the first-block cache leaves out depends on what is drawn, so its gain is that of the share it left out there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modules.memory import devices
from modules.nets.hypertile import Tiling
from modules.nets.taesd import TaesdDecoder
from modules.nets.unet import Deep, FirstBlock, Prompted
from modules.pipeline.run import Engine
from modules.schema.events import Event, ImageReady
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from tests.benchmarks import bench_speed as bench

SHIPPED = bench.ROOT / "models"
PROMPT = "a red house on green hills, night, moon"
STEPS = 20
TAESD = "TAESD, of the decoding"
"""Its error is that of the small decoder that was trained for the shipped model."""
OPTIONS: dict[str, dict[str, Any]] = {
    "token merging 0.3": {"token_merging_ratio": 0.3},
    "token merging 0.5": {"token_merging_ratio": 0.5},
    "deep cache 2": {"deep_cache_interval": 2},
    "deep cache 3": {"deep_cache_interval": 3},
    "first block cache 0.1": {"first_block_cache_threshold": 0.1},
    "first block cache 0.2": {"first_block_cache_threshold": 0.2},
    "hypertile": {"hypertile_enable_unet": True, "hypertile_max_tile_unet": 128},
    "hypertile of the VAE": {"hypertile_enable_vae": True, "hypertile_max_tile_vae": 128},
    TAESD: {"sd_vae_decode_method": "TAESD"},
}
FLOAT8 = "float8 products"
if "fp8" in devices.detect().features:
    OPTIONS[FLOAT8] = {"fp8_storage": "Enable", "fp8_matmul": True}


@dataclass(frozen=True)
class Row:
    """`gain`: plain seconds / seconds, of a call on average. `mean`, `largest`: of 255; None where there is no file."""

    name: str
    gain: float
    mean: float | None = None
    largest: float | None = None


def seconds(call: Callable[[], Any], rounds: int) -> float:
    best = float("inf")
    for number in range(rounds + 1):
        began = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
        if number or rounds == 0:
            best = min(best, now - began)
    return best


def gains(dtype: torch.dtype, cache: Path, rounds: int, device: str, left_out: Mapping[str, float]) -> dict[str, float]:
    """`left_out`: what share of calls an option spares (`errors`)."""
    model = bench.easel(bench.model_file("sd1", cache), cache, dtype, device)
    x, t, context, y = bench.inputs("sd1", dtype, device)
    prompted = Prompted(context)
    with torch.inference_mode():
        plain = seconds(lambda: model.unet(x, t, prompted, y), rounds)
        found = {"keys and values once": seconds(lambda: model.unet(x, t, context, y), rounds) / plain}
        for name, options in OPTIONS.items():
            if ratio := options.get("token_merging_ratio"):
                merged = seconds(lambda: model.unet(x, t, prompted, y, merging=ratio), rounds)
                found[name] = plain / merged
        tiled = seconds(lambda: model.unet(x, t, prompted, y, tiling=Tiling(16)), rounds)
        found["hypertile"] = plain / tiled
        deep = Deep()
        model.unet(x, t, prompted, y, cache=deep)
        deep.fresh = False
        shallow = seconds(lambda: model.unet(x, t, prompted, y, cache=deep), rounds)
        first = FirstBlock(1.0)
        model.unet(x, t, prompted, y, cache=first)
        short = seconds(lambda: model.unet(x, t, prompted, y, cache=first), rounds)
        for name, options in OPTIONS.items():
            if interval := options.get("deep_cache_interval"):
                found[name] = plain * interval / (plain + (interval - 1) * shallow)
            if "first_block_cache_threshold" in options:
                found[name] = plain / (plain + left_out[name] * (short - plain))
        z = x[:1].to(model.policy.vae_dtype)
        small = TaesdDecoder().to(device).eval()
        full = seconds(lambda: model.vae.decode(z), rounds)
        tiled = seconds(lambda: model.vae.decode(z, Tiling(16)), rounds)
        found["hypertile of the VAE"] = full / tiled
        found[TAESD] = full / seconds(lambda: small(x[:1].float()), rounds)
        if FLOAT8 in OPTIONS:
            del model
            eight = bench.easel(bench.model_file("sd1", cache), cache, dtype, device, **OPTIONS[FLOAT8])
            found[FLOAT8] = plain / seconds(lambda: eight.unet(x, t, Prompted(context), y), rounds)
    return found


def drawn(engine: Engine, options: dict[str, Any], seeds: int) -> list[np.ndarray]:
    events: list[Event] = []
    settings = Settings().with_options({"live_previews_enable": False, **options})
    request = GenerationRequest(prompt=PROMPT, seed=1, n_iter=seeds, steps=STEPS, width=256, height=256)
    engine.run("bench", request, settings, events.append, bench.Hand())  # type: ignore[arg-type]
    found = []
    for event in events:
        if isinstance(event, ImageReady) and event.record.path:
            with Image.open(engine.folders.data / event.record.path) as image:
                found.append(np.asarray(image.convert("RGB")).astype(float))
    return found


def errors(seeds: int) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """By option: the mean and the largest difference, and what share of calls left the middle of the net out."""
    with tempfile.TemporaryDirectory() as folder:
        own = Folders.under(Path(folder))
        engine = Engine(Folders(**{**vars(own), "models": SHIPPED, "checkpoint_dirs": (SHIPPED / "Stable-diffusion",)}))
        plain = drawn(engine, {}, seeds)
        asked, calls = 0, seeds * STEPS

        def count(*_: object) -> None:
            nonlocal asked
            asked += 1

        next(iter(engine.residency._kept.values())).unet.middle_block.register_forward_hook(count)
        found, left_out = {}, {}
        for name, options in OPTIONS.items():
            asked = 0
            off = [np.abs(a - b) for a, b in zip(plain, drawn(engine, options, seeds))]
            found[name] = statistics.mean(float(o.mean()) for o in off), max(float(o.max()) for o in off)
            left_out[name] = 1 - asked / calls
        engine.close()
    return found, left_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtype", choices=bench.DTYPES, default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=bench.CACHE)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    off, left_out = errors(asked.seeds)
    faster = gains(getattr(torch, asked.dtype), asked.cache, asked.rounds, asked.device, left_out)
    rows = [Row(name, round(gain, 3), *(round(e, 2) for e in off.get(name, ()))) for name, gain in faster.items()]
    print(f"{'what':26} {'gain':>6} {'mean off':>9} {'largest':>8}")
    for row in rows:
        print(f"{row.name:26} {row.gain:6.2f} {'' if row.mean is None else row.mean:>9} {row.largest or '':>8}")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
