"""Models and files that are recognised, called by their right name, and not drawn with: one row each, first match wins.

The markers are key names as each format's own programs write them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modules.weights.headers import Header

UNET = "model.diffusion_model."


class _Keys:
    """The keys of a file; those of a denoiser also without their prefix, as files of a denoiser alone have them."""

    def __init__(self, header: Header) -> None:
        self.header = header
        bare = {key[len(UNET) :] for key in header.tensors if key.startswith(UNET)}
        self.all = bare | set(header.tensors)
        self.unet = self.has("input_blocks.0.0.weight")
        self.alone = "input_blocks.0.0.weight" in header.tensors  # without the prefix it has in a checkpoint
        self.vae = self.has("encoder.conv_in.weight", "decoder.conv_in.weight") or self.has(
            "first_stage_model.decoder.conv_in.weight"
        )

    def has(self, *names: str) -> bool:
        return all(name in self.all for name in names)

    def starts(self, *heads: str) -> bool:
        return any(key.startswith(heads) for key in self.all)

    def ends(self, *tails: str) -> bool:
        return any(key.endswith(tails) for key in self.all)

    def holds(self, *parts: str) -> bool:
        return any(part in key for key in self.all for part in parts)

    def size(self, key: str, dim: int) -> int | None:
        """One dimension of a tensor; None where there is no such tensor or dimension."""
        shape = self._shape(key)
        return shape[dim] if dim < len(shape) else None

    def dims(self, key: str) -> int:
        """How many dimensions a tensor has; 0 where there is none."""
        return len(self._shape(key))

    def _shape(self, key: str) -> tuple[int, ...]:
        return self.header.shape(UNET + key) or self.header.shape(key) or ()


@dataclass(frozen=True)
class _Row:
    """`name` reads after "model.safetensors is"; `place` is the folder of a file that is no checkpoint."""

    test: Callable[[_Keys], bool]
    name: str
    checkpoint: bool = False
    place: str = ""

    @property
    def sentence(self) -> str:
        if self.checkpoint:
            return f"is {self.name}; this version draws with SD 1.x, SD 2.x and SDXL: choose one of those."
        move = f"move it to {self.place} and " if self.place else ""
        return f"is {self.name}, not a checkpoint; {move}choose a checkpoint."


def _embedding(keys: _Keys) -> bool:
    tensors = keys.header.tensors.values()
    small = 0 < len(tensors) < 10 and all(1 <= len(t.shape) <= 2 and t.end - t.begin < 4_000_000 for t in tensors)
    return small or keys.has("emb_params") or keys.has("string_to_param") or keys.has("clip_g", "clip_l")


LORA_PARTS = (
    ".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".hada_w1_a", ".hada_w1_b", ".lokr_w1",
    ".lokr_w1_a", ".lokr_w2", ".oft_blocks", ".oft_diag", ".dora_scale", ".on_input", ".a1.weight",
)  # fmt: skip
ALONE = "without its text encoder and autoencoder"
UPSCALER_PARTS = ("conv_first.weight", "model.0.weight", "body.0.rdb1.conv1.weight")

ROWS: tuple[_Row, ...] = (
    _Row(lambda k: k.ends(*LORA_PARTS), "a LoRA (or a relative of one)", place="models/Lora"),
    _Row(
        lambda k: k.starts("control_model.", "input_hint_block.", "controlnet_cond_embedding."),
        "a ControlNet",
        place="models/ControlNet",
    ),
    _Row(lambda k: k.has("lora_controlnet"), "a Control-LoRA"),
    _Row(lambda k: k.starts("lllite_unet"), "a ControlLLLite net"),
    _Row(lambda k: k.starts("ip_adapter.", "image_proj."), "an IP-Adapter"),
    _Row(lambda k: k.holds("temporal_transformer"), "an AnimateDiff motion module"),
    _Row(lambda k: k.starts("joint_blocks.0.", "x_embedder.proj."), "an SD3 checkpoint", True),
    _Row(lambda k: k.starts("double_blocks.0.", "distilled_guidance_layer."), "a Flux checkpoint", True),
    _Row(
        lambda k: k.holds("bitsandbytes__"),
        "a checkpoint with specially packed 4-bit weights, which this version cannot read",
        True,
    ),
    _Row(
        lambda k: k.alone and k.size("label_emb.0.0.weight", 1) == 2816,
        f"the U-Net of an SDXL checkpoint {ALONE}",
        True,
    ),
    _Row(
        lambda k: k.alone and k.size("label_emb.0.0.weight", 1) == 2560,
        f"the U-Net of an SDXL refiner checkpoint {ALONE}",
        True,
    ),
    _Row(
        lambda k: k.alone and k.dims("input_blocks.1.1.proj_in.weight") == 2,
        f"the U-Net of an SD 2.x checkpoint {ALONE}",
        True,
    ),
    _Row(lambda k: k.alone, f"the U-Net of an SD 1.x checkpoint {ALONE}", True),
    _Row(lambda k: k.starts("embedder.model.visual.", "noise_augmentor."), "an SD 2.1 unCLIP checkpoint", True),
    _Row(
        lambda k: k.starts("cond_stage_model.roberta.", "cond_stage_model.transformation."),
        "an AltDiffusion checkpoint",
        True,
    ),
    _Row(lambda k: k.has("cc_projection.weight"), "a Zero123 checkpoint", True),
    _Row(lambda k: k.size("input_blocks.0.0.weight", 1) == 7, "a checkpoint of the x4 upscaler", True),
    _Row(lambda k: k.has("conv_in.weight") and k.starts("down_blocks.0."), "a U-Net in the diffusers layout", True),
    _Row(
        lambda k: not k.unet and k.vae,
        "an autoencoder (VAE)",
        place="models/VAE",
    ),
    _Row(lambda k: not k.unet and any(part in k.all for part in UPSCALER_PARTS), "an upscaler", place="models/ESRGAN"),
    _Row(
        lambda k: not k.unet and (k.holds("text_model.encoder.layers.0.") or k.starts("encoder.block.0.layer.0.")),
        "a text encoder alone",
    ),
    _Row(_embedding, "an embedding (textual inversion)", place="embeddings"),
)


def what_is(header: Header) -> str | None:
    """ "is …" with its right name and what to do, or None: it may be a checkpoint of a known family."""
    keys = _Keys(header)
    for row in ROWS:
        if row.test(keys):
            return row.sentence
    return None
