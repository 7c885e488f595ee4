"""Reading a postcard by its pixels: which scene, which things, where, in what colours, what is in the sky.

The drawing code is the ruler. A picture's time and land are those whose empty scene it is nearest to; a thing is what
no empty scene of that time and land explains; its colour is a vote of its pixels among the painted shades; its kind is
the one that looks most like it, laid upon it. Every rule is checked on true pictures (see the tests and the model card)
before it may judge a drawn one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modules.training.drawing import (
    COLORS,
    KINDS,
    LANDS,
    SIZE,
    SIZES,
    THING_LIGHT,
    TIMES,
    Scene,
    dark,
    draw_scene,
    light,
    lit,
    place_thing,
    thing_color,
)

TOP = 26
"""The first row looked at for things: below moon, birds and stars, above a balloon's crown."""
SKY_END = 50
"""A blob that ends above this row belongs to the sky."""
UNEXPLAINED = 30.0
"""Distance in RGB from every empty scene beyond which a pixel belongs to a thing."""
SMALLEST = 70
"""Pixels a blob needs to count as a thing; the smallest true one has about twice as many."""

Mask = np.ndarray
Picture = np.ndarray


@dataclass(frozen=True)
class Blob:
    """A connected patch: its mask [128, 128], pixel count, centre and extent in picture coordinates."""

    mask: Mask
    area: int
    x: float
    y: float
    left: int
    top: int
    right: int
    bottom: int


@lru_cache(maxsize=32)
def empty_scenes(time: str, land: str) -> Picture:
    """[9, 128, 128, 3] float32: the land without anything, its ridges at nine places."""
    shifts = np.linspace(-1, 1, 9)
    return np.stack([draw_scene(Scene(time, land, (), shift=float(s))) for s in shifts]).astype(np.float32)


def scene_of(picture: Picture) -> tuple[str, str]:
    """(time, land) of the nearest empty scene; what stands in the way counts no more than any other wrong pixel."""
    rows = picture[::2, ::2].astype(np.float32)

    def distance(time: str, land: str) -> float:
        difference = np.abs(empty_scenes(time, land)[:, ::2, ::2] - rows).sum(-1)
        return float(np.minimum(difference, 60).mean(axis=(1, 2)).min())

    return min(((t, land) for t in TIMES for land in LANDS), key=lambda pair: distance(*pair))


@lru_cache(maxsize=32)
def _explanations(time: str, land: str) -> Picture:
    """[45, rows, 128, 3]: the empty scenes, also a little higher and lower, from row TOP on."""
    scenes = empty_scenes(time, land)
    moved = [np.roll(scenes, dy, axis=1)[:, TOP:] for dy in (-4, -2, 0, 2, 4)]
    return np.concatenate(moved)


def unexplained(picture: Picture, time: str, land: str) -> Mask:
    """[128, 128] bool: pixels that no empty scene has there."""
    rows = picture[TOP:].astype(np.float32)
    nearest = np.full(rows.shape[:2], np.inf, np.float32)
    for scene in _explanations(time, land):  # one by one: all at once is ten times the memory and the time
        difference = scene - rows
        np.minimum(nearest, np.einsum("yxc,yxc->yx", difference, difference), out=nearest)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[TOP:] = nearest > UNEXPLAINED**2
    return mask


def _grown(mask: Mask, by: int) -> Mask:
    """The mask and all pixels within `by` steps of it."""
    out = mask.copy()
    for _ in range(by):
        wide = out.copy()
        wide[1:] |= out[:-1]
        wide[:-1] |= out[1:]
        wide[:, 1:] |= out[:, :-1]
        wide[:, :-1] |= out[:, 1:]
        out = wide
    return out


def blobs(mask: Mask, smallest: int, bridge: int = 0) -> list[Blob]:
    """Connected patches of at least `smallest` pixels, largest first. Gaps of up to 2 * `bridge` pixels connect."""
    connected = _grown(mask, bridge)
    labels = np.where(connected, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # every pixel takes the largest label of its neighbours until nothing changes
        before = labels
        spread = np.pad(labels, 1)
        labels = np.maximum.reduce(
            [spread[1:-1, 1:-1], spread[:-2, 1:-1], spread[2:, 1:-1], spread[1:-1, :-2], spread[1:-1, 2:]]
        )
        labels = np.where(connected, labels, 0)
        if np.array_equal(labels, before):
            break
    found: list[Blob] = []
    for label in np.unique(labels[mask]):
        own = mask & (labels == label)
        ys, xs = np.nonzero(own)
        if len(ys) >= smallest:
            left, top, right, bottom = (int(v) for v in (xs.min(), ys.min(), xs.max(), ys.max()))
            found.append(Blob(own, len(ys), float(xs.mean()), float(ys.mean()), left, top, right, bottom))
    return sorted(found, key=lambda blob: -blob.area)


def things(picture: Picture, time: str, land: str) -> list[Blob]:
    """What stands in the picture (or floats, as balloons do), largest first."""
    return [blob for blob in blobs(unexplained(picture, time, land), SMALLEST, bridge=2) if blob.bottom > SKY_END]


@lru_cache(maxsize=8)
def _shades(time: str) -> tuple[np.ndarray, np.ndarray]:
    """Painted shades [30, 3] of the colours at that time, and the colour each belongs to."""
    shades = [
        (lit(shade, THING_LIGHT[time]), i)
        for i, color in enumerate(COLORS.values())
        for shade in (color, dark(color), light(color))
    ]
    return np.array([s for s, _ in shades], np.float32), np.array([i for _, i in shades])


def color_of(picture: Picture, blob: Blob, time: str) -> str:
    """The colour most pixels of a blob vote for; a pixel far from every painted shade does not vote.

    The main shade of a colour weighs more than its shadow and highlight, which may be near another's.
    """
    pixels = picture[blob.mask].astype(np.float32)
    shades, owner = _shades(time)
    distance = np.sqrt(np.square(pixels[:, None] - shades).sum(-1))
    nearest = distance.argmin(1)
    voting = distance.min(1) < 40
    weight = np.where(np.arange(len(shades)) % 3 == 0, 1.0, 0.4)
    votes = np.zeros(len(COLORS))
    np.add.at(votes, owner[nearest[voting]], weight[nearest[voting]])
    return tuple(COLORS)[int(votes.argmax())]


def position_of(blob: Blob) -> str:
    """The third of the picture a blob's middle lies in."""
    middle = (blob.left + blob.right) / 2
    return "left" if middle < 46 else "right" if middle > 82 else "middle"


FIELD = 72
"""Side of the square in which a thing is compared; its foot is at the bottom centre."""
FOOT = (67, 36)
WRONG = 100.0
"""Distance in RGB from which on a pixel is as wrong as can be."""
SHIFTS = (-5, -3, -1, 0, 1, 3, 5)


def _cut_out(picture: Picture, blob: Blob) -> tuple[Mask, Picture]:
    """A blob's mask [72, 72] and the picture about it [72, 72, 3], float32; what is beyond the picture is NaN."""
    mask = np.zeros((FIELD, FIELD), bool)
    around = np.full((FIELD, FIELD, 3), np.nan, np.float32)
    top, left = blob.bottom - FOOT[0], round((blob.left + blob.right) / 2) - FOOT[1]
    rows = slice(max(top, 0), min(top + FIELD, SIZE))
    columns = slice(max(left, 0), min(left + FIELD, SIZE))
    to = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    mask[to] = blob.mask[rows, columns]
    around[to] = picture[rows, columns]
    return mask, around


@lru_cache(maxsize=512)
def _templates(time: str, land: str, color: str) -> tuple[tuple[str, str, Mask, Picture], ...]:
    """Every kind and size in that colour and scene, cut out by the same rule that reads pictures."""
    found: list[tuple[str, str, Mask, Picture]] = []
    for kind in KINDS:
        for size in SIZES:
            picture = draw_scene(Scene(time, land, (place_thing(kind, color, "middle", size, land),)))
            seen = things(picture, time, land)
            if seen:
                found.append((kind, size, *_cut_out(picture, seen[0])))
    return tuple(found)


def kind_and_size_of(picture: Picture, blob: Blob, time: str, land: str, color: str) -> tuple[str, str]:
    """The kind and size a blob looks most like, laid upon it and moved by up to 5 pixels.

    How wrong one is: the share of pixels, of the blob's and its own together, that are another colour there. Pixels of
    the blob alone count as wrong altogether.
    """
    mask, around = _cut_out(picture, blob)
    best, answer = np.inf, ("", "")
    for kind, size, own, colors in _templates(time, land, color):
        rows, columns = np.nonzero(own)
        wanted = colors[rows, columns]
        for dy in SHIFTS:
            for dx in SHIFTS:
                y, x = rows + dy, columns + dx
                inside = (y >= 0) & (y < FIELD) & (x >= 0) & (x < FIELD)
                y, x = y[inside], x[inside]
                distance = np.sqrt(np.square(around[y, x] - wanted[inside]).sum(-1))
                wrong = np.minimum(np.nan_to_num(distance, nan=WRONG), WRONG).sum() / WRONG
                both = np.count_nonzero(mask[y, x])
                alone = np.count_nonzero(mask) - both
                score = (wrong + alone + np.count_nonzero(~inside)) / (len(rows) + alone)
                if score < best:
                    best, answer = score, (kind, size)
    return answer


def _near(picture: Picture, color: tuple[int, int, int], reach: float, rows: slice) -> Mask:
    mask = np.zeros((SIZE, SIZE), bool)
    difference = picture[rows].astype(np.float32) - np.array(color, np.float32)
    mask[rows] = np.square(difference).sum(-1) < reach**2
    return mask


def suns(picture: Picture, time: str) -> int:
    """How many suns there are."""
    color = (255, 226, 92) if time == "day" else (255, 224, 120)
    found = blobs(_near(picture, color, 42, slice(0, 46)), 60)
    return sum(blob.bottom < 45 for blob in found)  # a yellow balloon reaches lower


def moons(picture: Picture) -> int:
    """How many moons there are (stars of the same colour are far smaller)."""
    found = blobs(_near(picture, (252, 244, 208), 80, slice(0, 46)), 45)
    return sum(blob.bottom < 45 for blob in found)


STARRY = 0.008
"""A `star_share` beyond this is a starry sky; true ones have 0.012 and more, a lit balloon alone 0.005."""


def star_share(picture: Picture) -> float:
    """Share of the sky's pixels that are bright, moons left out."""
    bright = picture[:42].astype(np.float32).mean(-1) > 110
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:42] = bright
    small = mask.copy()
    for blob in blobs(mask, 45):
        small &= ~blob.mask
    return float(small[:42].mean())


def top_luminance(picture: Picture) -> float:
    """Mean luminance (Rec. 601) of the 16 uppermost rows."""
    return float((picture[:16].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).mean())


def share_of_color(picture: Picture, color: str, time: str) -> float:
    """Share of the picture's pixels within 60 of a colour as painted at that time."""
    return float(_near(picture, thing_color(color, time), 60, slice(0, SIZE)).mean())


@lru_cache(maxsize=256)
def readable(time: str, land: str, color: str) -> bool:
    """Whether a thing of that colour stands out enough from the ground for the rules to be fair."""
    ground = empty_scenes(time, land)[:, 84:118].reshape(-1, 3)
    distances = np.sqrt(np.square(ground - np.array(thing_color(color, time), np.float32)).sum(-1))
    return bool(np.percentile(distances, 5) > 60)
