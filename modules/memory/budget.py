"""How much memory a picture will take, judged before it is drawn, and corrected by what was measured.

need = predict(sizes, shape, policy)          # bytes: weights, denoising, decoding; need.peak is what counts
history.corrected(key, need.peak)             # times what such jobs took of what was predicted
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from modules.memory.devices import DeviceFacts
from modules.schema.errors import BadRequest

GIB = 1024**3
# At full resolution the decoder holds its widest feature map three times (input, normalised copy, output).
FULL_RESOLUTION_MAPS = 3
# What the system and the rest of the program keep.
USABLE = 0.9
# Feature maps of a denoiser's width at full resolution that one row holds at its peak: those kept for the way up (all
# levels together about 6), the widest feed-forward (8 + 4), input, output, normalised copies.
DENOISER_MAPS = 24
SLICED_ATTENTION = frozenset({"V1", "Doggettx", "InvokeAI", "sub-quadratic", "split", "onednn"})


@dataclass(frozen=True)
class Sizes:
    """Parameters of each net of a model, and the two widths activations grow with (SD 1.5's by default)."""

    denoiser: int = 859_520_964
    vae: int = 83_653_863
    text: int = 123_060_480
    denoiser_width: int = 320
    vae_width: int = 128

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


def denoising(sizes: Sizes, shape: Shape, rows: int, itemsize: int, attention: str) -> int:
    """Bytes of activations for `rows` rows (prompts × pictures) in one call."""
    tokens = (shape.width // 8) * (shape.height // 8)
    maps = DENOISER_MAPS * sizes.denoiser_width * tokens * itemsize * rows
    scores = rows * 8 * tokens * tokens * itemsize if attention == "None" else 0
    if attention in SLICED_ATTENTION:
        scores = min(rows * 8 * tokens * tokens, 2**27) * itemsize
    return maps + scores


def decode_peak(ch: int, width: int, height: int, itemsize: int) -> int:
    """Bytes the autoencoder's decoder holds at its widest point, for base width `ch` at width × height pixels."""
    return FULL_RESOLUTION_MAPS * ch * width * height * itemsize


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
    """What jobs of one kind took, as a share of what was predicted, by kind. A value: `seen` makes another.

    A kind is whatever tells jobs apart whose prediction errs alike, such as "NVIDIA H200 float16 sdp".
    """

    shares: Mapping[str, float]
    WEIGHT = 0.5  # of the newest figure: two or three jobs correct a wrong guess

    def corrected(self, kind: str, predicted: int) -> int:
        return int(predicted * self.shares.get(kind, 1.0))

    def seen(self, kind: str, predicted: int, measured: int) -> History:
        """With one job more. `predicted` is uncorrected."""
        share = measured / max(1, predicted)
        old = self.shares.get(kind)
        mixed = share if old is None else old + self.WEIGHT * (share - old)
        return replace(self, shares={**self.shares, kind: mixed})
