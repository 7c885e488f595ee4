"""What a picture is drawn by and on, besides its settings: why the same settings may give other bits elsewhere."""

from __future__ import annotations

import torch

from modules.memory.machine import DeviceFacts
from modules.memory.policy import Policy
from modules.schema.version import NAME, VERSION


def surroundings(policy: Policy, facts: DeviceFacts, attention: str) -> tuple[tuple[str, str], ...]:
    """Names and values; number types are those the nets compute in."""
    vae = f"{policy.vae} on the processor" if policy.vae_apart and facts.is_card else policy.vae
    found = {
        NAME: VERSION,
        "torch": str(torch.__version__),
        "device": facts.name if policy.on != "cpu" else f"processor, {torch.get_num_threads()} threads",
        "denoiser": policy.denoiser if policy.storage is None else f"{policy.denoiser}, kept in {policy.storage}",
        "VAE": vae,
        "text encoder": policy.text,
        "attention": attention,
        "weights": "packed" if policy.packed else policy.placement,
        "calls": policy.calls,
    }
    return tuple(found.items())
