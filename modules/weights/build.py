"""From plain facts to nets: built on the meta device, checked against the header, then filled from the mapped file.

In the order of use:

    nets = blueprint(facts, header, attention)    # BadFile here costs nothing: no weight has moved
    fill(nets.unet, file, facts.unet, device, dtype)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from modules.nets.attention import Attention, sdp, split
from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from modules.schema.errors import BadFile
from modules.weights.facts import Component, ModelFacts
from modules.weights.headers import Header
from modules.weights.reading import ModelFile

ATTENTIONS: dict[str, Attention] = {"sdp": sdp, "split": split}


@dataclass(frozen=True)
class Nets:
    """The three nets of a checkpoint; `extra` counts keys of the file that no net asks for."""

    unet: UNet
    vae: Autoencoder
    text: TextEncoder
    extra: int


def blueprint(facts: ModelFacts, header: Header, attention: Attention = sdp) -> Nets:
    """Build all nets without memory and compare every key and shape with the header.

    Raises:
        BadFile: keys are missing (count and the first five) or a shape differs (key, expected, found).
    """
    with torch.device("meta"):
        unet = UNet(UNetConfig(**facts.unet.config), attention=attention)
        vae = Autoencoder(AutoencoderConfig(**facts.vae.config), attention=attention)
        text = TextEncoder(ClipConfig(**facts.text.config))
    used = sum(
        _compare(net, keys_of(header, component), header, what)
        for net, component, what in (
            (unet, facts.unet, "U-Net"),
            (vae, facts.vae, "autoencoder"),
            (text, facts.text, "text encoder"),
        )
    )
    return Nets(unet.eval(), vae.eval(), text.eval(), extra=len(header.tensors) - used)


def keys_of(header: Header, component: Component) -> dict[str, str]:
    """The net's own name of each weight → its key in the file."""
    prefix = component.prefix
    return {component.rename(key[len(prefix) :]): key for key in header.tensors if key.startswith(prefix)}


def fill(
    net: nn.Module,
    file: ModelFile,
    component: Component,
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool = False,
) -> None:
    """Give a meta-device net its weights, one tensor at a time, so that at most one is held twice.

    On the CPU, where file and net agree in dtype, the parameters are the mapped file itself.
    """
    keys = keys_of(file.header, component)
    for module_name, module in net.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            key = keys[f"{module_name}.{name}" if module_name else name]
            value = file.tensor(key).to(device=device, dtype=dtype)
            if channels_last and value.dim() == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            setattr(module, name, nn.Parameter(value, requires_grad=False))
            del parameter


def _compare(net: nn.Module, keys: dict[str, str], header: Header, what: str) -> int:
    """How many keys the net uses."""
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in keys]
    if missing:
        first = ", ".join(missing[:5])
        raise BadFile(
            f"{header.path.name} lacks {len(missing)} of the {len(wanted)} tensors of its {what} "
            f"({first}{', …' if len(missing) > 5 else ''}); it is damaged or of another family: get it again."
        )
    for name, tensor in wanted.items():
        info = header.tensors[keys[name]]
        if tuple(tensor.shape) != info.shape:
            raise BadFile(
                f"{header.path.name}: {keys[name]} is {list(info.shape)}, its {what} expects {list(tensor.shape)}; "
                "the file is damaged or of another family."
            )
        if info.dtype[0] not in "FB" or info.dtype == "BOOL":
            raise BadFile(f"{header.path.name}: {keys[name]} holds {info.dtype} numbers, weights are F or BF types.")
    return len(wanted)
