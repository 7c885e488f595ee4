"""Adapters on every layer of every family under every naming, in every way weights are kept, after every mishap."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modules.memory.streaming import Stream
from modules.nets.layers import Ops
from modules.nets.packed import PACKED, Packed, dtypes
from modules.nets.streamed import STORED, STREAMED, connect
from modules.weights.adapters.apply import Network
from modules.weights.keymaps import Target
from tests.memory.test_streaming import CountingLink
from tests.weights.adapters.nets import Dice, Small, number, write_adapter
from tests.weights.adapters.test_apply import draw, lora_for
from tests.weights.adapters.test_formats import FORMATS

NAMINGS = ("kohya", "kohya ldm", "diffusers", "diffusers old", "peft", "ldm")
LABELS = ("SD 1.x", "SD 2.x", "SDXL", "SDXL refiner")
USUAL = {
    ("SD 1.x", "diffusers old"), ("SD 2.x", "kohya"), ("SD 2.x", "peft"), ("SDXL", "kohya"), ("SDXL", "kohya ldm"),
    ("SDXL", "diffusers"), ("SDXL", "ldm"), ("SDXL refiner", "kohya ldm"),
}  # fmt: skip
"""What trainers write; every other pair is tried too with TEST_FULL=1 (24 pairs, 30 s)."""


def pairs() -> list[Any]:
    skipped = () if os.environ.get("TEST_FULL") else pytest.mark.skip(reason="TEST_FULL=1 runs it")
    return [pytest.param(*pair, marks=() if pair in USUAL else skipped) for pair in product(LABELS, NAMINGS)]


def layers_of(small: Small, naming: str) -> list[Target]:
    """Every linear and convolutional layer; of the old naming, which had no other, those of the attentions."""
    found = [
        Target(net, path)
        for net, module in small.nets().items()
        for path, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    if naming != "diffusers old":
        return found
    return [t for t in found if t.path.rpartition(".attn")[1] or t.path.rpartition(".self_attn.")[1]]


@pytest.mark.parametrize(("label", "naming"), pairs())
def test_every_layer_is_found_and_gets_its_own_change(label: str, naming: str, tmp_path: Path, test_seed: int) -> None:
    small, dice, strengths = Small.of(label, test_seed), Dice(test_seed), {"unet": 0.7}
    before, wanted, layers = {}, {}, {}
    for k, target in enumerate(layers_of(small, naming)):
        weight, rank = small.layer(target).weight, 1 + k % 3
        alpha = float(1 + k % 2)
        up, down = dice(weight.shape[0], rank, *(1,) * (weight.dim() - 2)), dice(rank, *weight.shape[1:])
        layers[target] = {"lora_up.weight": up, "lora_down.weight": down}
        if naming in ("kohya", "kohya ldm", "ldm"):
            layers[target]["alpha"] = number(alpha)
        else:
            alpha = float(rank)  # the others write none
        product = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        before[target] = weight.clone()
        wanted[target] = weight.double() + strengths.get(target.net, 0.4) * alpha / rank * product
    path = write_adapter(tmp_path / "a.safetensors", small, layers, naming)
    networks, pristine = small.networks(), small.digest()
    outcome = networks.apply([Network(path, "a", text_encoder=0.4, unet=0.7)])
    assert (outcome.applied, outcome.warnings) == (("a",), ())
    assert len(layers) > 30 if naming != "diffusers old" else len(layers) > 15
    for target in layers:
        got = small.layer(target).weight.double()
        assert (got - wanted[target]).abs().max() <= 1e-5 * wanted[target].abs().max(), target
        assert not torch.equal(small.layer(target).weight, before[target]), target
    networks.apply([])
    assert small.digest() == pristine


@pytest.fixture(scope="module")
def one(test_seed: int) -> Small:
    return Small.of("SD 1.x", test_seed)


@pytest.mark.parametrize("name", FORMATS)
def test_a_mishap_half_way_leaves_no_bit_changed_whatever_the_format(
    name: str, one: Small, tmp_path: Path, test_seed: int
) -> None:
    small, dice, (make, targets) = one, Dice(test_seed), FORMATS[name]
    small.source.reads.clear()
    made = {target: make(small.layer(target).weight, dice)[0] for target in targets}
    path = write_adapter(tmp_path / "a.safetensors", small, made)
    pristine, networks = small.digest(), small.networks()
    small.source.fails_at = len(targets)  # the last layer, or, where biases are read too, one before
    with pytest.raises(OSError, match="the disk is gone"):
        networks.apply([Network(path, "a")])
    assert small.digest() == pristine
    networks.apply([Network(path, "a")])
    assert small.digest() != pristine
    networks.apply([])
    assert small.digest() == pristine


WAYS: dict[str, tuple[Ops, bool]] = {
    "stored": (STORED, True), "streamed": (STREAMED, True), "packed": (PACKED, False),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_however_weights_are_kept_the_same_is_drawn(way: str, tmp_path: Path, test_seed: int) -> None:
    ops, beside = WAYS[way]
    plain, kept = Small.of("SD 1.x", test_seed), Small.of("SD 1.x", test_seed, ops=ops)
    unet: Any = kept.unet
    stream = Stream(CountingLink(), budget=200_000)
    if way == "streamed":
        connect(unet, stream.add, stream.take)
    if way == "packed":
        if torch.float32 not in dtypes():
            pytest.skip("this processor has no packed order")
        for layer in unet.modules():
            if isinstance(layer, Packed):
                layer.pack()
    dice = Dice(test_seed)
    files = [write_adapter(tmp_path / "all.safetensors", plain, lora_for(plain, dice))]
    for name in ("LoRA", "LoKr whole", "IA3 on input", "norm", "GLoRA new", "OFT", "DoRA by row"):
        make, targets = FORMATS[name]
        made = {t: make(plain.layer(t).weight, dice)[0] for t in targets if not t.is_text}
        files.append(write_adapter(tmp_path / f"{name}.safetensors", plain, made))
    several = [Network(path, path.stem, 0.3, 0.3) for path in files]
    at_first = draw(unet, test_seed)
    torch.testing.assert_close(at_first, draw(plain.unet, test_seed), rtol=1e-4, atol=1e-5)
    merging, networks = plain.networks(), kept.networks(beside=beside)
    for wanted in (several, several[:1], several[2:]):
        outcome = networks.apply(wanted)
        merging.apply(wanted)
        assert (outcome.refused, outcome.warnings) == ((), ())
        changed = draw(unet, test_seed)
        torch.testing.assert_close(changed, draw(plain.unet, test_seed), rtol=1e-3, atol=1e-4)
        assert (changed - at_first).abs().max() > 1e-3
    networks.apply([])
    assert torch.equal(draw(unet, test_seed), at_first)
