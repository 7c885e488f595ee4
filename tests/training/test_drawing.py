"""The drawn world: scenes are what their seed says, and pixels are what the scene says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from modules.training import rules
from modules.training.drawing import (
    COLORS,
    COLUMN_JITTER,
    COLUMN_X,
    KINDS,
    LANDS,
    POSITIONS,
    SIZE,
    TIMES,
    Scene,
    draw_scene,
    place_thing,
    random_scene,
    thing_color,
)


def test_the_same_seed_draws_the_same_bytes(test_seed):
    first, again = (draw_scene(random_scene(test_seed, 7)) for _ in range(2))
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw_scene(random_scene(test_seed, 8)))


def test_the_series_of_scenes_covers_the_world_and_keeps_its_rules(test_seed):
    scenes = [random_scene(test_seed, i) for i in range(3000)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {t.kind for t in things} == set(KINDS)
    assert {t.color for t in things} == set(COLORS)
    assert {s.land for s in scenes} == set(LANDS)
    for scene in scenes:
        assert not (scene.sun and scene.time == "night")
        assert not ((scene.moon or scene.stars) and scene.time != "night")
        assert len({t.position for t in scene.things}) == len(scene.things)
        for thing in scene.things:
            assert abs(thing.x - COLUMN_X[thing.position]) <= COLUMN_JITTER
    # Pictures with two things blur which word belongs to which; there must be few of them.
    assert Counter(len(s.things) for s in scenes)[2] < 0.15 * len(scenes)


@pytest.mark.parametrize("land", LANDS)
def test_night_is_dark_and_day_is_light(land):
    night, sunset, day = (rules.top_luminance(draw_scene(Scene(t, land, ()))) for t in ("night", "sunset", "day"))
    assert night < 45
    assert 65 < sunset < 120
    assert day > 120


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", POSITIONS)
def test_a_thing_stands_in_its_column_in_its_colour(kind, position):
    plain = Scene("day", "snow", ())
    for color in ("red", "blue", "black"):
        shown = draw_scene(replace(plain, things=(place_thing(kind, color, position, "big", "snow"),)))
        changed = np.abs(shown.astype(int) - draw_scene(plain)).sum(-1) > 30
        columns = np.nonzero(changed)[1]
        assert abs(float(columns.mean()) - COLUMN_X[position]) < 4
        exact = (shown == np.array(thing_color(color, "day"))).all(-1)
        assert exact.sum() > 0.15 * changed.sum()


def test_big_things_are_bigger_and_the_moon_is_left_of_the_sun():
    def pixels(size: str) -> int:
        scene = Scene("day", "snow", (place_thing("house", "red", "middle", size, "snow"),))
        return int(rules.unexplained(draw_scene(scene), "day", "snow").sum())

    assert pixels("big") > 2 * pixels("small")
    moon = np.abs(
        draw_scene(Scene("night", "hills", (), moon=True)).astype(int) - draw_scene(Scene("night", "hills", ()))
    )
    sun = np.abs(draw_scene(Scene("day", "hills", (), sun=True)).astype(int) - draw_scene(Scene("day", "hills", ())))
    assert np.nonzero(moon.sum(-1))[1].max() < SIZE // 2 < np.nonzero(sun.sum(-1))[1].min()


@pytest.mark.parametrize("element", ["stars", "clouds", "birds"])
def test_each_element_of_the_sky_changes_the_sky_only(element):
    for time in TIMES if element == "clouds" else (("night",) if element == "stars" else ("day", "sunset")):
        empty = Scene(time, "desert", ())
        changed = (draw_scene(replace(empty, **{element: True})) != draw_scene(empty)).any(-1)
        assert changed.sum() > 40
        assert np.nonzero(changed)[0].max() < 60
