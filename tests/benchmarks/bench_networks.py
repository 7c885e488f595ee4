"""How long a rank-32 LoRA takes on a full-size SDXL: to put on, to change, to take off, and when nothing changes.

    python -m tests.benchmarks.bench_networks [--device cuda]

The model has SDXL's shapes and weights of one repeated random block, in float16; the LoRA is a file with every linear
layer of the transformer blocks and text encoders (226 MB).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from modules.weights.adapters.apply import Network, Networks
from modules.weights.keymaps import Target

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


def timed(what: str, act: Callable[[], object], device: torch.device) -> None:
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what:34} {time.perf_counter() - start:8.3f} s   peak {peak:5.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args()
    device = torch.device(options.device)
    nets = model(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        layers = write_lora(path, nets, options.rank)
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
