"""The second training: pairs and emphasis in captions, weights on things, exact resuming, and a file to start from."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.prompt.parse import parse_emphasis
from modules.prompt.tokens import CLIP
from modules.training.captions import KIND_WORDS, SKY_WORDS, Habits, caption
from modules.training.denoiser_loop import Vocabulary, alphas_cumprod, build_denoiser
from modules.training.drawing import COLORS, Mixture, Scene, place_thing, random_scene
from modules.training.emphasis import WEIGHTS, contradiction, emphasised, stressed, weighted_ids
from modules.training.refine_loop import (
    JOINED_SHARES,
    MIXTURE_OF_PAIRS,
    RefineRecipe,
    cells_near_things,
    denoiser_from,
    half_drawn_pairs_and_singles,
    is_apart,
    refine,
    refine_batch,
    refine_loss,
)

SMALL_UNET = UNetConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, input_depths=(1, 0), output_depths=(0, 0, 1, 1),
    context_dim=32, num_heads=None, head_dim=16,
)  # fmt: skip
SMALL_TEXT = ClipConfig(width=32, layers=1, heads=2, mlp=64)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(CLIP.encode)


@pytest.fixture(scope="module")
def scenes(test_seed):
    return [random_scene(test_seed, i, MIXTURE_OF_PAIRS) for i in range(40)]


def small(vocabulary, seed):
    return build_denoiser(SMALL_UNET, replace(SMALL_TEXT, vocab=vocabulary.size), seed)


def recipe(seed, **changes):
    mine = RefineRecipe(
        cycles=(50,), batch=10, warm_up=2, told=0.2, kept=0.1, blind=((0, 0.25),), half_drawn=2, bfloat16=False,
        seed=seed % 1000,
    )  # fmt: skip
    return replace(mine, **changes)


def rows_of(vocabulary, *words: str) -> set[int]:
    return {vocabulary.row_of[token] for word in words for token in vocabulary.tokenize(word)}


def test_a_mixture_says_how_often_scenes_show_pairs(test_seed):
    many = [random_scene(test_seed, i, Mixture((0, 0, 1), apart=1.0, twins=0.5)) for i in range(200)]
    assert all({t.position for t in s.things} == {"left", "right"} for s in many)
    twins = sum(s.things[0].kind == s.things[1].kind for s in many)
    assert 60 < twins < 140
    plain = [random_scene(test_seed, i) for i in range(400)]
    assert 15 < sum(len(s.things) == 2 for s in plain) < 85


def test_a_pair_without_places_is_named_from_left_to_right(test_seed):
    rng = random.Random(test_seed)
    left, right = (place_thing("cat", "red", "left", "big", "snow"), place_thing("car", "blue", "right", "big", "snow"))
    told = 0
    for things in ((left, right), (right, left)):
        for _ in range(100):
            text = caption(Scene("day", "snow", things), rng, Habits(empty=0, single=0, silent_pair=1.0, things=1.0))
            assert not {"left", "right"} & set(text.split())
            cat = next(text.index(word) for word in KIND_WORDS["cat"] if word in text)
            assert cat < text.index("car"), text
            told += 1
    assert told == 200


def test_of_two_words_that_contradict_each_other_the_louder_is_true(test_seed):
    rng = random.Random(test_seed)
    thing = place_thing("house", "red", "middle", "big", "hills")
    seen = 0
    for _ in range(600):
        weights = dict(parse_emphasis(contradiction(Scene("night", "hills", (thing,), moon=True), rng)))
        said = {word: weight for text, weight in weights.items() for word in text.replace(",", " ").split()}
        for color in COLORS:
            if color not in ("red", "green") and color in said:
                assert said[color] <= said["red"] + 1e-6
                seen += 1
        if "moon" in said and "stars" in said:
            assert said["stars"] <= WEIGHTS.absent[1] < said["moon"]
    assert seen > 30


def test_a_stressed_caption_names_all_and_stresses_one(scenes, test_seed):
    rng = random.Random(test_seed)
    for scene in scenes:
        pieces = parse_emphasis(stressed(scene, rng))
        text = "".join(piece for piece, _ in pieces)
        assert all(thing.kind in text and thing.color in text for thing in scene.things)
        assert all(name in text for name in SKY_WORDS if getattr(scene, name))
        assert sum(weight != 1 for _, weight in pieces) <= 1


def test_weights_act_as_in_the_pipeline(vocabulary, test_seed):
    ids, weights = weighted_ids("a (red:1.5) house", lambda token: vocabulary.row_of.get(token, vocabulary.unknown))
    assert ids == vocabulary.rows("a red house")
    assert weights[2] == 1.5
    assert weights.count(1.0) == 76
    torch.manual_seed(test_seed)
    context = torch.randn(2, 77, 8) + 0.25
    louder = emphasised(context, torch.tensor([weights, [1.0] * 77]))
    torch.testing.assert_close(louder[1], context[1])
    torch.testing.assert_close(louder.mean((1, 2)), context.mean((1, 2)))
    torch.testing.assert_close(louder[0, 2] / louder[0, 1], 1.5 * context[0, 2] / context[0, 1])


def test_the_learning_rate_falls_once_in_each_cycle():
    mine = RefineRecipe(cycles=(100, 300), warm_up=10, hold=0.5)
    paces = [mine.pace(step) for step in range(300)]
    assert paces[10:50] == [1.0] * 40
    assert paces[99] < 0.02
    assert paces[100] == 0.1
    assert paces[110:200] == [1.0] * 90
    assert paces[299] < 0.02


def test_a_recipe_may_change_from_a_step_on(scenes, vocabulary, test_seed):
    mine = recipe(test_seed, told=0.0, kept=0.0, changes=((7, (("kept", 0.4),)),))
    latents = torch.zeros(len(scenes), 4, 16, 16)
    assert [refine_batch(latents, scenes, vocabulary, mine, step).taught for step in (6, 7, 8)] == [0, 4, 4]


def test_errors_count_more_around_things():
    scene = Scene("day", "snow", (place_thing("car", "red", "left", "small", "snow"),))
    cells = cells_near_things(scene, RefineRecipe(), 16)
    assert cells[:, 10:].eq(1).all()
    assert cells[11:13, 2:4].eq(RefineRecipe().near_small).all()
    assert cells[:6].eq(1).all()


def test_a_batch_is_a_function_of_seed_and_step_and_its_blind_part_shows_noise(scenes, vocabulary, test_seed):
    latents = torch.full((len(scenes), 4, 16, 16), 2.0)
    mine = recipe(test_seed)
    a, b, c = (refine_batch(latents, scenes, vocabulary, mine, step) for step in (3, 3, 4))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.emphasis, b.emphasis)
    assert not torch.equal(a.target, c.target)
    assert a.taught == 3
    alpha = alphas_cumprod()[a.timesteps].float()[:, None, None, None]
    x0 = ((a.x - (1 - alpha).sqrt() * a.target) / alpha.sqrt())[:7]
    torch.testing.assert_close(x0, torch.full_like(x0, 2.0), rtol=1e-3, atol=1e-3)
    assert a.timesteps[:2].min() >= 985
    assert (a.x[:2] / (1 - alpha[:2]).sqrt()).mean().abs() < 0.3


def test_kept_samples_learn_what_the_file_before_makes_of_them(scenes, vocabulary, test_seed):
    latents = torch.zeros(len(scenes), 4, 16, 16)
    nets, other = small(vocabulary, 1), small(vocabulary, 1)
    batch = refine_batch(latents, scenes, vocabulary, recipe(test_seed, kept=0.5, told=0.0), 0)
    with torch.no_grad():
        assert refine_loss(nets, other, batch, bfloat16=False)[1][-5:].max() < 1e-10
        for parameter in other.unet.out.parameters():
            parameter.add_(0.1)
        assert refine_loss(nets, other, batch, bfloat16=False)[1][-5:].min() > 1e-4


def test_a_pair_without_its_places_learns_what_the_file_before_makes_of_it_with_them(scenes, vocabulary, test_seed):
    latents = torch.zeros(len(scenes), 4, 16, 16)
    batch = refine_batch(latents, scenes, vocabulary, recipe(test_seed, kept=0.0, told=0.8, blind=((0, 0.0),)), 0)
    assert batch.taught == 8
    assert batch.timesteps[2:6].min() >= 985
    assert batch.timesteps.min() < 985
    for heard, before in zip(batch.rows[2:].tolist(), batch.before_rows.tolist()):
        assert not rows_of(vocabulary, "left", "right") & set(heard)
        assert rows_of(vocabulary, "left", "right") <= set(before)
    nets = small(vocabulary, 1)
    spoken = replace(batch, rows=torch.cat([batch.rows[:2], batch.before_rows]))
    with torch.no_grad():
        for parameter in nets.unet.out.parameters():
            parameter.add_(0.1)
        assert refine_loss(nets, nets, spoken, bfloat16=False)[1][2:].max() < 1e-10, "the target is what it finds then"


@pytest.fixture(scope="module")
def half_drawn(scenes, vocabulary, test_seed):
    return half_drawn_pairs_and_singles(small(vocabulary, 1), 16, scenes, vocabulary, recipe(test_seed))


def test_of_a_half_drawn_pair_it_hears_one_thing_and_learns_what_the_file_before_makes_of_both(
    scenes, vocabulary, half_drawn, test_seed
):
    pairs, _ = half_drawn
    assert all(is_apart(scenes[i]) for i in pairs.scene)
    assert pairs.timesteps.min() >= 100
    assert pairs.timesteps.max() <= 850, "both are there already"
    mine = recipe(test_seed, joined=0.6, lone=0.0, told=0.0, kept=0.0)
    batch = refine_batch(torch.zeros(len(scenes), 4, 16, 16), scenes, vocabulary, mine, 0, half_drawn)
    assert (batch.joined, batch.taught) == (slice(4, 10), 6)
    for part in (batch.x[4:], batch.timesteps[4:]):
        assert all(torch.equal(part[0], part[k]) and torch.equal(part[3], part[3 + k]) for k in (1, 2))
    assert batch.timesteps[4] >= 985
    heard, before = batch.rows[4:].tolist(), batch.before_rows.tolist()
    assert heard[:3] == before[:3], "before anything is drawn each prompt keeps its meaning"
    assert heard[2] == heard[5] == before[5] == vocabulary.rows("")
    sides = rows_of(vocabulary, "left", "right")
    assert all(len(sides & set(row)) == 1 for row in (heard[0], heard[1], heard[3], heard[4]))
    assert before[3] == before[4]
    assert sides <= set(before[3])


def test_of_one_thing_half_drawn_it_learns_what_the_file_before_makes_of_it(scenes, vocabulary, half_drawn, test_seed):
    _, singles = half_drawn
    assert all(len(scenes[i].things) == 1 for i in singles.scene)
    mine = recipe(test_seed, joined=0.0, lone=0.4, told=0.0, kept=0.0)
    batch = refine_batch(torch.zeros(len(scenes), 4, 16, 16), scenes, vocabulary, mine, 0, half_drawn)
    assert batch.taught == 4
    assert torch.equal(batch.rows[6:], batch.before_rows)
    for x, timestep, row in zip(batch.x[6:], batch.timesteps[6:], batch.rows[6:].tolist()):
        k = next(k for k in range(len(singles.x)) if torch.equal(singles.x[k], x))
        assert (int(timestep), row) == (int(singles.timesteps[k]), singles.rows[k])


def test_errors_that_cancel_in_joined_prompts_count_half(scenes, vocabulary, half_drawn, test_seed):
    mine = recipe(test_seed, joined=0.6, lone=0.0, told=0.0, kept=0.0)
    nets, other = small(vocabulary, 1), small(vocabulary, 1)
    batch = refine_batch(torch.zeros(len(scenes), 4, 16, 16), scenes, vocabulary, mine, 0, half_drawn)
    batch = replace(batch, rows=torch.cat([batch.rows[:4], batch.before_rows]))
    with torch.no_grad():
        # The same error for one thing, the other and none: AND makes 5 + 5 - 9 of it.
        list(other.unet.out.parameters())[-1].add_(0.1)
        errors = refine_loss(nets, other, batch, bfloat16=False)[1][4:]
    torch.testing.assert_close(errors, torch.full_like(errors, 0.005 * (1 + 1 / float(JOINED_SHARES.square().sum()))))


def test_blind_samples_hear_of_things_in_the_middle_without_a_place(scenes, vocabulary, test_seed):
    batch = refine_batch(
        torch.zeros(40, 4, 16, 16), scenes, vocabulary, recipe(test_seed, told=0.0, kept=0.0, blind=((0, 0.8),)), 0
    )
    places = rows_of(vocabulary, "left", "right", "middle", "center", "centre")
    assert all(not places & set(row) for row in batch.rows[:2].tolist())


def test_it_learns_and_resumes_exactly(tmp_path, scenes, vocabulary, test_seed):
    torch.manual_seed(test_seed)
    latents = torch.randn(len(scenes), 4, 1, 1).expand(-1, -1, 16, 16).contiguous()
    mine = recipe(test_seed, cycles=(5, 9))

    def train(name: str, until: int):
        nets = small(vocabulary, 1)
        return refine(
            nets, small(vocabulary, 1), latents, scenes, vocabulary, mine, tmp_path / name,
            lambda step: step < until, log=lambda line: None,
        )[0].state_dict()  # fmt: skip

    whole = train("a.pt", 9)
    train("b.pt", 4)
    assert torch.load(tmp_path / "b.pt", weights_only=True)["step"] == 4
    again = train("b.pt", 9)
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
    batch = refine_batch(latents, scenes, vocabulary, replace(mine, kept=0.0, told=0.0, batch=30), 1000)
    trained = small(vocabulary, 1)
    trained.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True)["model"])
    with torch.no_grad():
        before, after = (refine_loss(nets, nets, batch, bfloat16=False)[0] for nets in (small(vocabulary, 1), trained))
    assert after < 0.95 * before


def test_a_file_s_nets_are_taken_over_with_the_vocabulary_s_rows(vocabulary, test_seed):
    nets = small(vocabulary, test_seed % 1000)
    with torch.no_grad():
        nets.text.embeddings.token_embedding.weight.normal_()
    text = nets.text.state_dict()
    key = "embeddings.token_embedding.weight"
    full = {**text, key: vocabulary.full_table(text[key])}
    taken = denoiser_from(full, nets.unet.state_dict(), vocabulary, 0, SMALL_UNET, SMALL_TEXT)
    for name, value in nets.state_dict().items():
        assert torch.equal(value, taken.state_dict()[name]), name
