"""The world of Postcards: a scene in words-to-be, and its picture.

`random_scene` draws a scene from a seed, `draw_scene` paints it: flat shapes and gentle gradients, no texture, so that
a small autoencoder can hold it. Painted at three times the size and averaged down, which smooths the edges.
The sky has fixed places (moon upper left, birds top middle, sun upper right, clouds a row lower), and things stand in
three columns well apart: a small model learns a place sooner when it means one place.

All lengths are in pixels of the 128 x 128 picture, y grows downward.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
OVERSAMPLE = 3
HORIZON = 74

Color = tuple[int, int, int]

TIMES = ("day", "sunset", "night")
LANDS = ("sea", "hills", "mountains", "desert", "meadow", "snow")
KINDS = ("house", "tree", "boat", "balloon", "cat", "car", "cactus")
POSITIONS = ("left", "middle", "right")
SIZES = ("big", "small")

COLORS: dict[str, Color] = {
    "red": (216, 52, 50),
    "orange": (244, 138, 38),
    "yellow": (250, 214, 66),
    "green": (54, 158, 84),
    "blue": (52, 108, 214),
    "purple": (138, 76, 190),
    "pink": (246, 138, 182),
    "white": (248, 246, 240),
    "black": (44, 44, 54),
    "brown": (132, 84, 50),
}

NATURAL_COLORS: dict[str, str] = {"tree": "green", "cactus": "green"}
"""The colour a kind has so often that a caption may leave it out."""

COLUMN_X: dict[str, float] = {"left": 27.0, "middle": 64.0, "right": 101.0}
"""Centre of each column; a thing strays at most `COLUMN_JITTER` from it."""
COLUMN_JITTER = 4.0

THING_LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.86, 0.80), "night": (0.80, 0.81, 0.92),
}  # fmt: skip
LAND_LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0), "sunset": (0.98, 0.74, 0.68), "night": (0.30, 0.36, 0.54),
}  # fmt: skip
SKIES: dict[str, tuple[Color, ...]] = {
    "day": ((92, 168, 234), (150, 204, 244), (214, 236, 250)),
    "sunset": ((100, 70, 136), (232, 118, 104), (255, 206, 132)),
    "night": ((14, 18, 46), (26, 36, 76), (52, 68, 118)),
}


@dataclass(frozen=True)
class Thing:
    """One object of a scene; `x` and `base` are where its foot (a balloon: its middle) is."""

    kind: str
    color: str
    position: str
    size: str
    x: float
    base: float


@dataclass(frozen=True)
class Scene:
    """All that a picture shows. `shift` in [-1, 1] and `drift` in [-1, 1] move the ridges and what is in the sky."""

    time: str
    land: str
    things: tuple[Thing, ...]
    sun: bool = False
    moon: bool = False
    stars: bool = False
    clouds: bool = False
    birds: bool = False
    shift: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)


# --- scenes -----------------------------------------------------------------------------------------------------------


def place_thing(kind: str, color: str, position: str, size: str, land: str, rng: random.Random | None = None) -> Thing:
    """A thing standing where its kind and land allow. Without `rng` exactly in the middle of its column."""

    def wander(reach: float) -> float:
        return rng.uniform(-reach, reach) if rng else 0.0

    big = size == "big"
    if kind == "balloon":
        base = (54 if big else 52) + wander(4)
    elif land == "sea":
        base = ((98 if big else 92) if kind == "boat" else (117 if big else 118)) + wander(2)
    else:
        base = (113 if big else 106) + wander(3)
    return Thing(kind, color, position, size, COLUMN_X[position] + wander(COLUMN_JITTER), base)


@dataclass(frozen=True)
class Mixture:
    """How often scenes show what. The figures are those the first training drew from."""

    counts: tuple[int, int, int] = (10, 79, 11)
    """Weights of scenes with no thing, one, two."""
    apart: float = 0.0
    """Share of the pairs that stand left and right for certain (the others: in any two columns)."""
    twins: float = 0.0
    """Share of the pairs that are of one kind."""
    small: float | None = None
    """Share of the things that are small; None: half of them."""
    kinds: tuple[tuple[str, float], ...] = ()
    """How often things of these kinds show beside those of another, which count 1."""

    def kind(self, rng: random.Random, taken: Collection[str]) -> str:
        """One of the kinds that are not taken."""
        free = [kind for kind in KINDS if kind not in taken]
        if not self.kinds:
            return rng.choice(free)
        counts = dict(self.kinds)
        return rng.choices(free, [counts.get(kind, 1.0) for kind in free])[0]


MIXTURE = Mixture()


def random_scene(seed: int, index: int, mixture: Mixture = MIXTURE) -> Scene:
    """Scene number `index` of the endless, fixed series that belongs to `seed`."""
    rng = random.Random(seed * 1_000_003 + index)
    time = rng.choice(TIMES)
    land = rng.choice(LANDS)
    count = rng.choices((0, 1, 2), mixture.counts)[0]
    places = rng.sample(POSITIONS, count)
    if count == 2 and mixture.apart and rng.random() < mixture.apart:
        places = rng.sample(("left", "right"), 2)
    twins = bool(mixture.twins) and rng.random() < mixture.twins
    things: list[Thing] = []
    for position in places:
        kind = mixture.kind(rng, {thing.kind for thing in things})
        if twins and things:
            kind = things[0].kind
        # Boats belong on water and cacti in the sand, mostly: the first thing may choose the land.
        if not things and kind == "boat" and rng.random() < 0.6:
            land = "sea"
        if not things and kind == "cactus" and rng.random() < 0.35:
            land = "desert"
        natural = NATURAL_COLORS.get(kind)
        color = natural if natural and rng.random() < 0.3 else rng.choice(tuple(COLORS))
        shares = None if mixture.small is None else (1 - mixture.small, mixture.small)
        size = rng.choice(SIZES) if shares is None else rng.choices(SIZES, shares)[0]
        things.append(place_thing(kind, color, position, size, land, rng))
    return Scene(
        time=time,
        land=land,
        things=tuple(things),
        sun=time != "night" and rng.random() < 0.5,
        moon=time == "night" and rng.random() < 0.5,
        stars=time == "night" and rng.random() < 0.5,
        clouds=rng.random() < 0.35,
        birds=time != "night" and rng.random() < 0.25,
        shift=rng.uniform(-1, 1),
        drift=(rng.uniform(-1, 1), rng.uniform(-1, 1)),
    )


# --- paint ------------------------------------------------------------------------------------------------------------


def mix(a: Color, b: Color, share: float) -> Color:
    """`a` with `share` of `b`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def lit(color: Color, light: tuple[float, float, float]) -> Color:
    """`color` under a light: multiplied channel by channel."""
    return (round(color[0] * light[0]), round(color[1] * light[1]), round(color[2] * light[2]))


def thing_color(color: str, time: str) -> Color:
    """The main colour of a thing as painted at that time of day."""
    return lit(COLORS[color], THING_LIGHT[time])


class _Brush:
    """Shapes in picture units on the oversampled canvas, coloured by one light."""

    def __init__(self, image: Image.Image, light: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self.image, self.light, self.draw = image, light, ImageDraw.Draw(image)

    def polygon(self, points: list[tuple[float, float]], color: Color) -> None:
        self.draw.polygon([(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in points], fill=lit(color, self.light))

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        box = [(x - rx) * OVERSAMPLE, (y - ry) * OVERSAMPLE, (x + rx) * OVERSAMPLE, (y + ry) * OVERSAMPLE]
        self.draw.ellipse(box, fill=lit(color, self.light))

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, radius: float = 0.0) -> None:
        box = [x0 * OVERSAMPLE, y0 * OVERSAMPLE, x1 * OVERSAMPLE, y1 * OVERSAMPLE]
        self.draw.rounded_rectangle(box, radius * OVERSAMPLE, fill=lit(color, self.light))

    def line(self, points: list[tuple[float, float]], width: float, color: Color) -> None:
        scaled = [(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in points]
        self.draw.line(scaled, fill=lit(color, self.light), width=round(width * OVERSAMPLE), joint="curve")

    def ground(self, edge: Callable[[float], float], top: Color, bottom: Color) -> None:
        """Everything below `edge(x)`, graded from `top` to `bottom`."""
        points = [(float(x), edge(x)) for x in range(0, SIZE + 1, 2)]
        mask = Image.new("L", self.image.size)
        scaled = [(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in [*points, (SIZE, SIZE), (0, SIZE)]]
        ImageDraw.Draw(mask).polygon(scaled, fill=255)
        start = min(y for _, y in points)
        fill = gradient((lit(top, self.light), lit(bottom, self.light)), start, SIZE)
        self.image.paste(fill, (0, 0), mask)


def gradient(colors: tuple[Color, ...], start: float, end: float) -> Image.Image:
    """A canvas graded downward through `colors`, evenly spaced from `start` to `end`."""
    rows = np.arange(SIZE * OVERSAMPLE) / OVERSAMPLE
    stops = np.linspace(start, end, len(colors))
    column = np.stack([np.interp(rows, stops, [color[i] for color in colors]) for i in range(3)], -1)
    strip = Image.fromarray(np.rint(column).astype(np.uint8)[:, None])
    return strip.resize((SIZE * OVERSAMPLE, SIZE * OVERSAMPLE), Image.Resampling.NEAREST)


def _wave(height: float, swing: float, length: float, phase: float) -> Callable[[float], float]:
    return lambda x: height + swing * math.sin(2 * math.pi * x / length + phase)


def _sea(brush: _Brush, shift: float) -> None:
    brush.ground(lambda x: HORIZON, (92, 174, 222), (36, 108, 182))
    for x, y, half in ((22, 82, 9), (92, 84, 11), (52, 91, 10), (112, 97, 8), (14, 98, 8)):
        brush.ellipse(x + 5 * shift, y, half, 1.2, (140, 204, 236))
    brush.ground(_wave(106, 2.0, 110, 1.5 + shift), (236, 240, 236), (236, 240, 236))
    brush.ground(_wave(108.5, 2.0, 110, 1.5 + shift), (246, 222, 164), (228, 194, 132))


def _hills(brush: _Brush, shift: float) -> None:
    brush.ground(_wave(72, 7, 84, 0.6 + 0.7 * shift), (166, 212, 120), (130, 190, 100))
    brush.ground(_wave(86, 6, 128, 3.4 + 0.7 * shift), (118, 188, 88), (76, 150, 70))


def _mountains(brush: _Brush, shift: float) -> None:
    move = 5 * shift
    for x, peak, half, color in (
        (28, 42, 40, (150, 158, 188)),
        (104, 46, 38, (150, 158, 188)),
        (66, 34, 46, (122, 130, 166)),
    ):
        x = x + move
        slope = (94 - peak) / half
        brush.polygon([(x - half, 94), (x, peak), (x + half, 94)], color)
        cap = 12.0
        brush.polygon(
            [(x, peak), (x + cap / slope, peak + cap), (x + 0.4 * cap / slope, peak + cap - 3), (x, peak + cap + 2),
             (x - 0.4 * cap / slope, peak + cap - 3), (x - cap / slope, peak + cap)],
            (246, 248, 252),
        )  # fmt: skip
    brush.ground(_wave(89, 2, 128, shift), (134, 166, 128), (94, 130, 98))


def _desert(brush: _Brush, shift: float) -> None:
    brush.ground(_wave(75, 5, 100, 2.4 + 0.7 * shift), (250, 220, 150), (242, 200, 128))
    brush.ground(_wave(90, 6, 140, 5.2 + 0.7 * shift), (244, 200, 120), (222, 166, 92))


FLOWERS = ((10, 94), (30, 100), (50, 92), (72, 99), (94, 93), (116, 99), (18, 118), (44, 121), (82, 120), (108, 118))


def _meadow(brush: _Brush, shift: float) -> None:
    brush.ground(_wave(78, 1, 200, shift), (176, 214, 96), (112, 178, 66))
    for i, (x, y) in enumerate(FLOWERS):
        brush.ellipse(x + 2 * shift, y, 2.2, 2.2, ((255, 246, 246), (252, 150, 170), (255, 222, 92))[i % 3])


def _snow(brush: _Brush, shift: float) -> None:
    brush.ground(_wave(76, 5, 110, 1.0 + 0.7 * shift), (216, 228, 244), (206, 220, 240))
    brush.ground(_wave(90, 4, 150, 4.4 + 0.7 * shift), (242, 247, 253), (224, 234, 248))


_LANDS: dict[str, Callable[[_Brush, float], None]] = {
    "sea": _sea, "hills": _hills, "mountains": _mountains, "desert": _desert, "meadow": _meadow, "snow": _snow,
}  # fmt: skip


def dark(color: Color) -> Color:
    """A deeper shade of the same hue; black goes lighter instead, so that a roof still shows."""
    return mix(color, (120, 122, 140), 0.35) if max(color) < 60 else lit(color, (0.72, 0.70, 0.76))


def light(color: Color) -> Color:
    return mix(color, (255, 255, 255), 0.28)


def _house(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    w, wall, roof = 0.40 * h, 0.56 * h, dark(c)
    b.box(x + 0.16 * h, y - 0.98 * h, x + 0.28 * h, y - 0.66 * h, (150, 104, 92))
    b.box(x - w, y - wall, x + w, y, c)
    b.polygon([(x - 0.50 * h, y - wall + 0.02 * h), (x, y - h), (x + 0.50 * h, y - wall + 0.02 * h)], roof)
    glass = (255, 226, 130) if time == "night" else (196, 228, 246)
    bare = _Brush(b.image, (1.0, 1.0, 1.0) if time == "night" else b.light)
    b.box(x - 0.30 * h, y - 0.32 * h, x - 0.09 * h, y, (104, 68, 50), 0.05 * h)
    bare.box(x + 0.06 * h, y - 0.38 * h, x + 0.28 * h, y - 0.17 * h, glass, 0.03 * h)


def _tree(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    b.polygon(
        [(x - 0.09 * h, y), (x - 0.05 * h, y - 0.5 * h), (x + 0.05 * h, y - 0.5 * h), (x + 0.09 * h, y)], (120, 82, 54)
    )
    shade = lit(c, (0.86, 0.86, 0.9))
    for dx, dy, r in ((-0.20, 0.48, 0.21), (0.20, 0.48, 0.21)):
        b.ellipse(x + dx * h, y - dy * h, r * h, r * h, shade)
    b.ellipse(x, y - 0.66 * h, 0.31 * h, 0.31 * h, c)
    b.ellipse(x - 0.09 * h, y - 0.76 * h, 0.13 * h, 0.12 * h, light(c))


def _boat(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    b.box(x - 0.035 * h, y - h, x + 0.035 * h, y - 0.2 * h, (120, 84, 58))
    b.polygon([(x - 0.07 * h, y - 0.94 * h), (x - 0.07 * h, y - 0.28 * h), (x - 0.46 * h, y - 0.28 * h)], c)
    b.polygon(
        [(x + 0.07 * h, y - 0.84 * h), (x + 0.07 * h, y - 0.28 * h), (x + 0.38 * h, y - 0.28 * h)], (250, 246, 236)
    )
    b.polygon(
        [(x - 0.54 * h, y - 0.24 * h), (x + 0.54 * h, y - 0.24 * h), (x + 0.38 * h, y), (x - 0.38 * h, y)],
        lit(c, (0.88, 0.86, 0.9)),
    )


def _balloon(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    r, top = 0.36 * h, y - 0.14 * h
    for side in (-1, 1):
        b.line([(x + side * 0.8 * r, top + 0.6 * r), (x + side * 0.09 * h, y + 0.38 * h)], 0.03 * h, (110, 84, 66))
    b.polygon(
        [
            (x - 0.93 * r, top + 0.38 * r),
            (x + 0.93 * r, top + 0.38 * r),
            (x + 0.26 * r, top + 1.24 * r),
            (x - 0.26 * r, top + 1.24 * r),
        ],
        c,
    )
    b.ellipse(x, top, r, r, c)
    b.ellipse(x, top, 0.40 * r, r, light(c))
    b.polygon(
        [
            (x - 0.38 * r, top + 0.3 * r),
            (x + 0.38 * r, top + 0.3 * r),
            (x + 0.12 * r, top + 1.24 * r),
            (x - 0.12 * r, top + 1.24 * r),
        ],
        light(c),
    )
    b.box(x - 0.11 * h, y + 0.36 * h, x + 0.11 * h, y + 0.5 * h, (150, 100, 58), 0.03 * h)


def _cat(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    shade = dark(c)
    tail = [
        (x + 0.18 * h, y - 0.08 * h),
        (x + 0.36 * h, y - 0.10 * h),
        (x + 0.42 * h, y - 0.26 * h),
        (x + 0.36 * h, y - 0.40 * h),
    ]
    b.line(tail, 0.10 * h, shade)
    for tx, ty in (tail[-1], tail[1], tail[2]):
        b.ellipse(tx, ty, 0.05 * h, 0.05 * h, shade)
    b.ellipse(x, y - 0.24 * h, 0.25 * h, 0.25 * h, c)
    b.polygon(
        [
            (x - 0.18 * h, y - 0.55 * h),
            (x + 0.18 * h, y - 0.55 * h),
            (x + 0.25 * h, y - 0.2 * h),
            (x - 0.25 * h, y - 0.2 * h),
        ],
        c,
    )
    b.box(x - 0.25 * h, y - 0.16 * h, x + 0.25 * h, y, c, 0.07 * h)
    for side in (-1, 1):
        b.polygon(
            [(x + side * 0.27 * h, y - h), (x + side * 0.28 * h, y - 0.66 * h), (x + side * 0.02 * h, y - 0.84 * h)], c
        )
    b.ellipse(x, y - 0.66 * h, 0.29 * h, 0.235 * h, c)
    b.ellipse(x, y - 0.20 * h, 0.12 * h, 0.16 * h, light(c))
    eye = (250, 220, 90) if max(c) < 60 else (44, 40, 48)
    for side in (-1, 1):
        b.ellipse(x + side * 0.12 * h, y - 0.68 * h, 0.045 * h, 0.06 * h, eye)
    b.ellipse(x, y - 0.58 * h, 0.035 * h, 0.028 * h, (240, 130, 140))


def _car(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    # The car is longer than high: h is the height of the other things, the car itself is 0.62 h high.
    bare = _Brush(b.image, (1.0, 1.0, 1.0) if time == "night" else b.light)
    b.polygon(
        [
            (x - 0.30 * h, y - 0.36 * h),
            (x - 0.19 * h, y - 0.60 * h),
            (x + 0.14 * h, y - 0.60 * h),
            (x + 0.28 * h, y - 0.36 * h),
        ],
        c,
    )
    b.polygon(
        [
            (x - 0.21 * h, y - 0.37 * h),
            (x - 0.14 * h, y - 0.53 * h),
            (x - 0.03 * h, y - 0.53 * h),
            (x - 0.03 * h, y - 0.37 * h),
        ],
        (204, 230, 246),
    )
    b.polygon(
        [
            (x + 0.03 * h, y - 0.37 * h),
            (x + 0.03 * h, y - 0.53 * h),
            (x + 0.11 * h, y - 0.53 * h),
            (x + 0.19 * h, y - 0.37 * h),
        ],
        (204, 230, 246),
    )
    b.box(x - 0.48 * h, y - 0.38 * h, x + 0.48 * h, y - 0.10 * h, c, 0.09 * h)
    b.box(x - 0.48 * h, y - 0.18 * h, x + 0.48 * h, y - 0.10 * h, lit(c, (0.82, 0.8, 0.84)), 0.04 * h)
    bare.ellipse(x + 0.44 * h, y - 0.27 * h, 0.04 * h, 0.05 * h, (255, 236, 160))
    for side in (-1, 1):
        b.ellipse(x + side * 0.27 * h, y - 0.11 * h, 0.12 * h, 0.12 * h, (52, 52, 62))
        b.ellipse(x + side * 0.27 * h, y - 0.11 * h, 0.05 * h, 0.05 * h, (196, 198, 206))


def _cactus(b: _Brush, x: float, y: float, h: float, c: Color, time: str) -> None:
    def limb(x0: float, x1: float, y0: float, y1: float) -> None:
        b.box(x + x0 * h, y - y1 * h, x + x1 * h, y - y0 * h, c, min(x1 - x0, y1 - y0) * h / 2)

    limb(-0.36, 0.0, 0.30, 0.44)
    limb(-0.36, -0.22, 0.30, 0.68)
    limb(0.0, 0.36, 0.42, 0.56)
    limb(0.22, 0.36, 0.42, 0.80)
    b.box(x - 0.13 * h, y - 0.94 * h, x + 0.13 * h, y, c, 0.12 * h)
    b.box(x - 0.13 * h, y - 0.2 * h, x + 0.13 * h, y, c)
    b.box(x - 0.06 * h, y - 0.84 * h, x - 0.01 * h, y - 0.08 * h, light(c), 0.02 * h)
    b.ellipse(x, y - 0.94 * h, 0.08 * h, 0.06 * h, (250, 120, 160))


_THINGS: dict[str, Callable[[_Brush, float, float, float, Color, str], None]] = {
    "house": _house, "tree": _tree, "boat": _boat, "balloon": _balloon, "cat": _cat, "car": _car, "cactus": _cactus,
}  # fmt: skip
THING_HEIGHT: dict[str, tuple[float, float]] = {
    "house": (48, 27), "tree": (54, 31), "boat": (46, 27), "balloon": (52, 31), "cat": (46, 27), "car": (49, 29),
    "cactus": (50, 29),
}  # fmt: skip
"""Height of a big and of a small one (the car: see `_car`)."""


def _paint_thing(
    image: Image.Image, thing: Thing, scene: Scene, thing_light: tuple[float, float, float] | None
) -> None:
    brush = _Brush(image, thing_light or THING_LIGHT[scene.time])
    height = THING_HEIGHT[thing.kind][SIZES.index(thing.size)]
    if thing.kind != "balloon":
        # A soft foot shadow: the ground there, darker.
        x, y = round(thing.x * OVERSAMPLE), round((thing.base + 1) * OVERSAMPLE)
        ground = image.getpixel((min(max(x, 0), image.width - 1), min(y, image.height - 1)))
        assert isinstance(ground, tuple)
        shadow = lit((ground[0], ground[1], ground[2]), (0.78, 0.78, 0.84))
        _Brush(image).ellipse(thing.x, thing.base, 0.46 * height, 0.055 * height, shadow)
    _THINGS[thing.kind](brush, thing.x, thing.base, height, COLORS[thing.color], scene.time)


def _paint_sky(image: Image.Image, scene: Scene) -> None:
    brush = _Brush(image)
    dx, dy = scene.drift
    if scene.stars:
        for i, (x, y) in enumerate(
            ((8, 8), (40, 9), (58, 22), (76, 8), (92, 20), (110, 8), (120, 26), (44, 34), (104, 36), (6, 38))
        ):
            r = 2.9 if i % 2 else 2.2
            x, y = x + 3 * dx, y + 2 * dy
            brush.polygon(
                [(x, y - r), (x + 0.35 * r, y - 0.35 * r), (x + r, y), (x + 0.35 * r, y + 0.35 * r),
                 (x, y + r), (x - 0.35 * r, y + 0.35 * r), (x - r, y), (x - 0.35 * r, y - 0.35 * r)],
                (255, 246, 206),
            )  # fmt: skip
    if scene.sun:
        x, y, r = 103 + 5 * dx, 20 + 3 * dy, 10.0
        disk, halo = ((255, 226, 92), (196, 222, 220)) if scene.time == "day" else ((255, 224, 120), (206, 118, 112))
        if scene.time == "sunset":
            y, r = y + 6, 11.0
            halo = (226, 134, 108)
        brush.ellipse(x, y, r + 4, r + 4, halo)
        brush.ellipse(x, y, r, r, disk)
    if scene.moon:
        x, y, r = 24 + 5 * dx, 21 + 3 * dy, 11.0
        sky = image.copy()
        brush.ellipse(x, y, r, r, (252, 244, 208))
        mask = Image.new("L", image.size)
        box = [
            (x + 5.5 - 9.5) * OVERSAMPLE,
            (y - 3 - 9.5) * OVERSAMPLE,
            (x + 5.5 + 9.5) * OVERSAMPLE,
            (y - 3 + 9.5) * OVERSAMPLE,
        ]
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        image.paste(sky, (0, 0), mask)
    if scene.clouds:
        color = {"day": (252, 253, 255), "sunset": (255, 186, 160), "night": (74, 88, 132)}[scene.time]
        for x, y, s in ((36 + 6 * dx, 44 + 2 * dy, 1.0), (84 + 6 * dy, 40 + 2 * dx, 0.85)):
            brush.ellipse(x - 7 * s, y, 7 * s, 4.5 * s, color)
            brush.ellipse(x + 8 * s, y, 8 * s, 4.5 * s, color)
            brush.ellipse(x, y - 3.5 * s, 7.5 * s, 6.5 * s, color)
            brush.box(x - 12 * s, y - 1 * s, x + 14 * s, y + 4.5 * s, color, 4 * s)
    if scene.birds:
        color = {"day": (58, 72, 104), "sunset": (64, 44, 86), "night": (20, 24, 50)}[scene.time]
        for x, y, w in ((54, 16, 6.0), (67, 22, 5.0), (72, 11, 4.5)):
            x, y = x + 4 * dx, y + 2 * dy
            brush.line(
                [
                    (x - w, y - 0.35 * w),
                    (x - 0.45 * w, y - 0.55 * w),
                    (x, y + 0.25 * w),
                    (x + 0.45 * w, y - 0.55 * w),
                    (x + w, y - 0.35 * w),
                ],
                1.9,
                color,
            )


def draw_scene(scene: Scene, thing_light: tuple[float, float, float] | None = None) -> np.ndarray:
    """The picture of a scene: [128, 128, 3] uint8, the same bytes for the same scene.

    `thing_light`: the light things stand in, instead of that of the time of day.
    """
    image = gradient(SKIES[scene.time], 0, HORIZON + 2)
    _paint_sky(image, scene)
    _LANDS[scene.land](_Brush(image, LAND_LIGHT[scene.time]), scene.shift)
    for thing in sorted(scene.things, key=lambda t: (t.kind != "balloon", t.base)):
        _paint_thing(image, thing, scene, thing_light)
    return np.asarray(image.reduce(OVERSAMPLE))
