"""A full-size SD 1.5 file of random weights, drawn with by us and by diffusers, float32.

Writes one file of 2.1 GB (float16) and removes it; the nets of the two are never in memory together.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.nets.autoencoder import AutoencoderConfig
from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency
from tests.nets.diffusers_keys import unet_key, vae_arguments, vae_key
from tests.weights.tiny import PREFIXES, write_tiny_sd15

STEPS = 5
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory, test_seed):
    folders = Folders.under(tmp_path_factory.mktemp("full"))
    path = folders.checkpoint_dirs[0] / "full.safetensors"
    write_tiny_sd15(path, test_seed, unet=UNetConfig(), vae=AutoencoderConfig(), text=ClipConfig(), dtype=torch.float16)
    yield folders
    path.unlink()


def euler(net: Denoiser, noise: Tensor, context: Tensor, guidance: float = 7.0) -> Tensor:
    """Latents after STEPS Euler steps (Karras et al., arXiv:2206.00364, algorithm 1) with guidance, from pure noise."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    steps = torch.linspace(999, 0, STEPS).round().long()
    sigmas = torch.cat([((1 - alphas) / alphas).sqrt()[steps], torch.zeros(1)]).float()
    x = noise * sigmas[0]
    for step in range(STEPS):
        sigma = sigmas[step]
        eps = net((x / (sigma**2 + 1).sqrt()).expand(2, -1, -1, -1), steps[step].expand(2).float(), context)
        cond, uncond = eps.chunk(2)
        x = x + (uncond + guidance * (cond - uncond)) * (sigmas[step + 1] - sigma)
    return x


def load_theirs(net: Any, path: Path, prefix: str, name: Callable[[str], str]) -> Any:
    with safe_open(path, "pt") as file:
        for key, wanted in list(net.state_dict().items()):
            value = file.get_tensor(prefix + name(key)).float().reshape(wanted.shape)
            owner, _, leaf = key.rpartition(".")
            setattr(net.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))
    return net.eval()


def their_euler(path: Path, noise: Tensor, context: Tensor) -> Tensor:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    load_theirs(unet, path, PREFIXES["unet"], lambda k: unet_key(k, 2, (1, 2, 3)))
    return euler(lambda x, t, c: unet(x, t, c).sample, noise, context)


@pytest.mark.slow
def test_five_steps_equal_diffusers(full_size, test_seed):
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    generator = torch.Generator().manual_seed(test_seed)
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    ids = torch.randint(0, 49406, (2, 77), generator=generator)
    picture = torch.rand(1, 3, 128, 128, generator=generator) * 2 - 1

    catalogue = Catalogue(full_size, full_size.database)
    facts = detect(use_cpu=True)
    with torch.inference_mode():
        residency = Residency(catalogue, facts)
        with residency.lease(catalogue.default(), choose(facts, Settings())) as model:
            text = model.towers[0].net
            context = text.final_layer_norm(text.hidden_states(text.embed(ids))[-1])
            latents = euler(model.unet, noise, context)
            decoded = model.vae.decode(latents / latents.std())
            mean, _ = model.vae.encode_moments(picture)
        del model
        residency.close()

        path = full_size.checkpoint_dirs[0] / "full.safetensors"
        with torch.device("meta"):
            text: Any = CLIPTextModel(CLIPTextConfig(
                vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                eos_token_id=49407,
            ))  # fmt: skip
        inner = getattr(text, "text_model", text)
        inner.embeddings.position_ids = torch.arange(77)[None]
        their_context = load_theirs(text, path, PREFIXES["text"], lambda k: k.removeprefix("text_model."))(
            ids
        ).last_hidden_state
        del text, inner
        their_latents = their_euler(path, noise, their_context)
        with torch.device("meta"):
            vae: Any = AutoencoderKL(**vae_arguments((128, 256, 512, 512)))
        load_theirs(vae, path, PREFIXES["vae"], lambda k: vae_key(k, 4))
        their_picture = vae.decode(latents / latents.std()).sample
        their_mean = vae.encode(picture).latent_dist.mean

    def relative(ours: Tensor, theirs: Tensor) -> float:
        return ((ours - theirs).abs().max() / theirs.abs().max()).item()

    assert their_latents.isfinite().all()
    assert latents.std() > 0.1
    found = {
        "text": relative(context, their_context), "latents": relative(latents, their_latents),
        "decoded": relative(decoded, their_picture), "encoded": relative(mean, their_mean),
    }  # fmt: skip
    print(found)
    assert max(found.values()) < 1e-4, found
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 12e6  # KiB
