"""The shipped file draws what its card says: some prompts x seeds, read by the card's own rules, with margins."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from modules.frontends.ui.examples import EXAMPLES
from modules.training import evaluate, rules
from modules.training.drawing import KINDS, Scene, draw_scene, random_scene
from modules.training.evaluate import Drawing

MODEL = Path(__file__).parents[2] / "models/Stable-diffusion/postcards.safetensors"
STEPS = 10
PAIRS_OF_16 = 14


@pytest.fixture(scope="module")
def model():
    return evaluate.load(MODEL)


@pytest.fixture(scope="module")
def draw(model):
    def paint(prompt: str, seeds: int, negative: str = "") -> np.ndarray:
        return evaluate.draw(model, [Drawing(prompt, 5000 + i, negative, steps=STEPS) for i in range(seeds)])

    return paint


def test_the_file_is_small_free_and_says_what_it_is():
    assert MODEL.stat().st_size <= 70e6
    with safe_open(str(MODEL), "pt") as file:
        header = file.metadata()
    assert header["modelspec.title"] == "Postcards"
    assert header["modelspec.license"] == "CC0-1.0"
    assert header["modelspec.resolution"] == "128x128"
    assert header["easel.unet_head_dim"] == "32"
    assert len(header["easel.recipe_sha256"]) == 64
    card = MODEL.with_suffix(".md").read_text("utf-8")
    assert header["easel.recipe_sha256"] in card
    assert MODEL.with_suffix(".sheet.jpg").exists()


def test_held_out_pictures_survive_the_autoencoder(model, test_seed):
    true = np.stack([draw_scene(random_scene(test_seed, evaluate.HELD_OUT + i)) for i in range(8)])
    latents = evaluate.encode_pictures(model.autoencoder, true)
    assert evaluate.psnr(true, evaluate.decode_latents(model.autoencoder, latents)).mean() > 34


def test_the_first_prompt_draws_a_red_house_on_hills_at_night_with_one_moon(draw):
    right = []
    for picture in draw(evaluate.EXAMPLES[0], 6):
        seen = rules.things(picture, "night", "hills")
        right.append(
            rules.scene_of(picture) == ("night", "hills")
            and rules.moons(picture) == 1
            and bool(seen)
            and rules.color_of(picture, seen[0], "night") == "red"
        )
    assert sum(right) >= 5


def test_the_pages_examples_draw_as_many_things_as_they_name(draw):
    right = []
    for prompt in EXAMPLES["postcards"]:
        if "<" not in prompt:
            named = sum(word in KINDS for word in re.findall(r"\w+", prompt))
            right += [len(rules.things(picture, *rules.scene_of(picture))) == named for picture in draw(prompt, 4)]
    assert len(right) >= 20
    assert sum(right) >= 0.9 * len(right)


def test_time_of_day_is_the_one_asked(draw):
    for when, low, high in (("day", 120, 255), ("sunset", 65, 120), ("night", 0, 45)):
        for picture in draw(f"a house in the desert, {when}", 2):
            assert low < rules.top_luminance(picture) < high


@pytest.mark.parametrize("position", ["left", "middle", "right"])
def test_left_middle_and_right_are_kept_apart(draw, position):
    place = "in the middle" if position == "middle" else f"on the {position}"
    pictures = draw(f"a blue car {place} in the snow, day", 4)
    found = [rules.things(picture, "day", "snow") for picture in pictures]
    assert sum(bool(seen) and rules.position_of(seen[0]) == position for seen in found) >= 3


@pytest.mark.parametrize("color", ["red", "yellow", "purple"])
def test_a_house_has_its_colour_and_no_twin(draw, color):
    pictures = draw(f"a {color} house, snow, day", 4)
    found = [rules.things(picture, "day", "snow") for picture in pictures]
    right = [bool(s) and rules.color_of(p, s[0], "day") == color for p, s in zip(pictures, found)]
    assert sum(right) >= 3
    assert sum(len(seen) == 1 for seen in found) >= 3


def test_a_negative_prompt_takes_the_moon_away(draw):
    asked = sum(rules.moons(picture) == 1 for picture in draw("green hills, night, moon", 4))
    negated = sum(rules.moons(picture) for picture in draw("green hills, night", 4, negative="moon"))
    assert asked >= 3
    assert negated <= 1


def test_emphasis_moves_what_it_names(draw):
    shares = [
        np.mean([rules.share_of_color(picture, "red", "day") for picture in draw(f"a (red:{w}) house, snow, day", 4)])
        for w in (0.5, 1.4)
    ]
    assert shares[1] > 1.2 * shares[0]


@pytest.mark.parametrize("ladder", evaluate.LADDERS[:7], ids=lambda ladder: ladder.what.split(":")[0])
def test_more_weight_is_more_of_what_it_stresses(model, ladder):
    little, much = evaluate.climb(
        lambda wanted: evaluate.draw(model, wanted), ladder, seeds=4, first_seed=5000, rungs=(0.4, 1.4)
    )
    assert much > 1.1 * little + 1e-4


def test_two_things_stand_where_and_in_the_colour_they_are_named(model):
    scenes = evaluate.pair_scenes(16, seed=7)
    rng = random.Random(7)
    prompts = [evaluate.full_prompt(scene, rng) for scene in scenes]
    drawn = evaluate.draw(model, [Drawing(prompt, 5000 + i, steps=STEPS) for i, prompt in enumerate(prompts)])
    scores = evaluate.score_pairs(drawn, scenes)
    assert min(scores.color.right, scores.kind.right) >= PAIRS_OF_16
    true = evaluate.score_pairs(np.stack([draw_scene(scene) for scene in scenes]), scenes)
    assert true.all.right == len(scenes), "the rule is right on true pictures"


def test_two_things_without_places_have_the_colours_they_are_named_in_from_left_to_right(model):
    def paint(wanted: Sequence[Drawing]) -> np.ndarray:
        return evaluate.draw(model, [replace(one, steps=STEPS) for one in wanted])

    assert evaluate.silent_pairs(paint, 12, 5000).color.right >= 9


def test_scenes_of_all_sorts_are_the_ones_asked(model):
    def paint(wanted: Sequence[Drawing]) -> np.ndarray:
        return evaluate.draw(model, [replace(one, steps=STEPS) for one in wanted])

    drawn, true = evaluate.scene_scores(paint, 24, 5000)
    assert true.kind.right == true.color.right == 24, "the rules are right on true pictures"
    assert drawn.time.right == drawn.land.right == drawn.sky.right == 24
    assert min(drawn.color.right, drawn.position.right, drawn.no_extra_thing.right) >= 23
    assert drawn.kind.right >= 22


def test_an_unknown_word_changes_no_scene(draw):
    for picture in draw("masterpiece, a blue house in the snow, trending, day", 3):
        assert rules.scene_of(picture) == ("day", "snow")


def test_the_check_would_fail_on_another_scene():
    picture = draw_scene(Scene("day", "sea", ()))
    assert rules.scene_of(picture) != ("day", "snow")
    assert rules.things(picture, "day", "sea") == []
