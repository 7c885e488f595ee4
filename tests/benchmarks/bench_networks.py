"""How long a rank-32 LoRA takes on a full-size SDXL: to put on, to change, to take off, and when nothing changes.

    python -m tests.benchmarks.bench_networks [--device cuda] [--beside-diffusers]

The model has SDXL's shapes and weights of one repeated random block, in float16; the LoRA is a file with every linear
layer of the transformer blocks and text encoders (226 MB). Beside diffusers: the denoiser alone with its part of that
file, against `load_lora_adapter` and `fuse_lora` on the same shapes. Processor time on the CPU, wall time on a card.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from modules.weights.adapters.apply import Network, Networks
from modules.weights.keymaps import Target, diffusers_names

SDXL = UNetConfig(
    channel_mult=(1, 2, 4), input_depths=(0, 0, 2, 2, 10, 10), middle_depth=10,
    output_depths=(10, 10, 10, 2, 2, 2, 0, 0, 0), context_dim=2048, adm_channels=2816, linear_projection=True,
    num_heads=None, head_dim=64,
)  # fmt: skip
TOWERS = (ClipConfig(), ClipConfig(width=1280, layers=32, heads=20, mlp=5120, activation="gelu", projection=1280))


class Repeated:
    """Pristine weights out of one random block, so that no second copy of the model is needed."""

    def __init__(self, nets: dict[str, nn.Module]) -> None:
        self.nets = nets
        self.block = torch.randn(26_214_400).half() * 0.02

    def __call__(self, target: Target, name: str) -> Tensor:
        shape = getattr(self.nets[target.net].get_submodule(target.path), name).shape
        return self.block[: shape.numel()].view(shape)

    def close(self) -> None:
        pass


def model(device: torch.device) -> dict[str, nn.Module]:
    """SDXL's nets in float16, not initialised."""
    with torch.device("meta"):
        nets: dict[str, nn.Module] = {"unet": UNet(SDXL), **{f"te{n}": TextEncoder(c) for n, c in enumerate(TOWERS, 1)}}
    for net in nets.values():
        for module in net.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                value = torch.zeros(parameter.shape, dtype=torch.float16, device=device)
                setattr(module, name, nn.Parameter(value, requires_grad=False))
    return nets


def write_lora(path: Path, nets: dict[str, nn.Module], rank: int) -> int:
    """How many layers it has."""
    tensors: dict[str, Tensor] = {}
    for net, module in nets.items():
        prefix = "lora_unet_" if net == "unet" else f"lora_{net}_text_model_"
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) and ("transformer_blocks" in name or "layers" in name.split(".")):
                key = prefix + name.replace(".", "_")
                tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, rank).half() * 0.01
                tensors[f"{key}.lora_down.weight"] = torch.randn(rank, layer.in_features).half() * 0.01
                tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)
    return len(tensors) // 3


def timed(what: str, act: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    before, start = memory(device), clock()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    print(f"{what:34} {seconds:8.3f} s   {memory(device) - before:+6.2f} GB, peak {peak(device):5.1f} GB", flush=True)
    return seconds


def memory(device: torch.device) -> float:
    """GB in use now."""
    used = torch.cuda.memory_allocated() if device.type == "cuda" else psutil.Process().memory_info().rss
    return used / 1e9


def peak(device: torch.device) -> float:
    """GB in use at most, since the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def beside_diffusers(path: Path, device: torch.device) -> None:
    """The denoiser's part of the LoRA, put on by us and loaded and fused by diffusers, one net in memory at a time."""
    tensors = {key: tensor for key, tensor in load_file(path).items() if key.startswith("lora_unet_")}
    small = path.with_name("unet.safetensors")
    save_file(tensors, small)
    with torch.device("meta"):
        names = diffusers_names(UNet(SDXL))
        layers = {name for name, layer in UNet(SDXL).named_modules() if isinstance(layer, nn.Linear)}
    state = {
        f"{names.get(name, name)}.{part}.weight": tensors[key]
        for name in layers
        for part, own in (("lora_A", "lora_down"), ("lora_B", "lora_up"))
        if (key := f"lora_unet_{name.replace('.', '_')}.{own}.weight") in tensors
    }
    mine, other = _ours(small, device), _theirs(state, device)
    print(f"{len(state) // 2} layers; diffusers takes {other / mine:.1f} times as long")


def _ours(path: Path, device: torch.device) -> float:
    unet = model(device)["unet"]
    assert isinstance(unet, UNet)
    networks = Networks(unet, [], Repeated({"unet": unet}), "sdxl", "SDXL", device)
    return timed("Easel: put on, denoiser alone", lambda: networks.apply([Network(path, "lora")]), device)


def _theirs(state: dict[str, Tensor], device: torch.device) -> float:
    from diffusers import UNet2DConditionModel  # it takes seconds to import

    make: Any = UNet2DConditionModel
    with torch.device("meta"):
        net = make(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
    net = net.half().to_empty(device=device)
    for parameter in net.parameters():
        parameter.data.zero_()

    def fuse() -> None:
        net.load_lora_adapter(state, prefix=None)
        net.fuse_lora()

    return timed("diffusers: load and fuse", fuse, device)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beside-diffusers", action="store_true")
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args()
    device = torch.device(options.device)
    nets = model(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        layers = write_lora(path, nets, options.rank)
        if options.beside_diffusers:
            del nets
            return beside_diffusers(path, device)
        print(f"{layers} layers, {path.stat().st_size / 1e6:.0f} MB, {torch.get_num_threads()} threads, {device}")
        unet = nets["unet"]
        assert isinstance(unet, UNet)
        networks = Networks(unet, [nets["te1"], nets["te2"]], Repeated(nets), "sdxl", "SDXL", device)
        timed("put on", lambda: networks.apply([Network(path, "lora")]), device)
        timed("the same again", lambda: networks.apply([Network(path, "lora")]), device)
        timed("another strength, denoiser alone", lambda: networks.apply([Network(path, "lora", 1.0, 0.5)]), device)
        timed("take off", lambda: networks.apply([]), device)


if __name__ == "__main__":
    main()
