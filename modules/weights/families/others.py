"""Models and files that are recognised, named, and not drawn with: one row each, first match wins.

Marker keys: spec of each format as its own program writes it; prefixes are stripped by `_bare`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modules.weights.headers import Header

UNET = "model.diffusion_model."
_DRAWS = "this version draws with SD 1.x"


@dataclass(frozen=True)
class _Row:
    """`test(keys with and without the denoiser's prefix, header)`; `name` reads after "model.safetensors is"."""

    test: Callable[[set[str], Header], bool]
    name: str


def _has(*names: str) -> Callable[[set[str], Header], bool]:
    return lambda keys, header: all(name in keys for name in names)


def _ends(*tails: str) -> Callable[[set[str], Header], bool]:
    return lambda keys, header: any(key.endswith(tails) for key in keys)


def _starts(*heads: str) -> Callable[[set[str], Header], bool]:
    return lambda keys, header: any(key.startswith(heads) for key in keys)


def _inputs(channels: int) -> Callable[[set[str], Header], bool]:
    def test(keys: set[str], header: Header) -> bool:
        shape = _shape(header, "input_blocks.0.0.weight")
        return shape is not None and len(shape) == 4 and shape[1] == channels

    return test


def _shape(header: Header, key: str) -> tuple[int, ...] | None:
    return header.shape(UNET + key) or header.shape(key)


def _sd2(keys: set[str], header: Header) -> bool:
    return any(key.startswith("cond_stage_model.model.") for key in keys) or (
        len(_shape(header, "input_blocks.1.1.proj_in.weight") or ()) == 2 and "label_emb.0.0.weight" not in keys
    )


def _embedding(keys: set[str], header: Header) -> bool:
    if keys & {"emb_params", "string_to_param"} or {"clip_g", "clip_l"} <= keys:
        return True
    return 0 < len(header.tensors) < 10 and all(
        1 <= len(t.shape) <= 2 and t.end - t.begin < 4_000_000 for t in header.tensors.values()
    )


def _and(*tests: Callable[[set[str], Header], bool]) -> Callable[[set[str], Header], bool]:
    return lambda keys, header: all(test(keys, header) for test in tests)


ROWS: tuple[_Row, ...] = (
    _Row(
        _ends(
            ".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".hada_w1_a", ".hada_w1_b",
            ".lokr_w1", ".lokr_w1_a", ".lokr_w2", ".oft_blocks", ".oft_diag", ".dora_scale", ".on_input", ".a1.weight",
        ),  # fmt: skip
        "a LoRA (or a relative of one), not a checkpoint; move it to models/Lora and choose a checkpoint.",
    ),
    _Row(
        _starts("control_model.", "input_hint_block.", "controlnet_cond_embedding.", "lora_controlnet"),
        "a ControlNet, not a checkpoint; move it to models/ControlNet and choose a checkpoint.",
    ),
    _Row(_starts("lllite_unet"), "a ControlLLLite net, not a checkpoint; choose a checkpoint."),
    _Row(_starts("ip_adapter.", "image_proj."), "an IP-Adapter, not a checkpoint; choose a checkpoint."),
    _Row(
        lambda keys, header: any("temporal_transformer" in key for key in keys),
        "an AnimateDiff motion module, not a checkpoint; choose a checkpoint.",
    ),
    _Row(
        _starts("joint_blocks.0.", "x_embedder.proj."),
        f"an SD3 checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(
        _starts("double_blocks.0.", "distilled_guidance_layer."),
        f"a Flux checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(
        lambda keys, header: "scaled_fp8" in keys or any("bitsandbytes__" in key for key in keys),
        "a checkpoint with specially packed 8- or 4-bit weights, which this version cannot read; get its fp16 version.",
    ),
    _Row(_starts("conditioner.embedders.1."), f"an SDXL checkpoint; {_DRAWS}: choose an SD 1.x checkpoint."),
    _Row(
        lambda keys, header: header.shape("conditioner.embedders.0.model.ln_final.weight") == (1024,),
        f"an SD 2.x checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(
        _starts("conditioner.embedders.0.model."),
        f"an SDXL refiner checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(
        _and(_has("label_emb.0.0.weight"), lambda keys, header: (header.shape(UNET + "label_emb.0.0.weight")
             or header.shape("label_emb.0.0.weight") or (0, 0))[-1] in (2816, 2560)),
        f"the U-Net of an SDXL checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),  # fmt: skip
    _Row(
        _starts("depth_model."),
        f"an SD 2.x depth checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(
        _starts("embedder.model.visual.", "noise_augmentor."),
        f"an SD 2.1 unCLIP checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(
        _starts("cond_stage_model.roberta.", "cond_stage_model.transformation."),
        f"an AltDiffusion checkpoint; {_DRAWS}: choose an SD 1.x checkpoint.",
    ),
    _Row(_sd2, f"an SD 2.x checkpoint; {_DRAWS}: choose an SD 1.x checkpoint."),
    _Row(_has("cc_projection.weight"), f"a Zero123 checkpoint; {_DRAWS}: choose an SD 1.x checkpoint."),
    _Row(_inputs(9), f"an SD 1.x inpainting checkpoint; {_DRAWS} of the plain kind: choose one without 'inpainting'."),
    _Row(_inputs(8), f"an instruct-pix2pix checkpoint; {_DRAWS} of the plain kind: choose another checkpoint."),
    _Row(_inputs(7), f"an upscaler checkpoint; {_DRAWS}: choose an SD 1.x checkpoint."),
    _Row(
        lambda keys, header: "conv_in.weight" in keys and any(key.startswith("down_blocks.") for key in keys)
        and "mid_block.attentions.0.norm.weight" in keys,
        "a U-Net in the diffusers layout; choose a whole checkpoint in one file.",
    ),  # fmt: skip
    _Row(
        lambda keys, header: "input_blocks.0.0.weight" not in keys
        and ({"encoder.conv_in.weight", "decoder.conv_in.weight"} <= keys
             or "first_stage_model.decoder.conv_in.weight" in keys),
        "an autoencoder (VAE), not a checkpoint; move it to models/VAE and choose a checkpoint.",
    ),  # fmt: skip
    _Row(
        lambda keys, header: "input_blocks.0.0.weight" not in keys
        and any(key in keys for key in ("conv_first.weight", "model.0.weight", "body.0.rdb1.conv1.weight")),
        "an upscaler, not a checkpoint; move it to models/ESRGAN and choose a checkpoint.",
    ),
    _Row(
        lambda keys, header: "input_blocks.0.0.weight" not in keys
        and any("text_model.encoder.layers.0." in k or k.startswith("encoder.block.0.layer.0.") for k in keys),
        "a text encoder alone, not a checkpoint; choose a checkpoint.",
    ),
    _Row(_embedding, "an embedding (textual inversion), not a checkpoint; move it to embeddings."),
)  # fmt: skip


def what_is(header: Header) -> str | None:
    """ "is …" by its right name for what cannot be drawn with, or None: it may be a checkpoint of a known family."""
    keys = set(header.tensors)
    keys |= {key[len(UNET):] for key in header.tensors if key.startswith(UNET)}
    for row in ROWS:
        if row.test(keys, header):
            return f"is {row.name}"
    return None
