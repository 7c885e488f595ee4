"""A whole engine on a card that is only pretended: nothing mixes devices, no step waits for the card, and recorded
calls draw what plain ones do. Of the samplers a plain run takes a few, chosen by the seed (TEST_FULL=1 takes all)."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.memory.machine import DeviceFacts
from modules.pipeline.run import Engine
from modules.sampling.table import SAMPLERS
from modules.schema.control import ControlUnit
from modules.schema.events import Warned
from modules.schema.folders import Folders
from modules.schema.request import Hires, Refiner
from modules.schema.settings import Settings
from modules.weights.residency import Residency
from tests.memory.pretend import PretendCard, PretendLink
from tests.pipeline.conftest import Studio
from tests.pipeline.test_families_draw import DRAWN
from tests.pipeline.test_img2img import from_picture, keep, picture
from tests.weights.adapters.nets import Dice, Small, write_adapter
from tests.weights.adapters.test_apply import lora_for
from tests.weights.adapters.test_hypernetworks import write as write_hypernetwork
from tests.weights.tiny import UNET, write_control, write_tiny

QUIET = {"live_previews_enable": False, "randn_source": "CPU"}
"""There is no generator of a card that is not there."""
FULL = bool(os.environ.get("TEST_FULL"))
WORDED = "a house<lora:ink:0.8><hypernet:haze:1>"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    folders, dice = Folders.under(tmp_path_factory.mktemp("card")), Dice(test_seed)
    for label in DRAWN:
        write_tiny(folders.checkpoint_dirs[0] / f"{label}.safetensors", label, test_seed)
    for folder in (folders.lora, folders.models / "hypernetworks"):
        folder.mkdir(parents=True)
    small = Small.of("SD 1.x", test_seed)
    write_control(folders.models / "ControlNet/lines.safetensors", UNET, test_seed)
    write_adapter(folders.lora / "ink.safetensors", small, lora_for(small, dice))
    write_hypernetwork(folders.models / "hypernetworks/haze.pt", (32,), dice)
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


@pytest.fixture
def card(studio: Studio) -> Iterator[PretendCard]:
    """The studio's engine on such a card."""
    engine = studio.engine
    facts, residency = engine.facts, engine.residency
    engine.facts = DeviceFacts("cuda", "a card", 10**10, facts.ram)
    engine.residency = Residency(engine.catalogue, engine.facts, link=PretendLink)
    yield PretendCard()
    engine.residency.close()
    engine.facts, engine.residency = facts, residency


def on_a_processor(studio: Studio) -> None:
    studio.engine.facts = DeviceFacts("cpu", "a processor", 10**10, 10**10)
    studio.engine.residency = Residency(studio.engine.catalogue, studio.engine.facts)


def draw(studio: Studio, options: dict[str, Any] | None = None, **request: Any) -> list[np.ndarray]:
    asked = {"checkpoint": "SD 1.x", "prompt": "a red house", "negative_prompt": "blue", **request}
    pictures = studio.draw(settings=Settings().with_options({**QUIET, **(options or {})}), **asked)
    found = []
    for ready in pictures:
        assert ready.record.path is not None
        with Image.open(Path(studio.folders.data) / ready.record.path) as image:
            found.append(np.asarray(image.convert("RGB")).astype(int))
    return found


def waits_a_step(studio: Studio, card: PretendCard, **request: Any) -> Counter[str]:
    """Where a longer job waits more often."""
    counts = []
    for steps in (3, 3, 6):  # the first prepares what is prepared once
        card.waits.clear()
        with card:
            draw(studio, steps=steps, **request)
        counts.append(card.waits.copy())
    return counts[2] - counts[1]


@pytest.mark.parametrize("label", DRAWN)
def test_every_family_draws_on_a_card_what_it_draws_on_a_processor(studio, card, label):
    with card:
        drawn = draw(studio, checkpoint=label, batch_size=2)
    assert any(place.startswith("weights/build.py") for place in card.waits)  # it is a card: weights were brought there
    on_a_processor(studio)
    right = draw(studio, checkpoint=label, batch_size=2)
    for one, other in zip(drawn, right, strict=True):
        assert np.abs(one - other).max() <= 2
        assert one.std() > 1


@pytest.mark.parametrize("row", SAMPLERS, ids=lambda row: row.name)
def test_no_sampler_waits_for_a_card_at_its_steps(studio, card, row, test_seed):
    if not FULL and row not in random.Random(test_seed).sample(SAMPLERS, 8):
        pytest.skip("TEST_FULL=1 runs it")
    assert not waits_a_step(studio, card, sampler=row.name)  # DPM adaptive looks, but chooses its steps itself


JOBS: dict[str, dict[str, Any]] = {
    "noise as NVIDIA cards draw it": {"options": {"randn_source": "NV"}, "sampler": "Euler a"},
    "two prompts, rescaled": {"prompt": "a house AND a boat :0.5", "cfg_rescale": 0.7, "batch_size": 2},
    "prompts of two lengths": {"prompt": "a house " * 60},
    "a prompt that changes": {"prompt": "a [house:boat:0.5]"},
    "networks": {"prompt": WORDED},
    "another picture": {"source": {}},
    "a mask": {"source": {"mask": {}}, "sampler": "Euler a"},
    "a mask, timesteps": {"source": {"mask": {}}, "sampler": "DDIM"},
    "a soft mask": {"source": {"mask": {"soft": {}}}},
    "a mask and its model": {"checkpoint": "SD 1.x inpainting", "source": {"mask": {}}},
    "a picture edited": {"checkpoint": "SD 1.x instruct-pix2pix", "source": {"image_cfg_scale": 1.4}},
    "twice as large": {"hires": Hires(hr_scale=2.0, hr_second_pass_steps=2)},
    "SDXL": {"checkpoint": "SDXL", "sampler": "DPM++ 2M SDE", "batch_size": 2},
    "tokens merged": {"options": {"token_merging_ratio": 0.5}},
    "in tiles": {"options": {"hypertile_enable_unet": True, "hypertile_max_tile_unet": 32}},
    "deep cache": {"options": {"deep_cache_interval": 2}},
    "one prompt at a time": {"options": {"batch_cond_uncond": False}},
    "weights in 8 bits": {"options": {"fp8_storage": "Enable"}, "prompt": WORDED},
    "the negative prompt left out early": {"options": {"skip_early_cond": 0.3}},
    "ControlNet": {"units": ({}, {"control_mode": "ControlNet is more important", "guidance_end": 0.9})},
    "ControlNet streamed": {"units": ({"module": "canny"},), "options": {"memory_use": "lowvram"}},
    "ControlNet in 8 bits": {"units": ({},), "options": {"fp8_storage": "Enable"}, "batch_size": 2},
}


def along(studio: Studio, *units: dict[str, Any]) -> tuple[ControlUnit, ...]:
    """Units that look at a picture."""
    return tuple(ControlUnit(model="lines", image=keep(studio, picture(1)), **fields) for fields in units)


@pytest.mark.parametrize("job", JOBS)
def test_no_kind_of_job_waits_for_a_card_at_its_steps(studio, card, test_seed, job):
    asked = dict(JOBS[job])
    if "source" in asked:
        asked["source"] = from_picture(studio, test_seed, **asked["source"])
    if "units" in asked:
        asked["controlnet"] = along(studio, *asked.pop("units"))
    assert not waits_a_step(studio, card, **asked)


def test_what_looks_at_the_picture_is_seen_to_wait(studio, card):
    """That the tests above can fail."""
    assert waits_a_step(studio, card, options={"first_block_cache_threshold": 0.1})
    assert waits_a_step(studio, card, options={"s_min_uncond": 0.5})


def test_channels_lie_together_all_through_a_denoiser_of_half_precision(studio, card):
    """Else every convolution turns its pictures over and back."""
    with card:
        draw(studio, {"precision": "bfloat16"}, steps=1)
        (model,) = studio.engine.residency._kept.values()
        net = model.unet
        shapes: list[tuple[str, bool]] = []
        for name, layer in net.named_modules():
            if isinstance(layer, torch.nn.Conv2d) and name != "input_blocks.0.0":  # that is given x as samplers have it

                def see(_: Any, __: Any, out: torch.Tensor, name: str = name) -> None:
                    shapes.append((name, out.is_contiguous(memory_format=torch.channels_last)))

                layer.register_forward_hook(see)
                assert layer.weight.stride()[1] == 1
                if layer.weight.shape[1] > 1:
                    assert layer.weight.stride()[3] == layer.weight.shape[1], name
        draw(studio, {"precision": "bfloat16"}, steps=1)
    assert shapes
    assert all(last for _, last in shapes)


def test_a_refiner_takes_over_on_a_card(studio, card):
    refiner = Refiner(refiner_checkpoint="SDXL refiner", refiner_switch_at=0.5)
    with card:
        (one,) = draw(studio, checkpoint="SDXL", refiner=refiner)
        (other,) = draw(studio, checkpoint="SDXL")
    assert (one != other).any()


@pytest.mark.parametrize("use", ["medvram", "lowvram"])
def test_weights_that_come_and_go_draw_the_same(studio, card, use):
    with card:
        units = along(studio, {}, {"control_mode": "ControlNet is more important"})
        assert not np.array_equal(draw(studio, prompt=WORDED), draw(studio, prompt=WORDED, controlnet=units))
        right = draw(studio, prompt=WORDED, controlnet=units)
        streamed = [draw(studio, {"memory_use": use}, prompt=WORDED, controlnet=units) for _ in range(2)]
        (model,) = studio.engine.residency._kept.values()
        assert model.stream is not None
        model.stream.budget = 100_000  # nearly everything goes each time
        streamed.append(draw(studio, {"memory_use": use}, prompt=WORDED, controlnet=units))
    assert all(np.array_equal(right, one) for one in streamed)


def test_recorded_calls_draw_what_plain_ones_do(studio, card, monkeypatch):
    """Job after job, as an owner might: nothing that changes between them is unheard by a graph of before."""
    jobs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({}, {"prompt": "a boat"}),
        ({}, {"prompt": "a house<lora:ink:0.8>"}),
        ({"tiling": True}, {}),
        ({}, {"width": 128}),
        ({}, {"prompt": WORDED}),
        ({"token_merging_ratio": 0.5}, {}),
        ({"tiling": True, "hypertile_enable_unet": True, "hypertile_max_tile_unet": 32}, {}),
        ({}, {"controlnet": along(studio, {})}),
        ({}, {"hires": Hires(hr_scale=2.0, hr_second_pass_steps=2)}),
        ({"offload_after_job": True}, {"batch_size": 2}),
        ({}, {}),
    ]
    for stored in ({}, {"fp8_storage": "Enable"}):
        made = card.graphs(monkeypatch)
        with card:
            plain = [draw(studio, {**stored, **options}, steps=5, **asked) for options, asked in jobs]
            assert not made
            drawn = [
                draw(studio, {"denoiser_calls": "CUDA graphs", **stored, **options}, steps=5, **asked)
                for options, asked in jobs
            ]
        for number, (one, other) in enumerate(zip(drawn, plain, strict=True)):
            assert np.array_equal(one, other), jobs[number]
        assert len(made) > 4
        assert all(graph.replays for graph in made)
    assert not [event for event in studio.events if isinstance(event, Warned)]


def test_a_net_that_cannot_be_recorded_is_tried_once(studio, card, monkeypatch, caplog):
    made = card.graphs(monkeypatch)
    with card:
        (right,) = draw(studio, steps=6)
        draw(studio, {"denoiser_calls": "CUDA graphs"}, steps=1)
        (model,) = studio.engine.residency._kept.values()
        model.unet.out[0].register_forward_hook(lambda _, __, out: out * bool(out.isfinite().all()))
        (drawn,) = draw(studio, {"denoiser_calls": "CUDA graphs"}, steps=6)
    assert np.array_equal(drawn, right)
    assert len(made) == 1
    assert caplog.text.count("cannot be recorded") == 1


def test_memory_that_runs_out_while_recording_costs_the_graphs_alone(studio, card, monkeypatch):
    made = card.graphs(monkeypatch)
    with card:
        (right,) = draw(studio, steps=6, width=128)
        draw(studio, {"denoiser_calls": "CUDA graphs"}, steps=6)
        (model,) = studio.engine.residency._kept.values()
        assert len(made) == 1

        def full(*_: Any) -> None:
            if card.recording is not None:
                raise torch.OutOfMemoryError("CUDA out of memory")

        hook = model.unet.out[0].register_forward_hook(full)
        (drawn,) = draw(studio, {"denoiser_calls": "CUDA graphs"}, steps=6, width=128)
        assert not [event for event in studio.events if isinstance(event, Warned)]
        hook.remove()
        draw(studio, {"denoiser_calls": "CUDA graphs"}, steps=6)
    assert np.array_equal(drawn, right)
    assert [graph.replays > 0 for graph in made] == [True, False, True]
