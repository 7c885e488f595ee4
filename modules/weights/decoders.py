"""Files of small decoders (TAESD, VAE-approx), for previews and quick decoding. A missing file is no error."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from modules.nets.taesd import WIDTH, ApproxDecoder, TaesdDecoder
from modules.schema.errors import BadFile
from modules.schema.folders import Folders
from modules.weights.headers import Header
from modules.weights.reading import open_model

Small = Literal["TAESD", "Approx NN"]
NAMES: dict[tuple[Small, bool], tuple[str, ...]] = {
    ("TAESD", False): ("VAE-taesd/taesd_decoder",),
    ("TAESD", True): ("VAE-taesd/taesdxl_decoder",),
    ("Approx NN", False): ("VAE-approx/model",),
    ("Approx NN", True): ("VAE-approx/vaeapprox-sdxl",),
}
PREFIXES = ("", "decoder.", "decoder.layers.")


def find(folders: Folders, kind: Small, sdxl: bool, checkpoint: str = "") -> Path | None:
    """The file of a small decoder; None where there is none.

    A TAESD decoder made for one checkpoint bears its name without the ending, `<checkpoint>_decoder`, and comes before
    the one of the family, which has A1111's name.
    """
    own = (f"VAE-taesd/{checkpoint}_decoder",) if kind == "TAESD" and checkpoint else ()
    for name in (*own, *NAMES[kind, sdxl]):
        for ending in (".safetensors", ".pth", ".pt"):
            # A1111 keeps the one in VAE-taesd, others in VAE-approx.
            for place in (name, name.replace("VAE-taesd", "VAE-approx")):
                path = folders.models / f"{place}{ending}"
                if path.is_file():
                    return path
    return None


def load(path: Path, kind: Small, channels: int, device: torch.device) -> nn.Module:
    """A small decoder in float32.

    Raises:
        BadFile: the file is damaged or holds another net.
    """
    with open_model(path) as file:
        keys = file.header.tensors
        with torch.device("meta"):
            net = TaesdDecoder(channels, _width(file.header)) if kind == "TAESD" else ApproxDecoder(channels)
        wanted = net.state_dict()
        # diffusers leaves the first layer, which has no weights, out of its numbers
        places = [{name: f"{prefix}{_shifted(name, prefix)}" for name in wanted} for prefix in PREFIXES]
        place = next((p for p in places if all(key in keys for key in p.values())), None)
        if place is None or any(keys[place[name]].shape != tuple(t.shape) for name, t in wanted.items()):
            raise BadFile(f"{path.name} is no {kind} decoder for {channels}-channel latents; get it again.")
        state = {name: file.tensor(key).to(device, torch.float32) for name, key in place.items()}
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def _width(header: Header) -> int:
    """Channels of the TAESD decoder of that file, told by its first convolution."""
    shapes = [header.shape(f"{prefix}{_shifted('1.weight', prefix)}") for prefix in PREFIXES]
    return next((shape[0] for shape in shapes if shape), WIDTH)


def _shifted(name: str, prefix: str) -> str:
    first, _, rest = name.partition(".")
    return f"{int(first) - 1}.{rest}" if prefix.endswith("layers.") and first.isdecimal() else name
