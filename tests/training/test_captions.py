"""The caption grammar says nothing that the picture does not show."""

from __future__ import annotations

import random
import re

from modules.training.captions import (
    HABITS,
    KIND_WORDS,
    LAND_PHRASES,
    LAND_WORDS,
    POSITION_WORDS,
    SIZE_WORDS,
    SKY_WORDS,
    TIME_WORDS,
    caption,
    phrases,
    sky_elements,
)
from modules.training.drawing import COLORS, Scene, random_scene


def mentioned(text: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(^|[ ,]){re.escape(word)}($|[ ,])", text) for word in words)


def told_falsely(text: str, scene: Scene) -> list[str]:
    """What a caption names that the scene lacks."""
    # "green hills", "blue sky" and the like are names of lands and times, not colours of things.
    for words in (*LAND_WORDS.values(), *LAND_PHRASES.values(), *TIME_WORDS.values()):
        for word in words:
            if word.split()[0] in COLORS or "green" in word:
                text = text.replace(word, "")
    things = scene.things
    tables = (
        (KIND_WORDS, {t.kind for t in things}),
        ({color: (color,) for color in COLORS}, {t.color for t in things}),
        (SIZE_WORDS, {t.size for t in things}),
        (POSITION_WORDS, {t.position for t in things}),
        (SKY_WORDS, set(sky_elements(scene))),
        ({time: words[:1] for time, words in TIME_WORDS.items()}, {scene.time}),
        ({land: (land,) for land in LAND_WORDS}, {scene.land}),
    )
    return [
        name for table, true in tables for name, words in table.items() if mentioned(text, words) and name not in true
    ]


def test_no_caption_contradicts_its_picture(test_seed):
    rng = random.Random(test_seed)
    for i in range(1500):
        scene = random_scene(test_seed, i)
        for _ in range(3):
            text = caption(scene, rng)
            assert told_falsely(text, scene) == [], (text, scene)


def test_the_check_above_would_see_a_contradiction(test_seed):
    rng = random.Random(test_seed)
    scenes = [random_scene(test_seed, i) for i in range(200)]
    texts = [caption(scene, rng) for scene in scenes]
    swapped = sum(bool(told_falsely(text, other)) for text, other in zip(texts, scenes[1:] + scenes[:1]))
    assert swapped > 120


def test_things_are_named_together_or_not_at_all(test_seed):
    rng = random.Random(test_seed)
    scenes = [s for s in (random_scene(test_seed, i) for i in range(3000)) if len(s.things) == 2]
    for scene in scenes:
        text = caption(scene, rng)
        named = [mentioned(text, KIND_WORDS[t.kind]) for t in scene.things]
        assert all(named) or not any(named), text


def test_places_and_lights_are_nearly_always_said(test_seed):
    rng = random.Random(test_seed)
    placed, lit = [], []
    for i in range(3000):
        scene = random_scene(test_seed, i)
        text = caption(scene, rng)
        if len(scene.things) == 1 and text.count(" ") >= 3:
            placed.append(mentioned(text, POSITION_WORDS[scene.things[0].position]))
        if text.count(" ") >= 3:
            lit += [mentioned(text, SKY_WORDS[e]) for e in sky_elements(scene)]
    assert sum(placed) / len(placed) >= 0.8
    assert sum(lit) / len(lit) >= 0.9


def test_some_captions_are_empty_for_guidance(test_seed):
    rng = random.Random(test_seed)
    empty = sum(caption(random_scene(test_seed, i), rng) == "" for i in range(2000)) / 2000
    assert abs(empty - HABITS.empty) < 0.04


def test_every_word_of_a_caption_is_in_the_vocabulary_s_phrases(test_seed):
    known = {word for phrase in phrases() for word in re.findall(r"\w+|,", phrase)}
    rng = random.Random(test_seed)
    for i in range(1000):
        assert set(re.findall(r"\w+|,", caption(random_scene(test_seed, i), rng))) <= known
