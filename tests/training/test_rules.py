"""The pixel rules are right on true pictures; only then may they judge drawn ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from modules.training import rules
from modules.training.drawing import COLORS, Scene, draw_scene, place_thing
from modules.training.evaluate import one_thing_scenes, score_scenes


@pytest.fixture(scope="module")
def true_scores(test_seed):
    scenes = one_thing_scenes(70, test_seed)
    return score_scenes(np.stack([draw_scene(s) for s in scenes]), scenes, [True] * len(scenes))


@pytest.mark.parametrize(
    "what",
    ["land", "time", "found", "color", "kind", "position", "size", "no_extra_thing", "sky", "no_extra_light"],
)
def test_rule_is_right_on_true_pictures(true_scores, what):
    assert getattr(true_scores, what).value >= 0.98  # 70 pictures: at most one wrong


def test_the_rules_see_what_is_wrong(test_seed):
    scenes = one_thing_scenes(16, test_seed)
    pictures = np.stack([draw_scene(s) for s in scenes])
    mirrored = score_scenes(pictures[:, :, ::-1], scenes, [True] * len(scenes))
    sides = sum(s.things[0].position != "middle" for s in scenes)
    assert mirrored.position.right == len(scenes) - sides
    moved = pictures[np.roll(np.arange(len(pictures)), 1)]
    assert score_scenes(moved, scenes, [True] * len(scenes)).kind.value < 0.6


@pytest.mark.parametrize("land", ["hills", "mountains"])
def test_a_kind_is_known_when_the_picture_is_not_quite_sharp(land):
    """As drawn ones are. By its outline alone a small cactus was a balloon then in most colours."""
    right = []
    for when, color in itertools.product(("day", "sunset"), COLORS):
        if rules.readable(when, land, color):
            thing = place_thing("cactus", color, "middle", "small", land)
            picture = Image.fromarray(draw_scene(Scene(when, land, (thing,)))).filter(ImageFilter.GaussianBlur(1.5))
            seen = rules.things(np.asarray(picture), when, land)
            right.append(rules.kind_and_size_of(np.asarray(picture), seen[0], when, land, color)[0] == "cactus")
    assert len(right) >= 16
    assert sum(right) >= len(right) - 1


@pytest.mark.parametrize("color", [c for c in COLORS if c != "white"])
def test_house_colour_in_the_snow(color):
    picture = draw_scene(Scene("day", "snow", (place_thing("house", color, "left", "big", "snow"),)))
    assert rules.color_of(picture, rules.things(picture, "day", "snow")[0], "day") == color


def test_two_suns_and_two_things_are_counted():
    house = place_thing("house", "red", "left", "small", "snow")
    one = Scene("day", "snow", (house,), sun=True)
    two = replace(one, things=(house, place_thing("house", "red", "right", "small", "snow")))
    picture = draw_scene(two)
    assert len(rules.things(draw_scene(one), "day", "snow")) == 1
    assert len(rules.things(picture, "day", "snow")) == 2
    assert rules.suns(picture, "day") == 1
    picture = picture.copy()
    picture[4:36, 20:52] = picture[4:36, 87:119]
    assert rules.suns(picture, "day") == 2


def test_stars_are_bright_and_the_moon_is_none(test_seed):
    starry = draw_scene(Scene("night", "sea", (), stars=True, moon=True))
    dark = draw_scene(Scene("night", "sea", (), moon=True))
    assert rules.star_share(starry) > rules.STARRY > rules.star_share(dark)
    assert rules.moons(starry) == rules.moons(dark) == 1
