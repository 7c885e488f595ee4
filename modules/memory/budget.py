"""How much memory a picture will take, judged before it is drawn, and corrected by what was measured. Torch-free.

need = predict(sizes, shape, policy)          # bytes: weights, denoising, decoding; need.peak is what counts
history.corrected(kind, need)                 # each part times what such jobs took of what was predicted
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from modules.memory.machine import BYTES, DeviceFacts
from modules.schema.errors import BadRequest

GIB = 1024**3
# What the nets hold at their peak, in feature maps of their first width at full resolution, as counted over their
# operations (tests/memory/test_budget.py): a decoder's widest block has twice its first width.
DECODER_MAPS = 5.5
# What the system and the rest of the program keep.
USABLE = 0.9
# Of one row of a denoiser: with attention at full resolution (SD 1, SD 2) its feed-forward is the widest.
ATTENDING_MAPS = 25.0
CONVOLVING_MAPS = 15.25
BESIDE_SCORES = 0.6
"""Of those maps, so much is held while the scores of attention are."""
SLICED_SCORES = 2**27
"""As `nets.attention.SCORES`; a test holds them together."""


WINOGRAD = 256, 640
"""As `nets.packed.WINOGRAD`; a test holds them together."""
SPREAD = 16 - 9, 9
"""How much more a 3x3 kernel takes as a 4x4 one: transformed, or of an enlarging convolution (`nets.packed`)."""


@dataclass(frozen=True)
class Spread:
    """Of a net's parameters, those that packed layers may hold as 4x4 kernels: of `enlarging` convolutions, and in
    float32 of those between so many channels that they go by `winograd`."""

    enlarging: int = 0
    winograd: int = 0

    def more(self, number: str, channels_last: bool) -> int:
        """Bytes beyond the plain ones of such a net in a number type, packed."""
        if number not in ("float32", "bfloat16"):
            return 0
        parameters = self.enlarging + (self.winograd if number == "float32" and channels_last else 0)
        return parameters * BYTES[number] * SPREAD[0] // SPREAD[1]


@dataclass(frozen=True)
class Sizes:
    """Parameters of each net of a model, and the two widths activations grow with (SD 1.5's by default).

    `attends_first`: the denoiser has attention at full resolution, not only below. `family`: as `weights.facts` has it.
    `denoiser_spread`, `vae_spread`: what packing makes larger. `control`: parameters of the nets that stand beside the
    denoiser in a job (ControlNet).
    """

    denoiser: int = 859_520_964
    vae: int = 83_653_863
    text: int = 123_060_480
    denoiser_width: int = 320
    vae_width: int = 128
    attends_first: bool = True
    family: str = "sd1"
    denoiser_spread: Spread = Spread(33_177_600, 34_099_200)
    vae_spread: Spread = Spread(5_308_416, 70_778_880)
    control: int = 0

    @property
    def is_large(self) -> bool:
        """SDXL and its like: what --medvram-sdxl means."""
        return self.denoiser > 2_000_000_000


@dataclass(frozen=True)
class Shape:
    """What is drawn: the largest picture of the job in pixels, and how many at once."""

    width: int = 512
    height: int = 512
    batch: int = 1


@dataclass(frozen=True)
class Need:
    """Bytes on the device that draws. `decoding` is for one picture: they are decoded one after the other."""

    weights: int
    denoising: int
    decoding: int

    @property
    def peak(self) -> int:
        return self.weights + max(self.denoising, self.decoding)

    def parts(self) -> dict[str, int]:
        return {"weights": self.weights, "denoising": self.denoising, "decoding": self.decoding}


def denoising(
    sizes: Sizes, shape: Shape, rows: int, itemsize: int, attention: str, chunks: tuple[int, int, int] = (1024, 0, 0)
) -> int:
    """Bytes of activations for `rows` rows (prompts × pictures) in one call. `chunks` as `Policy.chunks`."""
    tokens = (shape.width // 8) * (shape.height // 8)
    each = ATTENDING_MAPS if sizes.attends_first else CONVOLVING_MAPS
    maps = int(each * sizes.denoiser_width * tokens * itemsize * rows)
    scores = score_bytes(sizes, tokens, rows, itemsize, attention, chunks)
    return max(maps, int(BESIDE_SCORES * maps) + scores)


def score_bytes(
    sizes: Sizes, tokens: int, rows: int, itemsize: int, attention: str, chunks: tuple[int, int, int]
) -> int:
    """Bytes of scores and of the weights made of them, where a way of attention keeps them in memory.

    Of all layers the first has most: at full resolution, or in SDXL's kin at half of it with twice the heads.
    """
    heads = 8 if sizes.family == "sd1" else sizes.denoiser_width // 64
    if not sizes.attends_first:
        tokens, heads = tokens // 4, 2 * heads
    whole = rows * heads * tokens * tokens
    if attention == "V1":
        return 8 * tokens * tokens
    if attention == "Doggettx":
        whole = min(whole, SLICED_SCORES)
    elif attention == "InvokeAI" and whole > SLICED_SCORES:
        whole = min(heads * tokens * tokens, SLICED_SCORES)
    elif attention == "sub-quadratic":
        q, kv, threshold = chunks
        if whole * itemsize > threshold:  # beyond it in chunks; those of keys are joined in float32
            kv = min(tokens, kv or int(tokens**0.5))
            return rows * heads * min(tokens, q) * kv * (8 if kv == tokens else itemsize + 14)
    elif attention not in ("InvokeAI", "None"):
        return 0
    return 8 * whole  # they and the weights made of them are in float32


def decode_peak(ch: int, width: int, height: int, itemsize: int) -> int:
    """Bytes the autoencoder's decoder holds at its widest point, for base width `ch` at width × height pixels."""
    return int(DECODER_MAPS * ch * width * height * itemsize)


def check_decode(facts: DeviceFacts, ch: int, width: int, height: int, itemsize: int, tile: int | None = None) -> None:
    """Raises BadRequest if a picture of this size cannot be decoded in this machine's memory.

    `tile`: the side in pixels of what is decoded at once, None is the whole picture.
    """
    whole = min(width, tile or width), min(height, tile or height)
    needed = decode_peak(ch, *whole, itemsize) + 16 * width * height  # the picture in float32, and its sum
    if needed <= facts.memory * USABLE:
        return
    largest = int((facts.memory * USABLE / decode_peak(ch, 1, 1, itemsize)) ** 0.5) // 64 * 64
    raise BadRequest(
        f"A picture of {width}×{height} would need about {needed / GIB:.0f} GiB to decode and this machine has "
        f"{facts.memory / GIB:.0f}; up to about {largest}×{largest} fits.",
        field="width",
    )


def check_denoising(facts: DeviceFacts, need: Need, shape: Shape) -> None:
    """Raises BadRequest if a processor's memory cannot hold what drawing takes; a graphics card is simply asked.

    Beyond its memory a machine swaps until it is killed, and other programs with it.
    """
    if facts.kind != "cpu" or need.denoising <= facts.memory * USABLE:
        return
    share = (facts.memory * USABLE / need.denoising) ** 0.5
    raise BadRequest(
        f"A picture of {shape.width}×{shape.height} would need about {need.denoising / GIB:.0f} GiB to draw and this "
        f"machine has {facts.memory / GIB:.0f}; up to about {int(shape.width * share) // 64 * 64}×"
        f"{int(shape.height * share) // 64 * 64} fits.",
        field="width",
    )


@dataclass(frozen=True)
class History:
    """What jobs of one kind took, as a share of what was predicted: kind -> part -> share. A value: `seen` makes
    another.

    A kind is whatever tells jobs apart whose prediction errs alike, such as "NVIDIA H200 sdxl float16 sdp resident".
    """

    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    WEIGHT = 0.5  # of the newest figure: two or three jobs correct a wrong guess
    BOUNDS = 0.1, 10.0  # beyond them something else was measured

    def corrected(self, kind: str, need: Need) -> Need:
        shares = self.shares.get(kind, {})
        return Need(**{part: int(size * shares.get(part, 1.0)) for part, size in need.parts().items()})

    def knows(self, kind: str) -> bool:
        return kind in self.shares

    def seen(self, kind: str, predicted: Need, measured: Mapping[str, int]) -> History:
        """With one job more. `predicted` is uncorrected; parts that were not measured stay as they were."""
        shares = dict(self.shares.get(kind, {}))
        for part, size in predicted.parts().items():
            if part in measured and size > 0:
                share = min(max(measured[part] / size, self.BOUNDS[0]), self.BOUNDS[1])
                old = shares.get(part)
                shares[part] = share if old is None else old + self.WEIGHT * (share - old)
        return replace(self, shares={**self.shares, kind: shares})

    def as_json(self) -> str:
        rounded = {k: {part: round(share, 4) for part, share in shares.items()} for k, shares in self.shares.items()}
        return json.dumps(rounded, indent=1)

    @classmethod
    def read(cls, path: Path) -> History:
        """What an earlier run kept; nothing where it cannot be read: it is then measured again."""
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls({str(k): {str(part): float(share) for part, share in v.items()} for k, v in found.items()})
        except (OSError, ValueError, AttributeError, TypeError):
            return cls()
