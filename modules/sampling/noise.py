"""Noise: one independent stream for each picture, so that picture k of any batch is the same as that seed alone.

Three generators: torch on the CPU, torch on the compute device, and "NV", Philox 4x32-10 (Salmon et al. 2011,
doi:10.1145/2063384.2063405) with the layout of CUDA's torch.randn, on any hardware.
The Brownian path of the SDE samplers is a dyadic tree of bridges (Li et al. 2020, arXiv:2001.01328) with the seeds and
the bisection of torchsde 0.2, whose values it reproduces.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modules.schema.errors import BadRequest

SOURCES = ("GPU", "CPU", "NV")


class Philox:
    """The generator of CUDA's torch.randn: a pure function of (seed, number of the call, element)."""

    _MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
    _KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
    _WORD = np.uint64(0xFFFFFFFF)
    _SHIFT = np.uint64(32)
    # float32 constants of the original: 2^-32, and 2^-32 * 2 pi
    _TO_UNIT = float(np.float32(2.3283064e-10))
    _TO_ANGLE = float(np.float32(2.3283064e-10 * 6.2831855))

    def __init__(self, seed: int) -> None:
        self.key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
        self.calls = 0

    @classmethod
    def words(cls, counter: Sequence[np.ndarray | int], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Ten rounds over a counter of four 32-bit words (each an array or a number), as four uint64 arrays."""
        c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
        k0, k1 = key
        for _ in range(10):
            p, r = c0 * cls._MULTIPLIERS[0], c2 * cls._MULTIPLIERS[1]
            c0, c1, c2, c3 = (
                (r >> cls._SHIFT) ^ c1 ^ np.uint64(k0),
                r & cls._WORD,
                (p >> cls._SHIFT) ^ c3 ^ np.uint64(k1),
                p & cls._WORD,
            )
            k0, k1 = (k0 + cls._KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + cls._KEY_STEPS[1]) & 0xFFFFFFFF
        return c0, c1, c2, c3

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Unit normal float32 of any shape: Box-Muller on the first two words of each element's counter."""
        elements = np.arange(math.prod(shape), dtype=np.uint64)
        g0, g1, _, _ = self.words((self.calls, 0, elements, 0), self.key)
        self.calls += 1
        u = g0 * self._TO_UNIT + self._TO_UNIT / 2
        v = g1 * self._TO_ANGLE + self._TO_ANGLE / 2
        values = np.sqrt(-2.0 * np.log(u)) * np.sin(v)
        return torch.from_numpy(values.astype(np.float32).reshape(tuple(shape)))


class _Torch:
    """torch's own generator on one device, behind the same method as Philox."""

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, device=self.device)


class Generator(Protocol):
    def randn(self, shape: Sequence[int]) -> Tensor: ...


def make_generator(source: str, seed: int, device: torch.device | str = "cpu") -> Generator:
    """A fresh generator. Its noise lies on the CPU, but for source "GPU" on a device that can draw (MPS cannot).

    A seed is taken modulo 2^64.
    """
    seed = int(seed) & 0xFFFFFFFFFFFFFFFF
    if source == "NV":
        return Philox(seed)
    if source not in SOURCES:
        raise BadRequest(f"{source!r} is no source of noise; use one of {', '.join(SOURCES)}.", field="randn_source")
    on_device = source == "GPU" and torch.device(device).type not in ("cpu", "mps")
    return _Torch(seed, device if on_device else "cpu")


def slerp(strength: float, low: Tensor, high: Tensor) -> Tensor:
    """Two noises mixed on the sphere, one angle for each column; [C, h, w] each.

    As A1111 does it: the angle is taken along h, and noises that are almost equal are mixed straight, the other way
    round.
    """
    # Lengths and products along h are sums over few numbers of one picture, so they do not depend on a batch.
    low_unit = low / low.norm(dim=1, keepdim=True)
    high_unit = high / high.norm(dim=1, keepdim=True)
    dot = (low_unit * high_unit).sum(1)
    if dot.mean() > 0.9995:
        return low * strength + high * (1 - strength)
    omega = dot.acos()
    scale = omega.sin()
    low_weight = (((1.0 - strength) * omega).sin() / scale).unsqueeze(1)
    high_weight = ((strength * omega).sin() / scale).unsqueeze(1)
    return low_weight * low + high_weight * high


@dataclass(frozen=True)
class PictureNoise:
    """What decides the noise of one picture.

    `seed_resize_from`: (height, width) in pixels of the picture whose composition is wanted; (0, 0) is off.
    `ensd`: eta noise seed delta, added to the seed for all draws but the first.
    """

    seed: int
    subseed: int = 0
    subseed_strength: float = 0.0
    seed_resize_from: tuple[int, int] = (0, 0)
    ensd: int = 0

    def start(
        self, source: str, shape: tuple[int, int, int], device: torch.device | str, down: int = 8
    ) -> tuple[Tensor, Generator]:
        """The first noise [C, h, w], and the generator of all later draws. `down`: pixels to a latent cell."""
        generator = make_generator(source, self.seed, device)
        height, width = self.seed_resize_from
        original = (shape[0], height // down, width // down) if height > 0 and width > 0 else shape
        # The main noise comes out of the picture's own generator unless it has another shape.
        resized = original != shape
        noise = (make_generator(source, self.seed, device) if resized else generator).randn(original)
        if self.subseed_strength != 0:
            other = make_generator(source, self.subseed, device).randn(original)
            noise = slerp(self.subseed_strength, noise, other)
        if resized:
            noise = _centred_over(noise, generator.randn(shape))
        if self.ensd:
            generator = make_generator(source, self.seed + self.ensd, device)
        return noise, generator


def _centred_over(small: Tensor, canvas: Tensor) -> Tensor:
    """`canvas` [C, h, w] with the overlap of the two centred rectangles taken from `small` [C, h', w']."""
    result = canvas.clone()
    target, source = [slice(None)], [slice(None)]
    for wide, narrow in zip(canvas.shape[1:], small.shape[1:]):
        offset = (wide - narrow) // 2
        length = narrow if offset >= 0 else narrow + 2 * offset
        target.append(slice(max(offset, 0), max(offset, 0) + length))
        source.append(slice(max(-offset, 0), max(-offset, 0) + length))
    result[tuple(target)] = small[tuple(source)]
    return result


class BrownianPath:
    """W(t) of one picture on [low, high], W(low) = 0, the same whatever is asked first.

    The interval is halved until an end of the question is met, to six decimals; each half is a Brownian bridge whose
    seed follows from its place in the tree. `randn(seed, shape)` draws with a fresh generator.
    """

    _DIGITS = 6
    _POOL = 24
    _KEPT = 64  # intervals kept between questions: two paths down the tree, about 25 each

    def __init__(
        self,
        low: float,
        high: float,
        entropy: int,
        shape: Sequence[int],
        randn: Callable[[int, Sequence[int]], Tensor],
    ) -> None:
        self.low, self.high = round(low, self._DIGITS), round(high, self._DIGITS)
        self._entropy, self._shape, self._randn = entropy, tuple(shape), randn
        seed = int(self._sequence().generate_state(3)[0])
        self._whole = randn(seed, self._shape) * math.sqrt(high - low)
        self._halves: OrderedDict[tuple[int, int], tuple[Tensor, Tensor]] = OrderedDict()

    def _sequence(self, *key: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(entropy=self._entropy, spawn_key=key, pool_size=self._POOL)

    def increment(self, start: float, end: float) -> Tensor:
        """W(end) - W(start) for start < end, both clipped to the interval."""
        start, end = (round(min(max(t, self.low), self.high), self._DIGITS) for t in (start, end))
        pieces: list[Tensor] = []
        self._collect(start, end, self.low, self.high, 0, 0, self._whole, pieces)
        total = pieces[0] if pieces else torch.zeros_like(self._whole)
        for piece in pieces[1:]:
            total = total + piece
        return total

    def _collect(
        self,
        start: float,
        end: float,
        low: float,
        high: float,
        index: int,
        depth: int,
        value: Tensor,
        out: list[Tensor],
    ) -> None:
        """Append the increments of the fewest tree intervals that make up [start, end], left to right."""
        if start >= end:
            return
        if start == low and end == high:
            out.append(value)
            return
        middle = round(0.5 * (high + low), self._DIGITS)
        left, right = self._split(low, middle, high, index, depth, value)
        self._collect(start, min(end, middle), low, middle, 2 * index, depth + 1, left, out)
        self._collect(max(start, middle), end, middle, high, 2 * index + 1, depth + 1, right, out)

    def _split(
        self, low: float, middle: float, high: float, index: int, depth: int, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        if (index, depth) in self._halves:
            self._halves.move_to_end((index, depth))
            return self._halves[index, depth]
        per_length = 1 / (high - low)
        to_left, to_right = middle - low, high - middle
        seed = int(self._sequence(index, depth).generate_state(4)[0])
        left = to_left * value * per_length + math.sqrt(to_left * to_right * per_length) * self._randn(
            seed, self._shape
        )
        halves = left, value - left
        self._halves[index, depth] = halves
        if len(self._halves) > self._KEPT:
            self._halves.popitem(last=False)
        return halves


class StepNoise(Protocol):
    """What a sampler asks for. Unit normal, float32, on the latents' device."""

    def draw(self, only: Sequence[int] | None = None) -> Tensor:
        """The next noise of every picture, [B, C, h, w]; of the pictures `only`, [len(only), C, h, w]."""
        ...

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        """The noise of the step from sigma down to sigma_next, [B, C, h, w]."""
        ...


@dataclass(frozen=True)
class _Slice:
    """One picture's part of a path over a whole batch."""

    path: BrownianPath
    index: int

    def increment(self, start: float, end: float) -> Tensor:
        return self.path.increment(start, end)[self.index]


class BatchNoise:
    """The noise of one batch, picture by picture.

    `initial` [B, C, h, w] is drawn at once; later draws advance each picture's own generator. `brownian`: the lowest
    and highest sigma of the whole schedule, for samplers that want increments of a path; without it `between` draws.
    `shared_path`: one path over the whole batch, seeded by its first picture, as A1111 has it on demand; pictures
    other than the first then depend on their batch.
    """

    def __init__(
        self,
        pictures: Sequence[PictureNoise],
        shape: tuple[int, int, int],
        *,
        source: str = "GPU",
        device: torch.device | str = "cpu",
        brownian: tuple[float, float] | None = None,
        down: int = 8,
        shared_path: bool = False,
    ) -> None:
        self.shape, self.device = tuple(shape), torch.device(device)
        starts = [picture.start(source, shape, device, down) for picture in pictures]
        self._generators = [generator for _, generator in starts]
        self.initial = self._stack([noise for noise, _ in starts])
        self._paths: Sequence[BrownianPath | _Slice] | None = None
        if brownian is not None:
            low, high = min(brownian), max(brownian)

            def fresh(seed: int, shape: Sequence[int]) -> Tensor:
                return make_generator(source, seed, device).randn(shape)

            self._paths = [BrownianPath(low, high, picture.seed, self.shape, fresh) for picture in pictures]
            if shared_path:
                whole = BrownianPath(low, high, pictures[0].seed, (len(pictures), *self.shape), fresh)
                self._paths = [_Slice(whole, k) for k in range(len(pictures))]

    def __len__(self) -> int:
        return len(self._generators)

    def draw(self, only: Sequence[int] | None = None) -> Tensor:
        chosen = range(len(self._generators)) if only is None else only
        return self._stack([self._generators[k].randn(self.shape) for k in chosen])

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        if self._paths is None:
            return self.draw()
        low, high = sorted((sigma, sigma_next))
        per_root = 1 / math.sqrt(high - low)
        # Going down runs against the path's time, hence the sign.
        sign = 1.0 if sigma < sigma_next else -1.0
        return self._stack([path.increment(low, high) * (sign * per_root) for path in self._paths])

    def _stack(self, noises: Sequence[Tensor]) -> Tensor:
        if self.device.type == "cuda" and noises[0].device.type == "cpu":
            # Out of pinned memory: the program would else wait for all that the card has still to do.
            return torch.stack(list(noises)).pin_memory().to(self.device, non_blocking=True)
        return torch.stack([noise.to(self.device) for noise in noises])


def picture_noises(
    seeds: Sequence[int],
    subseeds: Sequence[int] = (),
    subseed_strength: float = 0.0,
    seed_resize_from: tuple[int, int] = (0, 0),
    ensd: int = 0,
) -> list[PictureNoise]:
    """One `PictureNoise` for each seed of a batch; a missing subseed is 0."""
    padded = [*subseeds, *([0] * len(seeds))]
    return [
        PictureNoise(seed, subseed, subseed_strength, seed_resize_from, ensd) for seed, subseed in zip(seeds, padded)
    ]
