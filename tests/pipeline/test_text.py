"""Text to conditioning for every family: towers as transformers runs them, emphasis, sizes, embeddings, cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.pipeline import text
from modules.pipeline.text import ConditioningCache, Embeddings
from modules.prompt import parse, tokens
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from modules.weights.residency import LoadedModel, Residency
from tests.weights.tiny import LAYOUTS, write_layout

LABELS = ("SD 1.x", "SD 2.x", "SDXL", "SDXL refiner")
SIZE = (96, 64)
PROMPTS = (
    "a photo of a cat",
    "a (red:1.4) house with [[blue]] doors, ((sky)) BREAK (a boat:0.3)",
    ", ".join(f"{n} ships" for n in range(40)),
    "",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Folders:
    """The four sets of towers, five layers each, so that four can be skipped."""
    folders = Folders.under(tmp_path_factory.mktemp("text"))
    for label in LABELS:
        layout = LAYOUTS[label]
        towers = tuple((prefix, opened, replace(config, layers=5)) for prefix, opened, config in layout.towers)
        path = folders.checkpoint_dirs[0] / f"{label}.safetensors"
        write_layout(path, replace(layout, towers=towers), test_seed, dtype=torch.float32)
    return folders


@pytest.fixture(scope="module")
def lease(folders: Folders) -> Iterator[Callable[[str], Any]]:
    facts = detect(use_cpu=True)
    catalogue = Catalogue(folders, folders.database)
    residency = Residency(catalogue, facts)
    yield lambda label: residency.lease(catalogue.find(label), choose(facts, Settings()))
    residency.close()


def settings(**options: object) -> Settings:
    return Settings().with_options(options)


def condition(
    model: LoadedModel, prompt: str, negative: str = "", embeddings: Embeddings | None = None, **options: object
) -> text.PictureConditioning:
    return text.condition(model, prompt, negative, 8, settings(**options), SIZE, ConditioningCache(), embeddings)


# ---------------------------------------------------------------------------------------------- against transformers


def their_tower(path: Path, label: str, index: int) -> Any:
    """transformers' model with diffusers' conversion of the file's keys."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    prefix, opened, config = LAYOUTS[label].towers[index]
    tensors = load_file(path)
    net = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=config.width, intermediate_size=config.mlp, num_hidden_layers=5,
            num_attention_heads=config.heads, hidden_act=config.activation, projection_dim=config.width,
            eos_token_id=49407,
        )
    ).eval()  # fmt: skip
    if opened:
        state = convert_open_clip_checkpoint(net, tensors, prefix)
        state = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in state.items()}
    else:
        state = convert_ldm_clip_checkpoint(tensors, remove_prefix="conditioner.embedders.0.transformer.")
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in state and key != "text_projection.weight"]
    assert not missing
    net.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})
    return net


@dataclass(frozen=True)
class Theirs:
    """One tower's answer: [T, D] with weights only, and with the old mean restored as well; the pooled output.

    `doubt`: how far rounding may move the restored one, since it divides by a mean that can be close to 0.
    """

    weighted: Tensor
    restored: Tensor
    pooled: Tensor
    doubt: float


def expected(net: Any, prompt: str, tokenizer: tokens.Tokenizer, layer: int, norm: bool) -> Theirs:
    """By the letter of the specification, chunk by chunk."""
    weighted, restored, pooled, doubt = [], [], [], 0.0
    for chunk in tokens.chunk(parse.parse_emphasis(prompt), tokenizer):
        out = net(torch.tensor([chunk.ids]), output_hidden_states=True)
        z = out.hidden_states[-layer][0].double()
        if norm:
            z = net.text_model.final_layer_norm(z.float()).double()
        scaled = z * torch.tensor(chunk.weights)[:, None]
        weighted.append(scaled)
        restored.append(scaled * z.mean() / scaled.mean())
        pooled.append(out.text_embeds[0])
        doubt = max(doubt, *(float(t.abs().mean() / t.mean().abs()) for t in (z, scaled)))
    return Theirs(torch.cat(weighted).float(), torch.cat(restored).float(), pooled[0], doubt * 1e-6)


USED = {  # per tower: tokenizer, layer of the family, final norm
    "SD 1.x": ((tokens.CLIP, None, True),),
    "SD 2.x": ((tokens.OPEN_CLIP, 2, True),),
    "SDXL": ((tokens.CLIP, 2, False), (tokens.OPEN_CLIP, 2, False)),
    "SDXL refiner": ((tokens.OPEN_CLIP, 2, False),),
}


@pytest.mark.parametrize("label", LABELS)
def test_towers_equal_transformers_at_every_layer(lease, folders, label):
    path = folders.checkpoint_dirs[0] / f"{label}.safetensors"
    nets = [their_tower(path, label, index) for index in range(len(USED[label]))]
    with lease(label) as model, torch.inference_mode():
        for skip in (1, 2, 3, 4):
            for prompt in PROMPTS:
                theirs = [
                    expected(net, prompt, tokenizer, skip, norm) for net, (tokenizer, _, norm) in zip(nets, USED[label])
                ]
                layers = [skip] * len(nets)
                plain = text.encode(model, (prompt,), settings(emphasis="No norm").prompting, layers)[0]
                assert apart(plain.tokens, torch.cat([t.weighted for t in theirs], dim=1)) < 1e-5
                restored = text.encode(model, (prompt,), Settings().prompting, layers)[0]
                limit = 1e-5 + max(t.doubt for t in theirs)
                assert apart(restored.tokens, torch.cat([t.restored for t in theirs], dim=1)) < limit
                if model.facts.vector:
                    assert plain.vector is not None
                    assert apart(plain.vector, theirs[-1].pooled) < 1e-5


def apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize(
    ("label", "options", "layers"),
    [
        ("SD 1.x", {}, [1]),
        ("SD 1.x", {"CLIP_stop_at_last_layers": 3}, [3]),
        ("SD 2.x", {"CLIP_stop_at_last_layers": 4}, [2]),
        ("SDXL", {"CLIP_stop_at_last_layers": 4}, [2, 2]),
        ("SDXL", {"CLIP_stop_at_last_layers": 4, "sdxl_clip_l_skip": True}, [4, 2]),
        ("SDXL", {"sdxl_clip_l_skip": True}, [1, 2]),
        ("SDXL refiner", {"CLIP_stop_at_last_layers": 4, "sdxl_clip_l_skip": True}, [2]),
    ],
)
def test_which_layer_each_family_takes(lease, label, options, layers):
    with lease(label) as model:
        ours = condition(model, "a red house", **options).at(0)[0][0]
        same = text.encode(model, ("a red house",), Settings().prompting, layers)[0]
        assert torch.equal(ours.tokens, same.tokens)
        other = text.encode(model, ("a red house",), Settings().prompting, [5] * len(layers))[0]
        assert not torch.allclose(ours.tokens, other.tokens, atol=1e-3)


def test_skipping_more_layers_than_there_are_stops_at_the_first(lease):
    with lease("SD 1.x") as model:
        deep = condition(model, "a house", CLIP_stop_at_last_layers=12).at(0)[0][0]
        first = condition(model, "a house", CLIP_stop_at_last_layers=5).at(0)[0][0]
        assert torch.equal(deep.tokens, first.tokens)


# ------------------------------------------------------------------------------------------------------ SDXL's vector


def waves(*values: float) -> Tensor:
    """Each number as 128 cosines and 128 sines, written out."""
    frequencies = torch.exp(-torch.arange(128) / 128 * torch.log(torch.tensor(10000.0)))
    return torch.cat([torch.cat([torch.cos(v * frequencies), torch.sin(v * frequencies)]) for v in values])


def test_sdxl_is_told_sizes_and_crop(lease):
    with lease("SDXL") as model:
        (part,), negative = condition(model, "a cat", "a dog", sdxl_crop_top=8, sdxl_crop_left=24).at(0)
        pooled = text.encode(model, ("a cat",), Settings().prompting, [2, 2])[0].vector
        assert part.vector is not None
        assert pooled is not None
        assert negative.vector is not None
        assert torch.equal(part.vector[:64], pooled)
        torch.testing.assert_close(part.vector[64:], waves(64, 96, 8, 24, 64, 96), atol=1e-4, rtol=0)
        assert torch.equal(part.vector[64:], negative.vector[64:])
        assert not torch.equal(part.vector[:64], negative.vector[:64])


def test_the_refiner_is_told_a_better_score_for_the_prompt(lease):
    with lease("SDXL refiner") as model:
        (part,), negative = condition(model, "a cat", "a dog").at(0)
        assert part.vector is not None
        assert negative.vector is not None
        torch.testing.assert_close(part.vector[64:], waves(64, 96, 0, 0, 6.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(negative.vector[64:], waves(64, 96, 0, 0, 2.5), atol=1e-4, rtol=0)
        changed = condition(model, "a cat", "a dog", sdxl_refiner_high_aesthetic_score=7.5).at(0)[0][0].vector
        assert changed is not None
        torch.testing.assert_close(changed[-256:], waves(7.5), atol=1e-4, rtol=0)


def test_the_pooled_text_is_the_first_chunks(lease):
    with lease("SDXL") as model:
        one = condition(model, "a cat").at(0)[0][0]
        two = condition(model, "a cat BREAK a dog").at(0)[0][0]
        assert one.vector is not None
        assert two.vector is not None
        assert (one.tokens.shape[0], two.tokens.shape[0]) == (77, 154)
        assert torch.equal(one.vector, two.vector)


def test_only_an_empty_negative_becomes_zeros_and_only_for_sdxl(lease):
    for label in ("SDXL", "SDXL refiner"):
        with lease(label) as model:
            (part,), negative = condition(model, "", "").at(0)
            assert negative.vector is not None
            assert part.vector is not None
            assert not negative.tokens.any()
            assert not negative.vector[:64].any()
            assert negative.vector[64:].any()
            assert part.tokens.any()
            assert condition(model, "", " ").at(0)[1].tokens.any()
            changing = condition(model, "", "[:dog:0.5]")
            assert changing.at(0)[1].tokens.any()
    with lease("SD 2.x") as model:
        (part,), negative = condition(model, "", "").at(0)
        assert torch.equal(part.tokens, negative.tokens)
        assert negative.vector is None


def test_padding_with_empty_text_is_not_zeroed(lease):
    with lease("SDXL") as model:
        (part,), negative = condition(model, "a cat BREAK a dog", "a cat", pad_cond_uncond=True).at(0)
        empty = condition(model, "").at(0)[0][0]
        assert part.tokens.shape == negative.tokens.shape
        assert torch.equal(negative.tokens[77:], empty.tokens)


def test_towers_that_count_tokens_differently_are_filled_up(lease):
    """OpenCLIP reads &amp; as one sign where CLIP reads three, beside a "<" which looks like markup."""
    prompt = "< " + "&amp; " * 30
    with lease("SDXL") as model:
        encoding = condition(model, prompt).at(0)[0][0]
        lengths = [
            len(tokens.chunk(parse.parse_emphasis(prompt), spelling)) for spelling in (tokens.CLIP, tokens.OPEN_CLIP)
        ]
        assert lengths[0] > lengths[1]
        assert encoding.tokens.shape == (77 * lengths[0], 96)


# ------------------------------------------------------------------------------------------------ textual inversion


def rows(count: int, seed: int, **towers: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=generator) for name, width in towers.items()}


def test_an_embedding_that_repeats_a_words_row_draws_that_word(lease, test_seed):
    """Its rows are put where the word's own would stand: exactly the word's encoding comes out, in every tower."""
    for label, named in (("SD 1.x", ("clip_l",)), ("SDXL", ("clip_l", "clip_g"))):
        with lease(label) as model:
            word = tokens.CLIP.encode("house")
            made = {
                name: tower.net.embeddings.token_embedding.weight[list(word)]
                for name, tower in zip(named, model.towers)
            }
            known = Embeddings.fitting(model, {"wunder": made}, "one")
            with_word = condition(model, "a (red:1.3) house by a lake").at(0)[0][0]
            with_name = condition(model, "a (red:1.3) Wunder by a lake", embeddings=known).at(0)[0][0]
            assert torch.equal(with_word.tokens, with_name.tokens)
            without = condition(model, "a (red:1.3) wunder by a lake").at(0)[0][0]
            assert not torch.allclose(without.tokens, with_name.tokens, atol=1e-3)


def test_rows_stand_where_the_name_stood(lease, test_seed):
    with lease("SD 1.x") as model:
        made = rows(4, test_seed, clip_l=32)
        known = Embeddings.fitting(model, {"style": made}, 1)
        net = model.towers[0].net
        ids = [tokens.START, *tokens.CLIP.encode("a cat in"), 0, 0, 0, 0, *tokens.CLIP.encode("mood")]
        embeds = net.embed(torch.tensor([ids + [tokens.END] * (77 - len(ids))]))
        embeds[0, 4:8] = made["clip_l"]
        with torch.inference_mode():
            wanted = net.final_layer_norm(net.hidden_states(embeds)[-1])[0]
        assert torch.equal(condition(model, "a cat in style mood", embeddings=known).at(0)[0][0].tokens, wanted)


def test_an_embedding_is_not_cut_at_a_chunks_border(lease, test_seed):
    """73 words and 4 rows: the rows begin the second chunk, and what they make is the same as behind a BREAK."""
    words = " ".join(["cat"] * 73)
    with lease("SD 1.x") as model:
        known = Embeddings.fitting(model, {"style": rows(4, test_seed, clip_l=32)}, 1)
        joined = condition(model, f"{words} style dog", embeddings=known).at(0)[0][0].tokens
        broken = condition(model, f"{words} BREAK style dog", embeddings=known).at(0)[0][0].tokens
        assert joined.shape == (154, 32)
        assert torch.equal(joined, broken)


def test_more_than_75_rows_fill_one_chunk_with_the_first_75(lease, test_seed):
    with lease("SD 1.x") as model:
        made = rows(90, test_seed, clip_l=32)
        long = Embeddings.fitting(model, {"style": made}, 1)
        cut = Embeddings.fitting(model, {"style": {"clip_l": made["clip_l"][:75]}}, 2)
        ours = condition(model, "a style cat", embeddings=long).at(0)[0][0].tokens
        assert ours.shape == (231, 32)
        assert ours.isfinite().all()
        assert torch.equal(ours, condition(model, "a style cat", embeddings=cut).at(0)[0][0].tokens)


def test_embeddings_of_other_models_are_left_out_and_named(lease, test_seed):
    vectors = {
        "wide": rows(2, test_seed, clip_l=48), "other": rows(2, test_seed, clip_h=64), "half": rows(2, 1, clip_l=32),
        "uneven": rows(2, 1, clip_l=32) | rows(3, 1, clip_g=64), "fits": rows(2, 1, clip_l=32, clip_g=64),
    }  # fmt: skip
    with lease("SDXL") as model:
        known = Embeddings.fitting(model, vectors, 1)
        assert known.skipped == ("wide", "other", "half", "uneven")
        plain = condition(model, "wide other half").at(0)[0][0].tokens
        assert torch.equal(condition(model, "wide other half", embeddings=known).at(0)[0][0].tokens, plain)


# ------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("SD 1.x", {"CLIP_stop_at_last_layers": 2}), ("SD 1.x", {"emphasis": "No norm"}),
        ("SD 1.x", {"emphasis": "None"}), ("SD 1.x", {"emphasis": "Ignore"}),
        ("SDXL", {"sdxl_clip_l_skip": True}), ("SDXL", {"sdxl_crop_top": 5}),
        ("SDXL refiner", {"sdxl_refiner_high_aesthetic_score": 9}), ("SD 1.x", {"comma_padding_backtrack": 0}),
    ],
)  # fmt: skip
def test_what_changes_a_conditioning_is_not_served_from_the_cache(lease, label, options):
    cache = ConditioningCache()
    prompt = "a (red:1.5) [house] with " + "word " * 62 + "a, b c d e f g h i j k l m n"
    with lease(label) as model:
        before = text.condition(model, prompt, "", 8, Settings(), SIZE, cache).at(0)[0][0]
        after = text.condition(model, prompt, "", 8, settings(**options), SIZE, cache).at(0)[0][0]
        fresh = condition(model, prompt, **options).at(0)[0][0]
        assert torch.equal(after.tokens, fresh.tokens)
        told = before.vector is not None and after.vector is not None and not torch.equal(before.vector, after.vector)
        assert told or before.tokens.shape != after.tokens.shape or not torch.equal(before.tokens, after.tokens)


def test_other_embeddings_and_sizes_are_not_served_from_the_cache(lease, test_seed):
    cache = ConditioningCache()
    with lease("SDXL") as model:
        one, two = (
            Embeddings.fitting(model, {"style": rows(2, test_seed + n, clip_l=32, clip_g=64)}, n) for n in (1, 2)
        )
        found = [
            text.condition(model, "a style", "", 8, Settings(), size, cache, known).at(0)[0][0]
            for size, known in ((SIZE, None), (SIZE, one), (SIZE, two), ((64, 64), two))
        ]
        assert len({tuple(encoding.tokens.flatten().tolist()) for encoding in found}) == 3
        assert found[2].vector is not None
        assert found[3].vector is not None
        assert torch.equal(found[2].vector[:64], found[3].vector[:64])
        assert not torch.equal(found[2].vector, found[3].vector)


def test_a_schedule_runs_each_tower_once_for_each_chunk(lease):
    """Eight texts, four of them distinct, two chunks at most: two calls of each tower, with four rows."""
    calls: list[tuple[int, ...]] = []
    with lease("SDXL") as model:
        hooks = [
            tower.net.embeddings.token_embedding.register_forward_hook(lambda m, i, out: calls.append(out.shape[:2]))
            for tower in model.towers
        ]
        cache = ConditioningCache()
        prompt = "[cat|dog] by [a:b BREAK c:0.5]"
        first = text.condition(model, prompt, "x", 8, Settings(), SIZE, cache)
        assert calls == [(4, 77)] * 4 + [(1, 77)] * 2
        again = text.condition(model, prompt, "x", 8, Settings(), (128, 64), cache)
        assert len(calls) == 6
        for hook in hooks:
            hook.remove()
        assert torch.equal(first.at(3)[0][0].tokens, again.at(3)[0][0].tokens)


def test_a_shorter_text_of_a_schedule_is_followed_by_empty_chunks(lease):
    with lease("SDXL") as model:
        plain = settings(emphasis="No norm").prompting
        short, long = text.encode(model, ("a cat", "a cat BREAK a dog BREAK a boat"), plain, [2, 2])
        (alone,), (empty,) = (text.encode(model, (one,), plain, [2, 2]) for one in ("a cat", ""))
        assert short.tokens.shape == long.tokens.shape == (231, 96)
        assert apart(short.tokens, torch.cat([alone.tokens, empty.tokens, empty.tokens])) < 1e-5
        assert apart(long.tokens[:77], alone.tokens) < 1e-5


def test_a_text_has_the_same_bits_whoever_asked_before(lease):
    with lease("SD 2.x") as model:
        alone = condition(model, "a house").at(0)[0][0].tokens
        cache = ConditioningCache()
        for prompt in ("a boat", "[a|b]", "a house"):
            last = text.condition(model, prompt, "no", 8, Settings(), SIZE, cache)
        assert torch.equal(last.at(0)[0][0].tokens, alone)
