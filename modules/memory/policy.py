"""How a model is to be run on a machine: a pure function from facts to decisions, held by a table of machines.

For example:

    policy = choose(detect(), settings, sizes)      # Policy(device=cpu, denoiser_dtype=torch.float32, …)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from modules.memory.devices import DeviceFacts
from modules.schema.settings import Settings

GB = 1_000_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Sizes:
    """Parameters of each net of a model (SD 1.5's by default)."""

    denoiser: int = 859_520_964
    vae: int = 83_653_863
    text: int = 123_060_480


@dataclass(frozen=True)
class Policy:
    """`pictures_per_call`: at most so many pictures go through the denoiser together.

    `attention` is a name in `nets.attention.ATTENTIONS`. `packed`: weights lie in oneDNN's order. `channels_last`: the denoiser's convolutions keep the
    channels of a pixel together in memory. `models_kept`: so many checkpoints stay in memory, those not in use in RAM
    where `one_on_device`; neither changes how a model is loaded.
    """

    device: torch.device
    denoiser_dtype: torch.dtype
    vae_dtype: torch.dtype
    text_dtype: torch.dtype
    attention: str = "sdp"
    pictures_per_call: int = 1
    channels_last: bool = False
    packed: bool = False
    models_kept: int = field(default=1, compare=False)
    one_on_device: bool = field(default=True, compare=False)


def choose(facts: DeviceFacts, settings: Settings, sizes: Sizes | None = None) -> Policy:
    """Decide. `settings.model.precision` other than "auto" sets the denoiser's numbers; the rest follows the machine.

    - CPU: float32, one picture per call: then a picture of a batch equals that seed alone, bit for bit.
    - CUDA: float16 where the card does it right (closer to float32 than bfloat16 at the same speed). The autoencoder
      overflows float16 first, so it stays in float32 where memory allows.
    - MPS: float16 denoiser, float32 autoencoder (half-precision decoding there gives NaN on some systems).
    """
    return replace(
        _choose(facts, settings, sizes or Sizes()),
        models_kept=settings.model.sd_checkpoints_limit,
        one_on_device=settings.model.sd_checkpoints_keep_in_cpu,
    )


def _choose(facts: DeviceFacts, settings: Settings, sizes: Sizes) -> Policy:
    denoiser = _denoiser_dtype(facts, settings.model.precision)
    if facts.kind == "cpu":
        # torch's float32 GroupNorm takes a variance as E[x²] - E[x]² when channels are last: 2e-5 off where the plain
        # layout is 2e-7 off, for a gain of 3 to 7 %. In bfloat16 that drowns, and the gain is 14 %.
        half = denoiser != torch.float32
        # Measured at q, k, v (2, 8, 4096, 40): bfloat16 sdp 290 ms, split 128, onednn 107 to 125; float32 sdp 271,
        # split 309, onednn 152 to 169. What oneDNN cannot do here goes by split.
        return Policy(facts.device, denoiser, torch.float32, torch.float32, "onednn", channels_last=half, packed=True)
    if facts.kind == "mps":
        return Policy(facts.device, denoiser, torch.float32, torch.float32, attention="split")
    roomy = facts.memory >= 7.5 * GB
    half = denoiser if denoiser != torch.float32 else (torch.float16 if facts.fp16 else torch.float32)
    left = facts.memory - sizes.denoiser * denoiser.itemsize - (sizes.vae + sizes.text) * (4 if roomy else 2) - 1 * GB
    # About 0.5 GB per 512x512 picture and its negative prompt in half precision, attention included.
    per_picture = 0.25 * GB * denoiser.itemsize
    return Policy(
        facts.device,
        denoiser,
        vae_dtype=torch.float32 if roomy else half,
        text_dtype=torch.float32 if roomy else half,
        pictures_per_call=max(1, min(16, int(left / per_picture))),
        channels_last=denoiser != torch.float32,
    )


def _denoiser_dtype(facts: DeviceFacts, precision: str) -> torch.dtype:
    if precision != "auto":
        return DTYPES[precision]
    return torch.float16 if facts.kind != "cpu" and facts.fp16 else torch.float32
