"""Captions with emphasis, so that `(word:1.4)` and `(word:0.6)` mean something to the model and not to chance alone.

Where two words contradict each other ("a (red:1.4) (blue:0.7) house") the picture shows the one with more weight; what
carries little weight in the sky ("(moon:0.3)") is not there. The syntax is the prompt's own, and weights act as they do
in the pipeline: on the encoded tokens, the mean restored.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from modules.prompt.parse import parse_emphasis
from modules.prompt.tokens import CLIP, chunk
from modules.training.captions import (
    KIND_WORDS,
    LAND_WORDS,
    POSITION_WORDS,
    SIZE_WORDS,
    SKY_WORDS,
    TIME_WORDS,
    sky_elements,
)
from modules.training.drawing import COLORS, KINDS, LANDS, POSITIONS, SIZES, TIMES, Scene


@dataclass(frozen=True)
class Weights:
    """From which ranges weights are drawn."""

    strong: tuple[float, float] = (0.9, 1.8)
    ratio: tuple[float, float] = (0.3, 0.8)
    """The losing word's weight as a share of the winning one's."""
    ties: float = 0.15
    """Share of contradictions of equal weight: either may win."""
    absent: tuple[float, float] = (0.0, 0.55)
    stress: tuple[float, float] = (0.0, 1.8)


WEIGHTS = Weights()


def weighted(words: str, weight: float) -> str:
    """A phrase with its weight in the prompt's syntax."""
    return words if abs(weight - 1) < 0.03 else f"({words}:{weight:.2f})"


def contradiction(scene: Scene, rng: random.Random, weights: Weights = WEIGHTS) -> str:
    """A caption that says two things of one, one of them louder; or names, quietly, what is not in the sky."""
    strong = rng.uniform(*weights.strong)
    weak = strong * (1.0 if rng.random() < weights.ties else rng.uniform(*weights.ratio))

    def against(yes: str, no: str, between: str = " ") -> str:
        both = [weighted(yes, strong), weighted(no, weak)]
        rng.shuffle(both)
        return between.join(both)

    def other(options: tuple[str, ...], shown: str) -> str:
        return rng.choice([option for option in options if option != shown])

    choices = ["time", "land", "sky", "sky"]
    if len(scene.things) == 1:
        choices += ["color", "color", "color", "kind", "kind", *["size"] * 6, "place"]
    about = rng.choice(choices)
    parts: list[str] = []
    for thing in scene.things:
        color, kind = thing.color, rng.choice(KIND_WORDS[thing.kind])
        size, place = rng.choice(SIZE_WORDS[thing.size]), rng.choice(POSITION_WORDS[thing.position])
        if about == "color":
            color = against(color, other(tuple(COLORS), thing.color))
        if about == "kind":
            kind = against(kind, other(KINDS, thing.kind))
        if about == "size":
            size = against(thing.size, other(SIZES, thing.size))
        elif rng.random() < 0.5:
            size = ""
        if about == "place":
            place = against(place, rng.choice(POSITION_WORDS[other(POSITIONS, thing.position)]), ", ")
        elif thing.position == "middle" and rng.random() < 0.5:
            place = ""
        parts.append(" ".join(word for word in ("a", size, color, kind, place) if word))
    land, when = rng.choice(LAND_WORDS[scene.land]), rng.choice(TIME_WORDS[scene.time])
    if about == "land":
        land = against(land, other(LANDS, scene.land), ", ")
    if about == "time":
        when = against(when, other(TIMES, scene.time), ", ")
    sky = [rng.choice(SKY_WORDS[name]) for name in sky_elements(scene)]
    if about == "sky":
        sky = [weighted(word, strong) for word in sky]
        absent = [name for name in _possible(scene) if not getattr(scene, name)]
        if absent:
            sky.append(weighted(rng.choice(SKY_WORDS[rng.choice(absent)]), rng.uniform(*weights.absent)))
    rest = [land, when, *sky]
    if rng.random() < 0.4:
        rng.shuffle(rest)
    return ", ".join([*parts, *rest])


def _possible(scene: Scene) -> tuple[str, ...]:
    return ("moon", "stars", "clouds") if scene.time == "night" else ("sun", "clouds", "birds")


def stressed(scene: Scene, rng: random.Random, weights: Weights = WEIGHTS) -> str:
    """A full caption of which one word carries some weight."""
    weight = rng.uniform(*weights.stress)
    words: list[list[str]] = [[thing.color, thing.kind] for thing in scene.things]
    words += [[scene.land], [scene.time], *([name] for name in sky_elements(scene))]
    chosen = rng.choice([(i, j) for i, phrase in enumerate(words) for j in range(len(phrase))] + [(0, 0)])
    words[chosen[0]][chosen[1]] = weighted(words[chosen[0]][chosen[1]], weight)
    phrases = [" ".join(phrase) for phrase in words]
    for i, thing in enumerate(scene.things):
        phrases[i] = f"a {phrases[i]}" + (f" {POSITION_WORDS[thing.position][0]}" if thing.position != "middle" else "")
    return ", ".join(phrases)


def weighted_ids(text: str, rows: Callable[[int], int]) -> tuple[list[int], list[float]]:
    """A caption with weights -> 77 compact rows and as many weights. `rows` maps a token to its row."""
    first = chunk(parse_emphasis(text), CLIP)[0]
    return [rows(token) for token in first.ids], list(first.weights)


def emphasised(context: Tensor, weights: Tensor) -> Tensor:
    """context [B, T, D] times weights [B, T], each sample's mean as it was."""
    louder = context * weights[:, :, None]
    return louder * (context.mean((1, 2)) / louder.mean((1, 2)))[:, None, None]
