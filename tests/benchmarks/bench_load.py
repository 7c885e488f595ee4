"""From a cold file to a model that is ready: `python -m tests.benchmarks.bench_load [--layout SDXL] [--json FILE]`.

Writes a full-size float16 file of random numbers into a temporary folder, and in a process for each measures seconds
and memory of: reading the same bytes; our loader, every weight touched once; diffusers' single-file loader, likewise.
The file is dropped from the system's cache before each. Models stay in float16, so that all three move the same bytes.
Each is measured `--rounds` times in turn; the fastest counts, since others may use the disk.
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GIB = 2**30


def write_random(path: Path, layout: str) -> None:
    """A file in a released layout, one tensor after the other."""
    from tests.weights.full_size import LAYOUTS, header_of

    generator, entries, place = torch.Generator().manual_seed(1), {}, 0
    header = header_of(LAYOUTS[layout])
    for key, info in header.tensors.items():
        entries[key] = {"dtype": "F16", "shape": info.shape, "data_offsets": (place, place + info.end)}
        place += info.end
    raw = json.dumps(entries).encode()
    raw += b" " * (-len(raw) % 8)
    block = (torch.randn(2**22, generator=generator) * 0.02).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for info in header.tensors.values():
            for begin in range(0, info.end, len(block)):
                file.write(block[: min(len(block), info.end - begin)])
        file.flush()
        os.fsync(file.fileno())


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def touch(tensors: Iterator[Tensor]) -> None:
    """Read one number of every page."""
    for tensor in tensors:
        tensor.detach().reshape(-1)[:: 4096 // tensor.element_size()].sum()


def read_bytes(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(16 * 2**20)
        while file.readinto(buffer):
            pass


def ours(path: Path) -> None:
    from modules.memory.devices import detect
    from modules.memory.policy import choose
    from modules.schema.record import CheckpointView
    from modules.schema.settings import Settings
    from modules.weights.residency import Residency

    facts, half = detect(use_cpu=True), "float16"
    policy = replace(choose(facts, Settings()), denoiser=half, vae=half, text=half, channels_last=False, packed=False)
    view = CheckpointView(name="x", title="x", path=str(path), size=0, family="", resolution=(1024, 1024))
    residency = Residency(None, facts)
    with residency.lease(view, policy) as model:
        for net in (model.unet, model.vae, *(tower.net for tower in model.towers)):
            touch(net.parameters())


def diffusers(path: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as utils
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    xl = "SDXL" in path.stem
    width = {"block_out_channels": (320, 640, 1280)} if xl else {"block_out_channels": (320, 640, 1280, 1280)}
    unet: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8, **width}
    if xl:
        unet |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 2048,
            "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
            "addition_time_embed_dim": 256, "addition_embed_type": "text_time",
            "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
        }  # fmt: skip
    vae = {
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    }  # fmt: skip
    half: dict[str, Any] = {"torch_dtype": torch.float16}
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        UNet2DConditionModel(**unet).save_config(f"{folder}/unet")
        AutoencoderKL(**vae).save_config(f"{folder}/vae")
        sizes = {"text_encoder": (768, 3072, 12, 12, 768), "text_encoder_2": (1280, 5120, 32, 20, 1280)}
        for part, size in sizes.items():
            names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim")
            activation = "quick_gelu" if part == "text_encoder" else "gelu"
            clip = CLIPTextConfig(vocab_size=49408, hidden_act=activation, **dict(zip(names, size)))
            clip.save_pretrained(f"{folder}/{part}")
        with torch.device("cpu"):
            started = time.monotonic()
            checkpoint: Any = utils.load_single_file_checkpoint(str(path))
            nets: list[Any] = [
                UNet2DConditionModel.from_single_file(checkpoint, config=folder, subfolder="unet", **half),
                AutoencoderKL.from_single_file(checkpoint, config=folder, subfolder="vae", **half),
                utils.create_diffusers_clip_model_from_ldm(
                    CLIPTextModel, checkpoint=checkpoint, config=folder, subfolder="text_encoder",
                    local_files_only=True, **half,
                ),
            ]  # fmt: skip
            if xl:
                nets.append(
                    utils.create_diffusers_clip_model_from_ldm(
                        CLIPTextModelWithProjection, checkpoint=checkpoint, config=folder, subfolder="text_encoder_2",
                        local_files_only=True, **half,
                    )
                )  # fmt: skip
            del checkpoint
            for net in nets:
                touch(net.parameters())
            global _MEASURED
            _MEASURED = time.monotonic() - started


_MEASURED: float | None = None  # without the making of configurations
WAYS: dict[str, Callable[[Path], None]] = {"read": read_bytes, "ours": ours, "diffusers": diffusers}
MODULES = {"read": (), "ours": ("modules.weights.residency",), "diffusers": ("diffusers", "transformers")}


def measure(way: str, path: Path) -> dict[str, float]:
    """In this process: seconds (imports are not counted), peak of all memory, and of what is not the mapped file."""
    for name in MODULES[way]:
        __import__(name)
    if way == "diffusers":
        from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel  # noqa: F401
    before = _memory()
    started = time.monotonic()
    WAYS[way](path)
    seconds = _MEASURED or time.monotonic() - started
    return {"seconds": seconds, "peak_gib": _memory()["VmHWM"] - before["VmRSS"], "anonymous_gib": _memory()["RssAnon"]}


def _memory() -> dict[str, float]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {
        line[0].rstrip(":"): int(line[1]) * 1024 / GIB
        for line in lines
        if line[0].startswith(("VmHWM", "VmRSS", "RssAnon"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", default="SDXL", help="SDXL or 'SD 1.x'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.file)))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{args.layout}.safetensors"
        write_random(path, args.layout)
        size = path.stat().st_size / GIB
        for way in list(WAYS) * args.rounds:
            drop_from_cache(path)
            command = [sys.executable, "-m", "tests.benchmarks.bench_load", "--way", way, "--file", str(path)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row = json.loads(out.splitlines()[-1])
            if way not in found or row["seconds"] < found[way]["seconds"]:
                found[way] = row
    for way, row in found.items():
        row["times_reading"] = row["seconds"] / found["read"]["seconds"]
        print(
            f"{args.layout} {size:.1f} GiB {way:10} {row['seconds']:6.2f} s ({row['times_reading']:.2f} x reading), "
            f"peak {row['peak_gib']:.2f} GiB ({row['peak_gib'] / size:.2f} x the file)"
        )
    print(f"ours / diffusers: {found['ours']['seconds'] / found['diffusers']['seconds']:.2f} of the time")
    if args.json:
        args.json.write_text(json.dumps({"layout": args.layout, "gib": size, **found}, indent=2))


if __name__ == "__main__":
    main()
