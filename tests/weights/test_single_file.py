"""Files of random weights, loaded by us and converted by diffusers' single-file loader: the same answers, float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.nets.layers import timestep_embedding
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import LoadedModel, Residency
from tests.nets.diffusers_keys import vae_arguments
from tests.weights.tiny import LAYOUTS, VAE, write_tiny

LABELS = ("SD 1.x", "SD 2.x (v)", "SDXL", "SDXL refiner")


@dataclass(frozen=True)
class Pair:
    model: LoadedModel
    tensors: dict[str, Tensor]
    seed: int


@pytest.fixture(scope="module", params=LABELS)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Pair]:
    folders = Folders.under(tmp_path_factory.mktemp("single"))
    path: Path = folders.checkpoint_dirs[0] / f"{request.param}.safetensors"
    write_tiny(path, request.param, test_seed, dtype=torch.float32)
    facts = detect(use_cpu=True)
    catalogue = Catalogue(folders, folders.database)
    residency = Residency(catalogue, facts)
    with residency.lease(catalogue.find(request.param), choose(facts, Settings())) as model, torch.inference_mode():
        yield Pair(model, load_file(path), test_seed)
    residency.close()


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def their_unet(label: str, tensors: dict[str, Tensor]) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = LAYOUTS[label].unet
    widths = tuple(config.model_channels * mult for mult in config.channel_mult)
    per_level = config.num_res_blocks
    depths = config.input_depths[::per_level]
    deepest = (*depths[:-1], config.middle_depth or 0)  # the middle takes the last level's number
    options: dict[str, Any] = {
        "block_out_channels": widths,
        "layers_per_block": per_level,
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": tuple(width // 32 for width in widths),  # which are heads, for historical reasons
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in depths[::-1]),
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in deepest),
        "use_linear_projection": config.linear_projection,
    }
    if config.adm_channels:
        options |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "class_embed_type": None,
            "projection_class_embeddings_input_dim": config.adm_channels,
        }  # fmt: skip
    net: Any = UNet2DConditionModel(**options).eval()
    found = convert_ldm_unet_checkpoint(dict(tensors), net.config)
    net.load_state_dict(found)
    return net


def test_unet(pair):
    net = their_unet(pair.model.checkpoint.name, pair.tensors)
    config = pair.model.unet.config
    generator = torch.Generator().manual_seed(pair.seed)
    x = torch.randn(2, 4, 16, 8, generator=generator)
    context = torch.randn(2, 77, config.context_dim, generator=generator)
    t = torch.tensor([7.0, 731.0])
    y, added = None, None
    if config.adm_channels:
        numbers = torch.tensor([[512.0, 768, 0, 8, 1024, 1000], [64.0, 64, 1, 0, 64, 64]])
        numbers = numbers[:, : (config.adm_channels - 64) // 256]
        pooled = torch.randn(2, 64, generator=generator)
        y = torch.cat([pooled, timestep_embedding(numbers.flatten(), 256).view(2, -1)], dim=1)
        added = {"text_embeds": pooled, "time_ids": numbers}
    ours = pair.model.unet(x, t, context, y)
    theirs = net(x, t, context, added_cond_kwargs=added).sample
    assert theirs.std() > 0.05
    assert relative(ours, theirs) < 1e-4


def test_autoencoder(pair):
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    widths = tuple(VAE.ch * mult for mult in VAE.ch_mult)
    net: Any = AutoencoderKL(**{**vae_arguments(widths), "layers_per_block": VAE.num_res_blocks}).eval()
    net.load_state_dict(convert_ldm_vae_checkpoint(dict(pair.tensors), net.config))
    generator = torch.Generator().manual_seed(pair.seed)
    picture = torch.rand(1, 3, 64, 48, generator=generator) * 2 - 1
    z = torch.randn(1, 4, 6, 9, generator=generator)
    mean, logvar = pair.model.vae.encode_moments(picture)
    theirs = net.encode(picture).latent_dist
    assert relative(mean, theirs.mean) < 1e-4
    assert relative(logvar, theirs.logvar) < 1e-4
    assert relative(pair.model.vae.decode(z), net.decode(z).sample) < 1e-4


def test_text_towers(pair):
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    generator = torch.Generator().manual_seed(pair.seed)
    for tower, (prefix, opened, config) in zip(pair.model.towers, LAYOUTS[pair.model.checkpoint.name].towers):
        net: Any = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=config.width, intermediate_size=config.mlp,
                num_hidden_layers=config.layers, num_attention_heads=config.heads, hidden_act=config.activation,
                projection_dim=config.width, eos_token_id=49407,
            )
        ).eval()  # fmt: skip
        if opened:
            found = convert_open_clip_checkpoint(net, pair.tensors, prefix)
            found = {key if key.startswith("text_") else f"text_model.{key}": value for key, value in found.items()}
        else:
            found = convert_ldm_clip_checkpoint(pair.tensors, remove_prefix="conditioner.embedders.0.transformer.")
        found.setdefault("text_projection.weight", torch.zeros(config.width, config.width))  # unused by SD 1 and 2
        net.load_state_dict({key: found[key] for key in net.state_dict()})
        ids = torch.randint(0, 49406, (2, 77), generator=generator)
        ids[0, 20], ids[0, 21:], ids[1, 76] = 49407, 0, 49407
        states = tower.net.hidden_states(tower.net.embed(ids))
        theirs = net(ids, output_hidden_states=True)
        for ours, other in zip(states, theirs.hidden_states, strict=True):
            assert relative(ours, other) < 1e-4
        if tower.facts.pooled:
            assert relative(tower.net.pooled(states[-1], ids), theirs.text_embeds) < 1e-4
