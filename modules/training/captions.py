"""The caption grammar of Postcards: what a scene can be called, and so what one can ask for.

A caption never says what the picture does not show. It may leave things out, but: if one thing is named, all are; left
and right are nearly always said, so that silence means the middle; and sun, moon, stars, clouds and birds are nearly
always named where they are, so that silence means absence. A small share is empty (for guidance) or names one element
only (for negative prompts).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modules.training.drawing import COLORS, NATURAL_COLORS, Scene, Thing

KIND_WORDS: dict[str, tuple[str, ...]] = {
    "house": ("house", "house", "cottage"),
    "tree": ("tree",),
    "boat": ("boat", "boat", "sailboat"),
    "balloon": ("balloon", "hot air balloon"),
    "cat": ("cat", "cat", "kitten"),
    "car": ("car",),
    "cactus": ("cactus",),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "big": ("big", "big", "large", "huge"),
    "small": ("small", "small", "little", "tiny"),
}
POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left", "to the left", "left", "on the left side"),
    "middle": ("in the middle", "in the middle", "middle", "in the center", "center", "in the centre"),
    "right": ("on the right", "on the right", "to the right", "right", "on the right side"),
}
LAND_WORDS: dict[str, tuple[str, ...]] = {
    "sea": ("sea", "the sea", "ocean", "beach"),
    "hills": ("hills", "green hills", "green hills"),
    "mountains": ("mountains", "mountains", "snowy mountains"),
    "desert": ("desert", "the desert", "sand"),
    "meadow": ("meadow", "a meadow", "flowers", "green meadow"),
    "snow": ("snow", "the snow", "snow", "winter"),
}
LAND_PHRASES: dict[str, tuple[str, ...]] = {
    "sea": ("by the sea", "at the sea", "on the beach", "by the ocean"),
    "hills": ("on green hills", "on hills", "on the hills", "in green hills"),
    "mountains": ("in the mountains", "in front of mountains", "by the mountains"),
    "desert": ("in the desert", "in a desert", "on sand"),
    "meadow": ("in a meadow", "on a meadow", "in a green meadow", "in the flowers"),
    "snow": ("in the snow", "in snow", "on snow", "in winter"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("day", "day", "daytime", "blue sky", "by day"),
    "sunset": ("sunset", "sunset", "at sunset", "evening", "dusk"),
    "night": ("night", "night", "at night", "night sky", "dark night"),
}
SKY_WORDS: dict[str, tuple[str, ...]] = {
    "sun": ("sun", "sun", "the sun", "a sun", "bright sun"),
    "moon": ("moon", "moon", "the moon", "a moon", "crescent moon"),
    "stars": ("stars", "stars", "starry sky"),
    "clouds": ("clouds", "clouds", "cloudy"),
    "birds": ("birds", "birds", "flying birds"),
}


PAIR_WORDS = ("and", "and", "and", "next to", "beside")
"""What stands between two things that are named without their places."""


@dataclass(frozen=True)
class Habits:
    """How often a caption says what."""

    empty: float = 0.10
    single: float = 0.08
    tags: float = 0.35
    things: float = 0.97
    color: float = 0.92
    natural_color: float = 0.5
    size: float = 0.55
    small: float | None = None
    """How often "small" is said; None: as often as "big". Said nearly always, silence means big."""
    position: float = 0.98
    middle: float = 0.6
    """How often "in the middle" is said. Said seldom, silence means the middle, and a thing without a place is one."""
    silent_pair: float = 0.0
    """How often a pair left and right is named from left to right and without its places."""
    land: float = 0.88
    time: float = 0.88
    sky: float = 0.94


HABITS = Habits()


def phrases() -> Iterator[str]:
    """Every phrase of the grammar, for the training vocabulary."""
    for table in (KIND_WORDS, SIZE_WORDS, POSITION_WORDS, LAND_WORDS, LAND_PHRASES, TIME_WORDS, SKY_WORDS):
        for words in table.values():
            yield from words
    yield from COLORS
    yield from ("a", "an", "with", ",", *PAIR_WORDS)


def sky_elements(scene: Scene) -> list[str]:
    """The names of what is in the scene's sky."""
    return [name for name in SKY_WORDS if getattr(scene, name)]


def _noun(thing: Thing, rng: random.Random, color: bool, size: bool) -> str:
    words = [rng.choice(SIZE_WORDS[thing.size])] if size else []
    if color:
        words.append(thing.color)
    return " ".join([*words, rng.choice(KIND_WORDS[thing.kind])])


def _with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _single(scene: Scene, rng: random.Random, placeless: bool) -> str:
    """One element only: what a negative prompt usually is."""
    choices: list[Callable[[], str]] = [
        lambda: rng.choice(TIME_WORDS[scene.time]),
        lambda: rng.choice(LAND_WORDS[scene.land]),
    ]
    for name in sky_elements(scene):
        choices += [lambda name=name: rng.choice(SKY_WORDS[name])] * 2
    if len(scene.things) == 1 and (placeless or scene.things[0].position == "middle"):
        thing = scene.things[0]
        choices += [
            lambda: _noun(thing, rng, rng.random() < 0.6, False),
            lambda: _with_article(thing.color + " " + thing.kind),
        ]
        choices += [lambda: thing.color]
    return rng.choice(choices)()


def caption(scene: Scene, rng: random.Random, habits: Habits = HABITS) -> str:
    """One of the many captions of a scene, chosen by `rng`."""
    kind = rng.random()
    if kind < habits.empty:
        return ""
    if kind < habits.empty + habits.single:
        return _single(scene, rng, placeless=habits.middle >= habits.position)

    def says(share: float) -> bool:
        return rng.random() < share

    things = list(scene.things)
    silent = bool(habits.silent_pair) and {t.position for t in things} == {"left", "right"} and says(habits.silent_pair)
    if silent:
        things.sort(key=lambda t: t.x)
    named = bool(things) and says(habits.things)
    color = [says(habits.natural_color if NATURAL_COLORS.get(t.kind) == t.color else habits.color) for t in things]
    sizes = [habits.size if t.size == "big" or habits.small is None else habits.small for t in things]
    nouns = [_noun(t, rng, c, says(z)) for t, c, z in zip(things, color, sizes)] if named else []
    places = [
        rng.choice(POSITION_WORDS[t.position])
        if not silent and says(habits.middle if t.position == "middle" else habits.position)
        else ""
        for t in things
    ]
    land = says(habits.land) or (not named and not says(0.5))
    sky = [rng.choice(SKY_WORDS[name]) for name in sky_elements(scene) if says(habits.sky)]
    time = rng.choice(TIME_WORDS[scene.time]) if says(habits.time) else ""
    rng.shuffle(sky)

    if says(habits.tags):
        if says(0.3):
            nouns = [_with_article(noun) for noun in nouns]
        tags = [f"{noun} {place}".rstrip() for noun, place in zip(nouns, places)]
        if len(nouns) == 1 and says(0.5):
            tags = [nouns[0], *([places[0]] if places[0] else [])]
        tags += [rng.choice(LAND_WORDS[scene.land])] * land + [time] * bool(time) + sky
        if says(0.5):
            named_first = tags[: len(nouns)]
            rng.shuffle(tags)
            if silent and named:  # the order says who is left
                slots = [i for i, tag in enumerate(tags) if tag in named_first]
                for slot, tag in zip(slots, named_first):
                    tags[slot] = tag
        return ", ".join(tags)

    parts: list[str] = []
    if nouns:
        subject = [f"{_with_article(noun)} {place}".rstrip() for noun, place in zip(nouns, places)]
        where = rng.choice(LAND_PHRASES[scene.land]) if land else ""
        if len(nouns) == 1 and places[0] and says(0.4):
            parts = [f"{_with_article(nouns[0])} {where}".rstrip(), places[0]]
        else:
            between = rng.choice(PAIR_WORDS) if silent else "and"
            parts = [f"{f' {between} '.join(subject)} {where}".rstrip()]
    elif land:
        parts = [rng.choice(LAND_WORDS[scene.land])]
    if time:
        parts.append(time)
    if sky and says(0.25):
        return ", ".join(parts) + " with " + " and ".join(sky) if parts else " and ".join(sky)
    return ", ".join(parts + sky)
