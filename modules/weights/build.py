"""From plain facts to nets: built on the meta device, checked against the header, then filled from the mapped file.

In the order of use:

    nets = blueprint(facts, header, attention)    # BadFile here costs nothing: no weight has moved
    fill(nets.unet, file, facts.unet, device, dtype)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.nets.attention import Attention, sdp
from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.controlnet import ControlNet
from modules.nets.layers import PLAIN, Ops
from modules.nets.packed import Packed
from modules.nets.streamed import Stored, Streamed
from modules.nets.unet import UNet, UNetConfig
from modules.schema.errors import BadFile
from modules.weights.controls import ControlFacts
from modules.weights.facts import Component, ModelFacts, Part, TowerFacts
from modules.weights.headers import Header
from modules.weights.reading import ModelFile


@dataclass(frozen=True)
class Tower:
    """A text encoder, and how its family uses it."""

    net: TextEncoder
    facts: TowerFacts


@dataclass(frozen=True)
class Nets:
    """The nets of a checkpoint; `extra` counts keys of the file that no net asks for."""

    unet: UNet
    vae: Autoencoder
    towers: tuple[Tower, ...]
    extra: int


def blueprint(
    facts: ModelFacts,
    header: Header,
    attention: Attention = sdp,
    ops: Ops = PLAIN,
    vae_ops: Ops | None = None,
    text_ops: Ops = PLAIN,
) -> Nets:
    """Build all nets without memory and compare every key and shape with the header. `vae_ops`: of the autoencoder,
    `text_ops`: of the text encoders.

    Raises:
        BadFile: keys are missing (count and the first five) or a shape differs (key, expected, found).
    """
    with torch.device("meta"):
        unet = UNet(UNetConfig(**facts.unet.config), ops, attention)
        vae = Autoencoder(AutoencoderConfig(**facts.vae.config), vae_ops or ops, attention)
        towers = tuple(Tower(TextEncoder(ClipConfig(**t.component.config), text_ops).eval(), t) for t in facts.towers)
    used = _compare(unet, facts.unet, header, "U-Net") | _compare(vae, facts.vae, header, "autoencoder")
    for tower in towers:
        used |= _compare(tower.net, tower.facts.component, header, f"text encoder ({tower.facts.name})")
    return Nets(unet.eval(), vae.eval(), towers, extra=len(header.tensors) - len(used))


def control_blueprint(
    facts: ControlFacts, unet: UNetConfig, attention: Attention = sdp, ops: Ops = PLAIN
) -> tuple[ControlNet, Component]:
    """A ControlNet without memory, compared with its header, and which keys are its own. Its heads are the U-Net's.

    Raises:
        BadFile: as `blueprint`.
    """
    component = Component("", facts.config)
    config = UNetConfig(**{**facts.config, "num_heads": unet.num_heads, "head_dim": unet.head_dim})
    with torch.device("meta"):
        net = ControlNet(config, ops, attention)
    _compare(net, component, facts.header, "ControlNet")
    return net.eval(), component


def fill(
    net: nn.Module,
    file: ModelFile,
    component: Component,
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool = False,
    storage: torch.dtype | None = None,
    pinned: bool = True,
) -> None:
    """Give a meta-device net its weights, one tensor at a time in the order of the file, so that at most one is held
    twice.

    On the CPU, where file and net agree in dtype, the parameters are the mapped file itself. Elsewhere what was read of
    the file is let go of at once, so that memory holds the weights once. Packed layers are packed here; weights of
    `Stored` ones are kept in `storage`; those of `Streamed` ones, not their biases, stay in RAM, `pinned` where that
    fits.
    """
    names = [name for name, _ in net.named_parameters()]
    desk = _Desk(dtype)
    for own_name in sorted(names, key=lambda name: file.place(component.prefix + component.where(name).key)):
        module_name, _, name = own_name.rpartition(".")
        module = net.get_submodule(module_name)
        read = weight_of(file, component, own_name)
        stored = storage if storage and isinstance(module, Stored) and name == "weight" else dtype
        streamed = isinstance(module, Streamed) and name == "weight" and device.type != "cpu"
        # A card's convolution asks its weight, of a single pixel too, how channels are to lie in what it answers.
        kernel = read.dim() == 4 and (read.shape[2:].numel() > 1 or device.type == "cuda")
        order = torch.channels_last if channels_last and kernel else torch.preserve_format
        packed = module if isinstance(module, Packed) and name == "weight" else None
        converted = read.dtype != dtype or order is torch.channels_last
        if converted and packed is not None and packed.would_pack(device, dtype):
            value = desk.copy(read, order)
        else:
            value = read.to(device="cpu" if streamed else device, dtype=stored, memory_format=order)
        if streamed and pinned:
            value = pinned_copy(value)
        setattr(module, name, nn.Parameter(value, requires_grad=False))
        copied = value.device != read.device or value.data_ptr() != read.data_ptr()
        del read, value
        if packed is not None:
            packed.pack()
            copied = copied or packed.packed is not None
        if copied:
            file.let_go(component.prefix + component.where(own_name).key)


class _Desk:
    """Memory in which one weight after the other lies, in another number type or order, until it is packed.

    Into new memory that takes more than twice as long (1280 channels to 1280, one core: 30 ms and 12 ms).
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._memory = torch.empty(0, dtype=dtype)

    def copy(self, value: Tensor, order: torch.memory_format) -> Tensor:
        """The same until the next call."""
        if self._memory.numel() < value.numel():
            self._memory = self._memory.new_empty(value.numel())
        here = self._memory[: value.numel()]
        if order is torch.channels_last:
            a, b, c, d = value.shape
            return here.view(a, c, d, b).permute(0, 3, 1, 2).copy_(value)
        return here.view(value.shape).copy_(value)


def pinned_copy(value: Tensor) -> Tensor:
    """The same in memory a card copies from by itself; where there is no more of that, as it was."""
    try:
        return value.pin_memory()
    except RuntimeError:
        return value


def weight_of(file: ModelFile, component: Component, name: str) -> Tensor:
    """One weight of a net, by the net's own name, as the file holds it."""
    part = component.where(name)
    return _piece(file.tensor(component.prefix + part.key), part)


def _piece(whole: Tensor, part: Part) -> Tensor:
    if part.third is not None:
        whole = whole.chunk(3)[part.third]
    return whole.t().contiguous() if part.transposed else whole


def _piece_shape(whole: tuple[int, ...], part: Part) -> tuple[int, ...]:
    if part.third is not None and whole:
        whole = (whole[0] // 3 if whole[0] % 3 == 0 else 0, *whole[1:])
    return whole[::-1] if part.transposed else whole


def _compare(net: nn.Module, component: Component, header: Header, what: str) -> set[str]:
    """The keys of the file that the net uses."""
    wanted = {name: (tensor, component.where(name)) for name, tensor in net.state_dict().items()}
    missing = [part.key for _, part in wanted.values() if component.prefix + part.key not in header.tensors]
    if missing:
        first = ", ".join(missing[:5])
        raise BadFile(
            f"{header.path.name} lacks {len(missing)} of the {len(wanted)} tensors of its {what} "
            f"({first}{', …' if len(missing) > 5 else ''}); it is damaged or of another family: get it again."
        )
    for tensor, part in wanted.values():
        key = component.prefix + part.key
        info = header.tensors[key]
        if tuple(tensor.shape) != _piece_shape(info.shape, part):
            expected = list(tensor.shape)[::-1] if part.transposed else list(tensor.shape)
            raise BadFile(
                f"{header.path.name}: {key} is {list(info.shape)}, its {what} expects "
                f"{expected if part.third is None else [expected[0] * 3, *expected[1:]]}; "
                "the file is damaged or of another family."
            )
        if info.dtype[0] not in "FB" or info.dtype == "BOOL":
            raise BadFile(f"{header.path.name}: {key} holds {info.dtype} numbers, weights are F or BF types.")
    return {component.prefix + part.key for _, part in wanted.values()}
