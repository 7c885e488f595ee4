"""Small random checkpoints in the layouts of the releases, for any test that needs a model: 11 MB, made in 0.1 s.

    path = write_tiny_sd15(tmp_path / "models/Stable-diffusion/tiny.safetensors", seed=test_seed)
    path = write_tiny(tmp_path / "models/Stable-diffusion/xl.safetensors", "SDXL", seed=test_seed)

The scale of the weights keeps activations near 1, so numbers stay finite through any number of steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.controlnet import ControlNet
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


def randomise(
    net: nn.Module, generator: torch.Generator, dtype: torch.dtype = torch.float32, spread: float = 0.05
) -> nn.Module:
    """Fill a net (also one on the meta device) with random weights of sane scale, in place; `spread` is the biases'."""
    for name, parameter in net.state_dict().items():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel() if "embedding" not in name else 1
            value = torch.randn(parameter.shape, generator=generator) * (0.5 / fan_in) ** 0.5
        else:
            value = spread * torch.randn(parameter.shape, generator=generator) + name.endswith("weight")
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


# --------------------------------------------------------------------------------------------------- other families


@dataclass(frozen=True)
class Layout:
    """A family's file in small: nets, and for each text tower (prefix, written as open_clip does?, config)."""

    unet: UNetConfig
    towers: tuple[tuple[str, bool, ClipConfig], ...]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    spread: float = 0.05
    """Standard deviation of biases: a large one marks SD 2's velocity models."""

    def channels(self, count: int, **extra: Tensor) -> Layout:
        return replace(self, unet=replace(self.unet, in_channels=count), extra=extra)


CLIP_L = TEXT
CLIP_H = ClipConfig(width=64, layers=3, heads=1, mlp=64, activation="gelu")
CLIP_G = replace(CLIP_H, projection=64)
_SD1 = Layout(UNET, (("cond_stage_model.transformer.text_model.", False, CLIP_L),))
_SD2 = Layout(
    replace(UNET, context_dim=64, linear_projection=True), (("cond_stage_model.model.", True, CLIP_H),)
)  # fmt: skip
_SDXL_UNET = UNetConfig(
    model_channels=32, channel_mult=(1, 2, 2), input_depths=(0, 0, 1, 1, 2, 2), middle_depth=2,
    output_depths=(2, 2, 2, 1, 1, 1, 0, 0, 0), context_dim=96, adm_channels=64 + 6 * 256, linear_projection=True,
    num_heads=None, head_dim=32,
)  # fmt: skip
_SDXL_L = ("conditioner.embedders.0.transformer.text_model.", False, CLIP_L)
_SDXL = Layout(_SDXL_UNET, (_SDXL_L, ("conditioner.embedders.1.model.", True, CLIP_G)))
_REFINER = Layout(
    replace(
        _SDXL_UNET, channel_mult=(1, 2, 2, 2), input_depths=(0, 0, 1, 1, 1, 1, 0, 0), middle_depth=1,
        output_depths=(0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0), context_dim=64, adm_channels=64 + 5 * 256,
    ),
    (("conditioner.embedders.0.model.", True, CLIP_G),),
)  # fmt: skip
_SSD = replace(
    _SDXL_UNET, input_depths=(0, 0, 2, 2, 4, 4), middle_depth=None, output_depths=(4, 4, 10, 2, 1, 1, 0, 0, 0)
)
_VEGA = replace(_SDXL_UNET, middle_depth=None)
_EMPTY = torch.empty(0)

LAYOUTS: dict[str, Layout] = {
    "SD 1.x": _SD1,
    "SD 1.x/NovelAI": replace(_SD1, towers=(("cond_stage_model.transformer.", False, CLIP_L),)),
    "SD 1.x/SGM": replace(_SD1, towers=(_SDXL_L,)),
    "SD 1.x inpainting": _SD1.channels(9),
    "SD 1.x instruct-pix2pix": _SD1.channels(8),
    "SD 2.x": _SD2,
    "SD 2.x (v)": replace(_SD2, spread=0.3),
    "SD 2.x/SGM": replace(_SD2, towers=(("conditioner.embedders.0.model.", True, CLIP_H),)),
    "SD 2.x inpainting": _SD2.channels(9),
    "SD 2.x depth": _SD2.channels(5, **{"depth_model.model.scratch.output_conv.0.weight": torch.zeros(2, 2, 3, 3)}),
    "SDXL": _SDXL,
    "SDXL/HF": replace(_SDXL, towers=(_SDXL_L, ("conditioner.embedders.1.transformer.text_model.", False, CLIP_G))),
    "SDXL inpainting": _SDXL.channels(9),
    "SDXL instruct-pix2pix": _SDXL.channels(8),
    "SDXL (v)": replace(_SDXL, extra={"v_pred": _EMPTY, "ztsnr": _EMPTY}),
    "SSD-1B": replace(_SDXL, unet=_SSD),
    "Segmind Vega": replace(_SDXL, unet=_VEGA),
    "Playground v2.5": replace(
        _SDXL,
        extra={
            "edm_mean": torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(1, 4, 1, 1),
            "edm_std": torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).view(1, 4, 1, 1),
        },
    ),
    "CosXL": replace(
        _SDXL, extra={"edm_vpred.sigma_min": torch.tensor(0.002), "edm_vpred.sigma_max": torch.tensor(100.0)}
    ),
    "SDXL refiner": _REFINER,
}
"""By the label that detection gives them; what follows a slash is another way of writing the same."""


def open_clip_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text tower as OpenCLIP writes it: fused projections, other names, the projection as x @ P."""
    out = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in state:
        out["text_projection"] = state["text_projection.weight"].t().contiguous()
    else:
        width = state["final_layer_norm.weight"].shape[0]
        out["text_projection"] = torch.ones(width, width)
    for n in range(sum(name.endswith("layer_norm1.weight") for name in state)):
        theirs, ours = f"transformer.resblocks.{n}.", f"encoder.layers.{n}."
        for leaf in ("weight", "bias"):
            out[f"{theirs}attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{ours}self_attn.{which}_proj.{leaf}"] for which in "qkv"]
            )
            for old, new in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):  # fmt: skip
                out[f"{theirs}{new}.{leaf}"] = state[f"{ours}{old}.{leaf}"]
    return out


def layout_tensors(
    layout: Layout, seed: int, vae: AutoencoderConfig = VAE, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """All tensors of a random checkpoint in that layout."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        unet, autoencoder = UNet(layout.unet), Autoencoder(vae)
        towers = [TextEncoder(config) for _, _, config in layout.towers]
    tensors: dict[str, Tensor] = {}
    for prefix, net in ((PREFIXES["unet"], unet), (PREFIXES["vae"], autoencoder)):
        state = randomise(net, generator, dtype, layout.spread).state_dict()
        tensors |= {prefix + name: tensor.detach() for name, tensor in state.items()}
    for (prefix, opened, _), net in zip(layout.towers, towers):
        state = {name: tensor.detach() for name, tensor in randomise(net, generator, dtype).state_dict().items()}
        projection = state.pop("text_projection.weight", None) if not opened else None
        tensors |= {prefix + name: tensor for name, tensor in (open_clip_keys(state) if opened else state).items()}
        if projection is not None:
            tensors[prefix.removesuffix("text_model.") + "text_projection.weight"] = projection
    return tensors | dict(layout.extra)


def write_layout(
    path: Path, layout: Layout, seed: int, *, metadata: Mapping[str, str] | None = None, **options: Any
) -> Path:
    """Write a random checkpoint in a layout. `options`: as in `layout_tensors`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = layout_tensors(layout, seed, **options)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, dict(metadata or {}))
    return path


def write_tiny(path: Path, label: str, seed: int, **options: Any) -> Path:
    """Write a random checkpoint of a family by its name in `LAYOUTS`. `options`: as in `write_layout`."""
    return write_layout(path, LAYOUTS[label], seed, **options)


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


# ----------------------------------------------------------------------------------------------------------- ControlNet


def control_tensors(
    unet: UNetConfig, seed: int, *, zero: bool = False, strength: float = 1.0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A random ControlNet for a U-Net, under the original's keys without a prefix. `zero`: as training begins, what it
    adds is nothing; `strength`: by how much that is multiplied."""
    with torch.device("meta"):
        net = ControlNet(replace(unet, in_channels=4))
    state = randomise(net, torch.Generator().manual_seed(seed), dtype).state_dict()

    def times(key: str) -> float:
        if key.startswith("input_hint_block.") and key.endswith("weight"):
            return 2.0  # eight layers in a row would else hardly let the picture through
        return strength * (not zero) if key.startswith(("zero_convs.", "middle_block_out.")) else 1.0

    return {key: tensor.detach() * times(key) for key, tensor in state.items()}


def write_control(path: Path, unet: UNetConfig, seed: int, *, prefix: str = "control_model.", **options: Any) -> Path:
    """Write a random ControlNet; `options`: as in `control_tensors`. The ending says whether it is a pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {prefix + key: tensor.contiguous() for key, tensor in control_tensors(unet, seed, **options).items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path
