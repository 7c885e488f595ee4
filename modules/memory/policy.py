"""How a model is to be run on a machine: a pure function from facts to decisions, held by a table of machines.

For example:

    policy = choose(detect(), settings, sizes)      # Policy(on="cpu", denoiser="float32", …)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from modules.memory.budget import Need, Shape, Sizes, decode_peak, denoising
from modules.memory.machine import BYTES, DeviceFacts, device_of, dtype_of
from modules.schema.settings import SAVINGS, Settings

if TYPE_CHECKING:  # the server decides and predicts too, without torch
    import torch

GB = 1_000_000_000
CONTEXT = int(0.6 * GB)
"""What a driver, its kernels and the screen take of a card."""
TILE = 512
"""Side in pixels of what the VAE decodes at once where it decodes in tiles."""
LOWVRAM_SHARE, LOWVRAM_LEAST = 0.27, int(0.6 * GB)
"""Of the denoiser's weights, so much, and at least so many bytes, stay on the card with --lowvram; the rest streams
through. With what drawing takes, SD 1 is then below 1 GB and SDXL below 2."""
LOWVRAM_DECODING = int(0.8 * GB), int(0.2 * GB)
"""There what decoding may take before it goes by tiles, and the weights that stay meanwhile."""

Placement = Literal["resident", "parked", "streamed"]


@dataclass(frozen=True)
class Policy:
    """`on` names the device, as torch does; `denoiser`, `vae`, `text`: the number type each of them computes in.

    `attention` is a name in `nets.attention.ATTENTIONS`, or "measured"; `chunks`, `upcast`: see there.

    `placement`: all weights on the device; or those of the denoiser or the VAE, as they are needed; or a few at a time.
    `weights_budget`: bytes of weights on the device at once, None where all of them. Then text encoders run on the CPU.
    `vae_budget`: the same while the VAE works, where it is smaller.
    `calls`: how the denoiser is called (`nets.recorded`).
    `storage`, `text_storage`: the number type in which the weights of the denoiser and the text encoders lie where it
    is not the one they compute in; `float8_products`: the denoiser's linear layers multiply in it.
    `vae_apart`: the VAE is on the processor, whatever the rest is on. `lean`: no weights wait in RAM.
    `pictures_per_call`: at most so many pictures go through the denoiser together; `split_guidance`: each prompt by
    itself. `channels_last`: the denoiser's convolutions keep the channels of a pixel together in memory. `packed`:
    weights lie in oneDNN's order.
    `previews_decode`: previews are decoded by the autoencoder itself, between the denoiser's calls.
    `vae_tile`: side in pixels of what is decoded at once, None is the whole picture. `vae_retry`: number types in which
    a picture is decoded again whose numbers overflow.
    `vae_attention_tile`: side in pixels of the tiles within which the VAE attends, None is the whole picture.
    `models_kept`: so many checkpoints stay in memory, those not in use in RAM where `one_on_device`.

    Two policies are equal if a model is loaded alike under them.
    """

    on: str
    denoiser: str
    vae: str
    text: str
    attention: str = "sdp"
    pictures_per_call: int = field(default=1, compare=False)
    channels_last: bool = False
    packed: bool = False
    placement: Placement = "resident"
    weights_budget: int | None = None
    vae_budget: int | None = None
    storage: str | None = None
    float8_products: bool = False
    text_storage: str | None = None
    vae_apart: bool = False
    lean: bool = False
    calls: str = "Plain"
    upcast: bool = False
    chunks: tuple[int, int, int] = (1024, 0, 0)
    split_guidance: bool = field(default=False, compare=False)
    vae_tile: int | None = field(default=None, compare=False)
    previews_decode: bool = field(default=False, compare=False)
    vae_attention_tile: int | None = field(default=None, compare=False)
    vae_retry: tuple[str, ...] = field(default=(), compare=False)
    check_numbers: bool = field(default=True, compare=False)
    models_kept: int = field(default=1, compare=False)
    one_on_device: bool = field(default=True, compare=False)

    @property
    def text_on(self) -> str:
        return self.on if self.placement == "resident" else "cpu"

    @property
    def vae_on(self) -> str:
        return "cpu" if self.vae_apart else self.on

    @property
    def device(self) -> torch.device:
        return device_of(self.on)

    @property
    def vae_device(self) -> torch.device:
        return device_of(self.vae_on)

    @property
    def text_device(self) -> torch.device:
        return device_of(self.text_on)

    @property
    def denoiser_dtype(self) -> torch.dtype:
        return dtype_of(self.denoiser)

    @property
    def vae_dtype(self) -> torch.dtype:
        return dtype_of(self.vae)

    @property
    def text_dtype(self) -> torch.dtype:
        return dtype_of(self.text)

    @property
    def storage_dtype(self) -> torch.dtype | None:
        return dtype_of(self.storage) if self.storage else None

    @property
    def text_storage_dtype(self) -> torch.dtype | None:
        return dtype_of(self.text_storage) if self.text_storage else None


def choose(facts: DeviceFacts, settings: Settings, sizes: Sizes | None = None, shape: Shape | None = None) -> Policy:
    """Decide for a machine, what its owner set, a model and the largest picture of a job (512×512 where not given).

    - CPU: float32, one picture per call: then a picture of a batch equals that seed alone, bit for bit.
    - CUDA: float16 where the card does it right (closer to float32 than bfloat16 at the same speed). The autoencoder
      overflows float16 first, so it stays in float32 where memory allows.
    - MPS: float16 denoiser, float32 autoencoder (half-precision decoding there gives NaN on some systems).
    """
    sizes, shape, wishes = sizes or Sizes(), shape or Shape(), settings.performance
    saving = SAVINGS.index(wishes.memory_saving)
    facts = for_part(facts, wishes.use_cpu if saving < SAVINGS.index("the processor") else "all", "sd")
    policy = _by_device(facts, settings, sizes)
    policy = replace(
        policy,
        attention=_attention(facts, settings, policy.attention),
        upcast=wishes.upcast_attn,
        chunks=(
            wishes.sub_quad_q_chunk_size,
            wishes.sub_quad_kv_chunk_size,
            facts.memory * wishes.sub_quad_chunk_threshold // 100,
        ),
        channels_last=policy.channels_last or wishes.opt_channelslast,
        check_numbers=not wishes.disable_nan_check,
        previews_decode=_previews_decode(settings, sizes),
        vae_attention_tile=settings.drawing.hypertile_max_tile_vae if settings.drawing.hypertile_enable_vae else None,
        models_kept=1 if wishes.lowram else settings.model.sd_checkpoints_limit,
        lean=wishes.lowram and facts.is_card,
        one_on_device=settings.model.sd_checkpoints_keep_in_cpu,
    )
    if facts.kind != "cpu" and on_processor(wishes.use_cpu, "vae"):
        policy = replace(policy, vae_apart=True, vae="float32")
    if wishes.vae_precision != "auto":
        policy = replace(policy, vae=wishes.vae_precision)
    if wishes.text_precision.startswith("float8"):
        policy = replace(policy, text_storage=wishes.text_precision)
    elif wishes.text_precision != "auto":
        policy = replace(policy, text=wishes.text_precision)
    if wishes.fp8_storage == "Enable" or (wishes.fp8_storage == "Enable for SDXL" and sizes.is_large):
        last = policy.channels_last and not (policy.packed and policy.denoiser == "float32")
        policy = replace(policy, storage=wishes.fp8_format, packed=False, channels_last=last)
        policy = replace(policy, float8_products=_multiplies_in_float8(facts, settings))
    if _weights_in_half(policy, facts, settings):
        policy = replace(policy, storage="float16")
    if saving >= SAVINGS.index("one prompt at a time") or not wishes.batch_cond_uncond:
        policy = replace(policy, split_guidance=True, pictures_per_call=1)
    if facts.kind == "cuda":
        policy = replace(policy, calls=wishes.denoiser_calls)
    if facts.is_card:
        policy = _placed(policy, facts, settings, sizes, shape)
    retry = ("bfloat16",) * (wishes.auto_vae_precision_bfloat16 and facts.bf16)
    retry += ("float32",) * wishes.auto_vae_precision
    policy = replace(policy, vae_retry=retry if policy.vae == "float16" else ())
    if saving >= SAVINGS.index("VAE in tiles") or _decodes_badly(policy, facts, sizes, shape):
        policy = replace(policy, vae_tile=TILE)
    return policy


def predict(sizes: Sizes, shape: Shape, policy: Policy) -> Need:
    """What such a job takes on the device that draws."""
    storage = BYTES[policy.storage or policy.denoiser]
    vae = 0 if policy.vae_apart else sizes.vae * BYTES[policy.vae]
    weights = (sizes.denoiser + sizes.control) * storage + vae
    if policy.packed:
        weights += sizes.denoiser_spread.more(policy.denoiser, policy.channels_last)
        weights += sizes.vae_spread.more(policy.vae, channels_last=True)
    if policy.weights_budget is not None:
        weights = min(weights, policy.weights_budget)
    if policy.text_on == policy.on:
        weights += sizes.text * BYTES[policy.text_storage or policy.text]
    rows = 1 if policy.split_guidance else 2 * min(shape.batch, policy.pictures_per_call)
    tile = policy.vae_tile or max(shape.width, shape.height)
    pixels = min(shape.width, tile), min(shape.height, tile)
    drawing = denoising(sizes, shape, rows, BYTES[policy.denoiser], policy.attention, policy.chunks)
    decoding = 0 if policy.vae_apart else decode_peak(sizes.vae_width, *pixels, BYTES[policy.vae])
    return Need(weights, max(drawing, decoding) if policy.previews_decode else drawing, decoding)


def notes(facts: DeviceFacts, settings: Settings) -> tuple[str, ...]:
    """Sentences about what its owner asked for and this machine cannot do; what is done instead."""
    wishes = settings.performance
    wanted = wishes.cross_attention_optimization
    wanted = wishes.automatic_attention if wanted == "Automatic" else wanted
    told = []
    if wanted == "xformers" and "xformers" not in facts.features:
        told.append(
            "xformers is not installed, so attention is computed as without it; install the one for this torch."
            if facts.kind == "cuda"
            else "xformers is for NVIDIA and AMD cards, so attention is computed as without it; leave --xformers out."
        )
    if wishes.fp8_matmul and "fp8" not in facts.features:
        told.append(
            f"FP8 matrix products need an NVIDIA card of compute capability 8.9 or later, which {facts.name} is not; "
            "layers multiply as without them."
        )
    elif wishes.fp8_matmul and (wishes.fp8_storage == "Disable" or wishes.fp8_format != FLOAT8):
        told.append(f"FP8 matrix products need FP8 weight enabled, in {FLOAT8}; layers multiply as without them.")
    return tuple(told)


def kind_of(facts: DeviceFacts, sizes: Sizes, policy: Policy) -> str:
    """Jobs of one kind err alike in what is predicted of them (`budget.History`)."""
    name = facts.name if policy.on == facts.on else "the processor"
    net = f"{sizes.family}-{sizes.denoiser_width}"
    return f"{name} {net} {policy.denoiser} {policy.vae} {policy.attention} {policy.placement}"


FLOAT8 = "float8_e4m3fn"
"""The format in which cards multiply."""
FULL_WIDTH = 320
"""First width of every published Stable Diffusion denoiser, at least."""


SMALL_VAE_WIDTH = 128
"""Decoding by a narrower autoencoder costs less than a look through foreign factors is worth: previews are decoded."""

UPSCALING = ("esrgan", "realesrgan", "bsrgan", "scunet", "swinir", "dat")
RESTORING = ("gfpgan", "codeformer")
"""Names of parts that --use-cpu knows, besides "all" and "sd"."""


def on_processor(parts: str, *names: str) -> bool:
    """Whether one of these parts is among those the owner wants on the processor."""
    return not {"all", *names}.isdisjoint(parts.replace(",", " ").lower().split())


def for_part(facts: DeviceFacts, parts: str, *names: str) -> DeviceFacts:
    """The machine as a part sees it."""
    return as_processor(facts) if facts.kind != "cpu" and on_processor(parts, *names) else facts


def as_processor(facts: DeviceFacts) -> DeviceFacts:
    """The same machine without its card."""
    return replace(facts, kind="cpu", name="the processor", memory=facts.ram, fp16=False, bf16=False)


def _by_device(facts: DeviceFacts, settings: Settings, sizes: Sizes) -> Policy:
    denoiser = _denoiser_type(facts, settings.model.precision)
    if facts.kind == "cpu":
        # Measured at q, k, v (2, 8, 4096, 40): bfloat16 sdp 290 ms, split 128, onednn 107 to 125; float32 sdp 271,
        # split 309, onednn 152 to 169. What oneDNN cannot do here goes by split.
        # A small net's products are short, and packing costs it more than it saves: 20 steps of a 64 channel net at
        # 128x128 take 0.75 s plain with sdp, 1.15 s with onednn, 2.9 s with packed weights besides.
        full = sizes.denoiser_width >= FULL_WIDTH
        attention = "measured" if full else "sdp"
        # Channels last gain 14 % in bfloat16, 3 to 18 % in float32; there torch's own GroupNorm is then a hundred times
        # less exact, and only packed nets have another (`nets.packed.ExactGroupNorm`).
        last = full or denoiser != "float32"
        return Policy(facts.on, denoiser, "float32", "float32", attention, channels_last=last, packed=full)
    if facts.kind == "mps":
        return Policy(facts.on, denoiser, "float32", "float32", attention="sub-quadratic")
    roomy = facts.memory >= 7.5 * GB
    half = denoiser if denoiser != "float32" else ("float16" if facts.fp16 else "float32")
    nets = sizes.denoiser + sizes.control
    left = facts.memory - nets * BYTES[denoiser] - (sizes.vae + sizes.text) * (4 if roomy else 2) - 1 * GB
    # About 0.5 GB per 512x512 picture and its negative prompt in half precision, attention included.
    per_picture = 0.25 * GB * BYTES[denoiser]
    return Policy(
        facts.on,
        denoiser,
        vae="float32" if roomy else half,
        text="float32" if roomy else half,
        pictures_per_call=max(1, min(16, int(left / per_picture))),
        channels_last=denoiser != "float32",
    )


def _previews_decode(settings: Settings, sizes: Sizes) -> bool:
    wishes = settings.preview
    shown = wishes.live_previews_enable and wishes.show_progress_every_n_steps > 0
    return shown and (wishes.show_progress_type == "Full" or sizes.vae_width < SMALL_VAE_WIDTH)


def _denoiser_type(facts: DeviceFacts, precision: str) -> str:
    if precision != "auto":
        return precision
    return "float16" if facts.kind != "cpu" and facts.fp16 else "float32"


def _weights_in_half(policy: Policy, facts: DeviceFacts, settings: Settings) -> bool:
    """--upcast-sampling: for a card that computes rightly in float32 alone; its owner's own choice of float32 wins."""
    asked = settings.performance.upcast_sampling and settings.model.precision == "auto"
    return asked and facts.kind != "cpu" and policy.denoiser == "float32" and policy.storage is None


def _multiplies_in_float8(facts: DeviceFacts, settings: Settings) -> bool:
    wishes = settings.performance
    return wishes.fp8_matmul and "fp8" in facts.features and wishes.fp8_format == FLOAT8


def _attention(facts: DeviceFacts, settings: Settings, default: str) -> str:
    wishes = settings.performance
    wanted = wishes.cross_attention_optimization
    if wanted == "Automatic":
        wanted = wishes.automatic_attention
    if wanted == "measured":
        return "measured" if facts.is_card else default  # on a processor, for a full-size net
    if wanted == "xformers" and ("xformers" not in facts.features or wishes.disable_xformers):
        return "measured" if facts.is_card else default  # `notes` says so
    return wanted


def _placed(policy: Policy, facts: DeviceFacts, settings: Settings, sizes: Sizes, shape: Shape) -> Policy:
    """Where the weights are, on a card: as its owner wishes, else as much of them as fits beside the drawing."""
    wishes = settings.performance
    wish = _wished(settings, sizes)
    denoiser = (sizes.denoiser + sizes.control) * BYTES[policy.storage or policy.denoiser]  # in use by turns
    largest = max(denoiser, 0 if policy.vae_apart else sizes.vae * BYTES[policy.vae])
    need = predict(sizes, replace(shape, batch=1), policy)
    room = int(facts.memory * 0.95) - CONTEXT
    left = room - max(need.denoising, min(need.decoding, decode_peak(sizes.vae_width, TILE, TILE, 4)))
    fitting: Placement = "resident" if need.weights <= left else "parked" if largest <= left else "streamed"
    wishes_to: dict[str, Placement] = {
        "auto": fitting,
        "normal": "resident",
        "medvram": "parked",
        "lowvram": "streamed",
    }
    placement = wishes_to[wish]
    if placement == "resident":
        return policy
    if wish == "lowvram":
        most = max(LOWVRAM_LEAST, int(denoiser * LOWVRAM_SHARE))
        policy = replace(policy, vae_budget=LOWVRAM_DECODING[1])
        if wishes.vae_precision == "auto" and policy.vae == "float32" and facts.fp16 and not sizes.is_large:
            policy = replace(policy, vae="float16")  # that of SDXL overflows
    else:
        most = largest if placement == "parked" else left
    budget = max(int(0.1 * GB), min(most, left))
    text = "float32" if wishes.text_precision == "auto" else policy.text  # the processor's
    return replace(policy, placement=placement, weights_budget=budget, text=text)


def _wished(settings: Settings, sizes: Sizes) -> str:
    """Where the weights are to be: "auto", "normal", "medvram" or "lowvram"."""
    wishes = settings.performance
    if SAVINGS.index(wishes.memory_saving) >= SAVINGS.index("weights streamed"):
        return "lowvram"
    return wishes.memory_use_sdxl if sizes.is_large and wishes.memory_use_sdxl != "auto" else wishes.memory_use


def _decodes_badly(policy: Policy, facts: DeviceFacts, sizes: Sizes, shape: Shape) -> bool:
    """Whether a whole picture's decoding would not fit beside the weights."""
    if policy.vae_apart:
        decoding = decode_peak(sizes.vae_width, shape.width, shape.height, BYTES[policy.vae])
        return max(shape.width, shape.height) > TILE and decoding > facts.ram * 0.9
    need = predict(sizes, shape, replace(policy, vae_tile=None))
    if policy.vae_budget is not None and max(shape.width, shape.height) > TILE and need.decoding > LOWVRAM_DECODING[0]:
        return True
    reserve = CONTEXT if facts.is_card else 0
    return max(shape.width, shape.height) > TILE and need.weights + need.decoding > facts.memory * 0.9 - reserve
