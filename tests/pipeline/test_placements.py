"""Wherever the weights are, the same picture: resident, parked, streamed, the VAE apart; with networks too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modules.schema.events import ImageReady
from modules.schema.settings import Settings
from tests.memory.test_streaming import CountingLink
from tests.pipeline.conftest import Studio
from tests.weights.adapters.nets import Dice, Small, write_adapter
from tests.weights.adapters.test_apply import lora_for
from tests.weights.adapters.test_hypernetworks import write as write_hypernetwork

Pixels = Callable[[Studio, ImageReady], bytes]
PLACES: dict[str, dict[str, Any]] = {
    "resident": {"memory_use": "normal"},
    "parked": {"memory_use": "medvram"},
    "streamed": {"memory_use": "lowvram"},
    "streamed, nothing in RAM": {"memory_use": "lowvram", "lowram": True},
    "the VAE apart": {"memory_use": "normal", "use_cpu": "vae"},
    "streamed, the VAE apart": {"memory_use": "lowvram", "use_cpu": "vae"},
    "cleared after each job": {"memory_use": "normal", "offload_after_job": True},
}
PROMPTS = ("a house", "a house<lora:ink:0.8>", "a wonderword house<lora:ink:0.7><lora:words:1><hypernet:haze:1>")


@pytest.fixture(scope="module", autouse=True)
def files(studio: Studio, test_seed: int) -> None:
    folders, dice = studio.folders, Dice(test_seed)
    for folder in (folders.lora, folders.embeddings, folders.models / "hypernetworks"):
        folder.mkdir(parents=True)
    small = Small.of("SD 1.x", test_seed)
    ink = lora_for(small, dice)
    write_adapter(folders.lora / "ink.safetensors", small, ink)
    write_adapter(folders.lora / "words.safetensors", small, {t: parts for t, parts in ink.items() if t.is_text})
    write_hypernetwork(folders.models / "hypernetworks/haze.pt", (32,), dice)
    save_file({"emb_params": dice(2, 32, scale=2)}, folders.embeddings / "wonderword.safetensors")


def draw(studio: Studio, pixels: Pixels, prompt: str, options: dict[str, Any], **request: Any) -> np.ndarray:
    settings = Settings().with_options({"live_previews_enable": False, **options})
    (picture,) = studio.draw(settings=settings, prompt=prompt, steps=2, **request)
    return np.frombuffer(pixels(studio, picture), np.uint8).astype(int)


def test_networks_draw_the_same_wherever_the_weights_are(studio: Studio, card: Any, pixels: Pixels) -> None:
    """From one place to another and on, with prompts that change the networks each time and another size between."""
    right = {prompt: draw(studio, pixels, prompt, PLACES["resident"]) for prompt in PROMPTS}
    wide = draw(studio, pixels, PROMPTS[2], PLACES["resident"], width=128)
    assert len({picture.tobytes() for picture in right.values()}) == len(PROMPTS)
    for place, options in PLACES.items():
        off = 1 if "apart" in place else 0  # on the processor the VAE enlarges and convolves in one

        def same(found: np.ndarray, wanted: np.ndarray, off: int = off) -> bool:
            return np.abs(found - wanted).max() <= off

        assert same(draw(studio, pixels, PROMPTS[2], options), right[PROMPTS[2]]), place
        assert same(draw(studio, pixels, PROMPTS[2], options, width=128), wide), place
        assert same(draw(studio, pixels, PROMPTS[0], options), right[PROMPTS[0]]), place
        (model,) = studio.engine.residency._kept.values()
        assert (model.stream is not None) == (model.policy.placement != "resident")
        if place.startswith("streamed"):
            assert card[-1].copied > 0


KINDS = ("float8_e4m3fn", "float8_e5m2")


def test_weights_in_eight_bits_take_networks_wherever_they_are(
    studio: Studio, card: Any, pixels: Pixels, test_seed: int
) -> None:
    eight = {"fp8_storage": "Enable", "fp8_format": KINDS[test_seed % 2]}
    plain, inked = (draw(studio, pixels, p, {**PLACES["resident"], **eight}) for p in PROMPTS[:2])
    assert not np.array_equal(plain, inked)
    for place in ("streamed", "resident"):
        assert np.array_equal(draw(studio, pixels, PROMPTS[1], {**PLACES[place], **eight}), inked), place
        assert np.array_equal(draw(studio, pixels, PROMPTS[0], {**PLACES[place], **eight}), plain), place


def test_a_text_encoder_in_eight_bits_takes_networks(studio: Studio, card: Any, pixels: Pixels) -> None:
    exact = draw(studio, pixels, PROMPTS[0], PLACES["resident"])
    for kind in KINDS:
        eight = {"text_precision": kind}
        plain, worded = (draw(studio, pixels, p, {**PLACES["resident"], **eight}) for p in ("a house", PROMPTS[2]))
        (model,) = studio.engine.residency._kept.values()
        tower = model.towers[0].net
        stored = {p.dtype for p in tower.parameters() if p.dim() == 2 and p.shape[0] < 1000}
        assert getattr(torch, kind) in stored
        assert not np.array_equal(plain, worded)
        assert 0 < np.abs(plain - exact).mean() < 32
        assert np.array_equal(draw(studio, pixels, PROMPTS[2], {**PLACES["parked"], **eight}), worded)
        assert np.array_equal(draw(studio, pixels, "a house", {**PLACES["resident"], **eight}), plain)


def test_half_precision_parts_of_a_card_are_what_was_asked_for(studio: Studio, card: Any, pixels: Pixels) -> None:
    names = ("precision", "text_precision", "vae_precision")
    draw(studio, pixels, "a house", dict.fromkeys(names, "bfloat16"))
    (model,) = studio.engine.residency._kept.values()
    nets = (model.unet, model.vae, model.towers[0].net)
    assert {p.dtype for net in nets for p in net.parameters()} == {torch.bfloat16}


def test_a_card_is_cleared_after_each_job_where_that_is_wished(studio: Studio, card: Any, pixels: Pixels) -> None:
    draw(studio, pixels, "a house", PLACES["streamed"])
    (model,) = studio.engine.residency._kept.values()
    assert model.stream is not None
    assert model.stream.on_device > 0
    draw(studio, pixels, "a house", {**PLACES["streamed"], "offload_after_job": True})
    assert model.stream.on_device == 0
    assert studio.engine.residency.loaded is not None
    draw(studio, pixels, "a house", {**PLACES["streamed"], "offload_after_job": True, "lowram": True})
    assert studio.engine.residency.loaded is None


def test_repeatable_operations_are_asked_of_torch_for_as_long_as_wished(studio: Studio, pixels: Pixels) -> None:
    plain = draw(studio, pixels, "a house", {})
    assert not torch.are_deterministic_algorithms_enabled()
    assert np.array_equal(draw(studio, pixels, "a house", {"deterministic": True}), plain)
    assert torch.are_deterministic_algorithms_enabled()
    draw(studio, pixels, "a house", {})
    assert not torch.are_deterministic_algorithms_enabled()


def test_streamed_bytes_are_those_of_the_weights_that_do_not_stay(
    studio: Studio, card: list[CountingLink], pixels: Pixels
) -> None:
    draw(studio, pixels, "a house", PLACES["streamed"])
    (model,) = studio.engine.residency._kept.values()
    stream, before = model.stream, card[-1].copied
    assert stream is not None
    draw(studio, pixels, "a house", PLACES["streamed"], seed=2)
    per_call = (card[-1].copied - before) / 4  # two steps, the VAE, and what a forgotten order costs
    weights = sum(e.bytes for e in stream._entries.values())
    assert stream.on_device <= stream.budget
    assert per_call <= weights
