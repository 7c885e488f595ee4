"""What the families share: the sizes of U-Nets and autoencoders off tensor shapes, and the few small numbers in a file.

Heads cannot be read off shapes: the side-car decides, then the file's own metadata (`easel.unet_head_dim`), then a
rule: with 1x1-convolution projections 8 heads, with linear ones heads of 64 channels; a small model (below 128
channels, where no release exists) has heads of 32 channels.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any

from modules.schema.errors import BadFile
from modules.weights.facts import Component, Concat, LatentFormat
from modules.weights.headers import Header, TensorInfo
from modules.weights.sidecar import SideCar

UNET = "model.diffusion_model."
VAE = "first_stage_model."
SMALL = 128
"""Below this many model channels no Stable Diffusion release exists: the rules of the small models hold."""

CONCATS: dict[int, Concat] = {4: "", 5: "depth", 8: "edit", 9: "inpaint"}
CONCAT_LABELS: dict[Concat, str] = {
    "": "", "depth": " depth", "edit": " instruct-pix2pix", "inpaint": " inpainting"
}  # fmt: skip


class Shapes:
    """Looks shapes up by key; a missing or odd one is a BadFile that names it. `label`: "an SD 1.x checkpoint"."""

    def __init__(self, header: Header, label: str) -> None:
        self.header = header
        self.label = label
        self.tensors = header.tensors
        self._children: dict[str, set[str]] = {}
        for key in header.tensors:
            for match in re.finditer(r"\.(\d{1,3})(?=\.)", key):
                self._children.setdefault(key[: match.start() + 1], set()).add(match[1])

    def odd(self, reason: str) -> BadFile:
        return BadFile(f"{self.header.path.name} looks like {self.label}, but {reason}; get it again from its source.")

    def __call__(self, key: str, dims: int) -> tuple[int, ...]:
        info: TensorInfo | None = self.tensors.get(key)
        if info is None:
            raise self.odd(f"{key} is missing")
        if len(info.shape) != dims or 0 in info.shape:
            raise self.odd(f"{key} has the shape {list(info.shape)}")
        return info.shape

    def indices(self, prefix: str) -> int:
        """How many numbered children a key has: 3 for prefix.0 … prefix.2; a gap is odd."""
        found = self._children.get(prefix, set())
        if found != {str(n) for n in range(len(found))}:
            raise self.odd(f"the numbers behind {prefix} have gaps")
        return len(found)

    def groups(self, channels: int, where: str) -> int:
        if channels % 32:
            raise self.odd(f"{where} has {channels} channels, which 32 normalisation groups do not divide")
        return channels


def has_unet(header: Header) -> bool:
    return UNET + "input_blocks.0.0.weight" in header.tensors


def check_complete(header: Header, text: bool) -> None:
    """A file with a U-Net has to bring a text encoder (`text`: it does) and an autoencoder along."""
    missing = [] if text else ["text encoder"]
    if not any(key.startswith(VAE) for key in header.tensors):
        missing.append("autoencoder (VAE)")
    if missing:
        raise BadFile(
            f"{header.path.name} has a U-Net, but no {' and no '.join(missing)}; "
            "choose a checkpoint that holds all three in one file."
        )


def read_encoder(shape: Shapes, prefix: str) -> dict[str, Any]:
    """What `read_unet` tells of a U-Net's first half and middle below a prefix; all fields but the outputs' and heads.

    `middle_depth` is None where the middle is a single residual block, 0 where it is two.
    """
    model_channels, in_channels = shape(prefix + "input_blocks.0.0.weight", 4)[:2]
    shape.groups(model_channels, "the U-Net")
    blocks = shape.indices(prefix + "input_blocks.")

    widths: list[list[int]] = [[]]  # per level, per residual block
    depths: list[int] = []
    for n in range(1, blocks):
        block = f"{prefix}input_blocks.{n}."
        if block + "0.op.weight" in shape.tensors:
            widths.append([])
            continue
        widths[-1].append(shape(block + "0.out_layers.3.weight", 4)[0])
        depths.append(shape.indices(block + "1.transformer_blocks."))
    per_level = len(widths[0])
    if not per_level or any(len(level) != per_level or len(set(level)) != 1 for level in widths):
        raise shape.odd("the levels of its U-Net are uneven")
    if any(level[0] % model_channels for level in widths):
        raise shape.odd("the widths of its U-Net are no multiples of its first")

    attention = [key for key in shape.tensors if key.startswith(prefix) and key.endswith(".attn2.to_k.weight")]
    projections = [key for key in shape.tensors if key.startswith(prefix) and key.endswith(".proj_in.weight")]
    vector = prefix + "label_emb.0.0.weight"
    depth: int | None = shape.indices(prefix + "middle_block.1.transformer_blocks.")
    if prefix + "middle_block.2.out_layers.3.weight" not in shape.tensors:
        depth = None
    return {
        "in_channels": in_channels,
        "model_channels": model_channels,
        "channel_mult": tuple(level[0] // model_channels for level in widths),
        "num_res_blocks": per_level,
        "input_depths": tuple(depths),
        "middle_depth": depth,
        "context_dim": shape(attention[0], 2)[1] if attention else 0,
        "adm_channels": shape(vector, 2)[1] if vector in shape.tensors else None,
        "linear_projection": bool(projections) and len(shape.tensors[projections[0]].shape) == 2,
    }


def read_unet(shape: Shapes, sidecar: SideCar) -> Component:
    """The U-Net below `model.diffusion_model.`; its config holds the fields of nets.unet.UNetConfig."""
    found = read_encoder(shape, UNET)
    if found["in_channels"] not in CONCATS:
        known = ", ".join(f"{n}{CONCAT_LABELS[concat]}" for n, concat in CONCATS.items())
        raise shape.odd(f"its U-Net takes {found['in_channels']} channels (known are {known})")
    levels, per_level = len(found["channel_mult"]), found["num_res_blocks"]
    outputs = shape.indices(UNET + "output_blocks.")
    if outputs != levels * (per_level + 1):
        raise shape.odd(f"its U-Net has {outputs} output blocks instead of {levels * (per_level + 1)}")
    if not found["context_dim"]:
        raise shape.odd("its U-Net has no cross-attention")
    config = found | {
        "out_channels": shape(UNET + "out.2.weight", 4)[0],
        "middle_depth": found["middle_depth"] or None,
        "output_depths": tuple(shape.indices(f"{UNET}output_blocks.{n}.1.transformer_blocks.") for n in range(outputs)),
    }
    return Component(UNET, config | _unet_heads(shape, sidecar, config))


def _unet_heads(shape: Shapes, sidecar: SideCar, config: dict[str, Any]) -> dict[str, int | None]:
    said = number(shape.header.metadata, "easel.unet_head_dim")
    heads, dim = None, None
    if sidecar.num_heads:
        heads = sidecar.num_heads
    elif sidecar.head_dim:
        dim = sidecar.head_dim
    elif said:
        dim = int(said)
    elif config["model_channels"] < SMALL:
        dim = 32
    elif config["linear_projection"]:
        dim = 64
    else:
        heads = 8
    for channels in _attended(config):
        if channels % (heads or dim or 1) or channels < (heads or dim or 1):
            parts = f"{heads} heads" if heads else f"heads of {dim}"
            raise shape.odd(f"{channels} channels cannot be split into {parts}")
    return {"num_heads": heads, "head_dim": dim}


def _attended(config: dict[str, Any]) -> set[int]:
    """The channel counts at which the U-Net has transformers."""
    mults, channels = config["channel_mult"], config["model_channels"]
    per_level = config["num_res_blocks"]
    found = {mults[n // per_level] for n, depth in enumerate(config["input_depths"]) if depth}
    found |= {mults[-1 - n // (per_level + 1)] for n, depth in enumerate(config["output_depths"]) if depth}
    if config["middle_depth"]:
        found.add(mults[-1])
    return {mult * channels for mult in found}


def read_vae(shape: Shapes) -> Component:
    """The autoencoder below `first_stage_model.`; its config holds the fields of nets.autoencoder.AutoencoderConfig."""
    ch, in_channels = shape(VAE + "encoder.conv_in.weight", 4)[:2]
    shape.groups(ch, "the autoencoder")
    levels = shape.indices(VAE + "encoder.down.")
    if not 1 <= levels <= 8:
        raise shape.odd(f"its autoencoder has {levels} levels")
    widths = [shape(f"{VAE}encoder.down.{level}.block.0.conv2.weight", 4)[0] for level in range(levels)]
    if any(width % ch for width in widths):
        raise shape.odd("the widths of its autoencoder are no multiples of its first")
    config = {
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": shape.indices(VAE + "encoder.down.0.block."),
        "z_channels": shape(VAE + "decoder.conv_in.weight", 4)[1],
        "embed_dim": shape(VAE + "post_quant_conv.weight", 4)[1],
        "in_channels": in_channels,
    }
    return Component(VAE, config)


def check_fit(shape: Shapes, unet: Component, vae: Component, text_width: int, vector_width: int | None) -> None:
    """The nets of one file have to fit together.

    Raises:
        BadFile: the text is wider or narrower than the U-Net expects, or so is the vector, or the latents.
    """
    expected = unet.config["context_dim"]
    if expected != text_width:
        raise shape.odd(f"its U-Net expects text {expected} wide, its text encoder makes it {text_width}")
    if unet.config["adm_channels"] != vector_width:
        wants = f"a vector of {unet.config['adm_channels']}" if unet.config["adm_channels"] else "no vector"
        raise shape.odd(f"its U-Net asks for {wants}, and {vector_width or 'none'} is known for it")
    latents = unet.config["out_channels"]
    if vae.config["embed_dim"] != latents or vae.config["in_channels"] != 3:
        raise shape.odd(f"its autoencoder has {vae.config['embed_dim']} latent channels, its U-Net {latents}")


# ------------------------------------------------------------------------------------------------- numbers and words


def said_prediction(header: Header, sidecar: SideCar) -> str | None:
    """What the side-car, the file's markers or its metadata say the U-Net predicts; None where none of them does."""
    if sidecar.prediction:
        return sidecar.prediction
    if "v_pred" in header.tensors:
        return "v"
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    if said in ("v", "v_prediction", "v-prediction"):
        return "v"
    if said in ("eps", "epsilon"):
        return "eps"
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    if architecture.startswith("stable-diffusion-v2-768-v"):
        return "v"
    return "eps" if architecture.startswith("stable-diffusion-v2-512") else None


def zero_snr(header: Header) -> bool:
    """Whether the net was taught with noise levels that end in pure noise (Lin et al. 2023, arXiv:2305.08891)."""
    return "ztsnr" in header.tensors or header.metadata.get("easel.zero_terminal_snr") == "true"


def warnings_of(header: Header, sidecar: SideCar, unet: Component) -> tuple[str, ...]:
    """The side-car's own, and where it says another size than the weights have."""
    name = header.path.with_suffix(".yaml").name
    said = ((size, value, unet.config[size]) for size, value in sidecar.sizes)
    return sidecar.warnings + tuple(
        f"{name} says {size} {value}, the weights have {found}; the weights are believed."
        for size, value, found in said
        if value != found
    )


def latent_format(sidecar: SideCar, scale: float) -> LatentFormat:
    return LatentFormat(sidecar.scale_factor or scale)


def resolution(header: Header, unet: Component, otherwise: int) -> tuple[int, int]:
    """Native (width, height): `modelspec.resolution` ("512x768", "512"); else 128 square for small models."""
    match = re.fullmatch(r"(\d{2,5})(?:x(\d{2,5}))?", header.metadata.get("modelspec.resolution", "").strip())
    if match:
        width, height = int(match[1]), int(match[2] or match[1])
        if 64 <= min(width, height) <= max(width, height) <= 16384:
            return width, height
    side = otherwise if unet.config["model_channels"] >= SMALL else 128
    return side, side


def number(metadata: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(metadata.get(key, ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 < value <= 1000 else None


def values(header: Header, key: str, most: int = 4096) -> tuple[float, ...]:
    """The numbers of one small tensor, read off the file; () where there is none, it is large, or lies in a pickle."""
    info = header.tensors.get(key)
    if info is not None and (info.begin < 8 or info.parts):
        return ()
    code = {"F64": "d", "F32": "f", "F16": "e", "BF16": "H"}.get(info.dtype) if info else None
    if info is None or code is None or not 0 < math.prod(info.shape) <= most:
        return ()
    try:
        with (info.file or header.path).open("rb") as file:
            file.seek(info.begin)
            raw = file.read(info.end - info.begin)
    except OSError:
        return ()
    if len(raw) != info.end - info.begin:
        return ()
    found = struct.unpack(f"<{math.prod(info.shape)}{code}", raw)
    if code == "H":  # bfloat16 is the upper half of a float32
        found = struct.unpack(f"<{len(found)}f", b"".join(struct.pack("<I", bits << 16) for bits in found))
    return tuple(map(float, found)) if all(map(math.isfinite, found)) else ()
