"""Small random checkpoints in the true SD 1.x layout, for any test that needs a model: 11 MB, made in 0.1 s.

    path = write_tiny_sd15(tmp_path / "models/Stable-diffusion/tiny.safetensors", seed=test_seed)

The scale of the weights keeps activations near 1, so numbers stay finite through any number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig

UNET = UNetConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, input_depths=(1, 0), middle_depth=1,
    output_depths=(0, 0, 1, 1), context_dim=32, num_heads=None, head_dim=32,
)  # fmt: skip
VAE = AutoencoderConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)
TEXT = ClipConfig(width=32, layers=2, heads=1, mlp=64)

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text": "cond_stage_model.transformer.text_model.",
}


def randomise(net: nn.Module, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fill a net (also one on the meta device) with random weights of sane scale, in place."""
    for name, parameter in net.state_dict().items():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel() if "embedding" not in name else 1
            value = torch.randn(parameter.shape, generator=generator) * (0.5 / fan_in) ** 0.5
        else:
            value = 0.05 * torch.randn(parameter.shape, generator=generator) + name.endswith("weight")
        owner = net.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(value.to(dtype), requires_grad=False))
    return net.eval()


def tiny_tensors(
    seed: int,
    unet: UNetConfig = UNET,
    vae: AutoencoderConfig = VAE,
    text: ClipConfig = TEXT,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """All tensors of a random checkpoint under the keys of the original files."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        nets = {"unet": UNet(unet), "vae": Autoencoder(vae), "text": TextEncoder(text)}
    return {
        PREFIXES[part] + name: tensor.detach()
        for part, net in nets.items()
        for name, tensor in randomise(net, generator, dtype).state_dict().items()
    }


def write_tiny_sd15(
    path: Path,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
    **configs: Any,
) -> Path:
    """Write a random SD 1.x checkpoint. `configs`: unet, vae, text, as in `tiny_tensors`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tiny_tensors(seed, dtype=dtype, **configs), path, dict(metadata or {}))
    return path


def write_raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """Write a file in the outer form of safetensors: `header` is bytes or JSON, `length` a lie about its length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def write_keys(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a sound file of zeros with these keys and shapes (float16): enough to be recognised, or not."""
    save_file(
        {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, path, dict(metadata or {})
    )
    return path
