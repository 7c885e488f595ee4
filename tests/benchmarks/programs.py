"""Easel and diffusers, loading the same file for the same work. Each is imported only where it is asked for, so that

    python -m tests.benchmarks.programs easel|diffusers FAMILY DTYPE FILE CACHE DEVICE

starts as cold as that program does: it loads, makes one guided call of the denoiser, and tells how long it took.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modules.nets.torchvision_fit import fit_torchvision  # imports nothing but torch
from modules.schema.folders import Folders

if TYPE_CHECKING:
    from modules.weights.residency import LoadedModel


@dataclass(frozen=True)
class Family:
    """`latent`: side of the native picture's latents. `theirs`: arguments of diffusers' U-Net. `context`, `vector`:
    widths of what the net is told."""

    layout: str
    latent: int
    theirs: dict[str, Any]
    context: int = 768
    vector: int = 0


FAMILIES = {
    "sd1": Family("SD 1.x", 64, {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}),
    "sdxl": Family(
        "SDXL",
        128,
        {
            "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "sample_size": 128,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        context=2048, vector=2816,
    ),
    # No family: a net of a second, by which a run of everything is rehearsed. Without a peer.
    "tiny": Family("", 8, {}, context=32),
}  # fmt: skip


def folders_of(cache: Path) -> Folders:
    return Folders.under(cache)


def easel(path: Path, cache: Path, dtype: torch.dtype, device: str, **options: Any) -> LoadedModel:
    """Loaded as a job would load it; its VAE in the same number type, as diffusers has it. `options`: settings."""
    from modules.memory import devices
    from modules.memory.fastest import Fastest
    from modules.memory.policy import choose
    from modules.pipeline.run import candidates
    from modules.schema.settings import Settings
    from modules.weights.catalogue import Catalogue
    from modules.weights.residency import Residency
    from modules.weights.sizes import sizes_of

    folders = folders_of(cache)
    catalogue = Catalogue(folders, folders.database)
    facts = devices.detect(use_cpu=device == "cpu")
    name = str(dtype).removeprefix("torch.")
    settings = Settings().with_options({"precision": name, "vae_precision": name, **options})
    checkpoint = catalogue.find(path.stem)
    policy = choose(facts, settings, sizes_of(checkpoint))
    residency = Residency(catalogue, facts, Fastest(candidates(facts), facts.name))
    with residency.lease(checkpoint, replace(policy, text=name)) as model:
        return model


def theirs(path: Path, family: str, part: str, dtype: torch.dtype, device: str) -> Any:
    """A net of diffusers or transformers from the same file, as a user loads it."""
    fit_torchvision()
    import diffusers as typed

    diffusers: Any = typed  # its annotations say less than it takes
    with tempfile.TemporaryDirectory() as folder:
        if part == "unet":
            with torch.device("meta"):
                diffusers.UNet2DConditionModel(**FAMILIES[family].theirs).save_config(folder)
            net = diffusers.UNet2DConditionModel.from_single_file(str(path), config=folder, torch_dtype=dtype)
        else:
            with torch.device("meta"):
                diffusers.AutoencoderKL(
                    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                ).save_config(folder)  # fmt: skip
            net = diffusers.AutoencoderKL.from_single_file(str(path), config=folder, torch_dtype=dtype)
    return net.to(device).eval()


def their_text(dtype: torch.dtype, device: str) -> Any:
    """CLIP-L as transformers builds it (its weights do not matter for its speed)."""
    fit_torchvision()
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    return CLIPTextModel(CLIPTextConfig(**sizes, num_attention_heads=12)).to(device, dtype).eval()  # type: ignore[arg-type]


def inputs(family: str, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x [2, 4, h, w], timesteps, context and SDXL's vector for one guided call."""
    asked = FAMILIES[family]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, asked.latent, asked.latent, generator=generator).to(device, dtype)
    context = torch.randn(2, 77, asked.context, generator=generator).to(device, dtype)
    y = torch.randn(2, asked.vector, generator=generator).to(device, dtype) if asked.vector else None
    return x, torch.tensor([500.0, 500.0], device=device), context, y


def added(y: Tensor | None) -> dict[str, Any]:
    """What diffusers' SDXL wants beside the text."""
    return {} if y is None else {"added_cond_kwargs": {"text_embeds": y[:, :1280], "time_ids": torch.zeros(2, 6).to(y)}}


def main(who: str, family: str, number: str, path: Path, cache: Path, device: str) -> None:
    """Load, one call, tell. What is imported for it is no part of `load`."""
    dtype = getattr(torch, number)
    x, t, context, y = inputs(family, dtype, device)
    with torch.inference_mode():
        if who == "easel":
            import modules.pipeline.run  # noqa: F401

            began = time.perf_counter()
            model = easel(path, cache, dtype, device)
            load = time.perf_counter() - began
            model.unet(x, t, context, y)
        else:
            fit_torchvision()
            from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
            from transformers import CLIPTextModel  # noqa: F401

            began = time.perf_counter()
            unet = theirs(path, family, "unet", dtype, device)
            kept = theirs(path, family, "vae", dtype, device), their_text(dtype, device)
            load = time.perf_counter() - began
            unet(x, t, context, **added(y))
            del kept
    used = resource.getrusage(resource.RUSAGE_SELF)
    facts = {"load": load, "processor": used.ru_utime + used.ru_stime, "rss": peak_rss() / 1e6}
    print(json.dumps({name: round(value, 2) for name, value in facts.items()}), flush=True)


def peak_rss() -> float:
    """Bytes. Linux's getrusage would tell the parent's peak where that was larger."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS tells bytes


if __name__ == "__main__":
    who, family, number, path, cache, device = sys.argv[1:]
    main(who, family, number, Path(path), Path(cache), device)
