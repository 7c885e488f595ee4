"""Priming makes cross-attention look at a word for a place where that place is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modules.nets.unet import CrossAttention, UNet, UNetConfig
from modules.prompt.tokens import CLIP
from modules.training.denoiser_loop import TEXT, DenoiserRecipe, Vocabulary, build_denoiser, make_batch
from modules.training.drawing import random_scene
from modules.training.places import WORDS, prime_places

CONFIG = UNetConfig(
    model_channels=64, channel_mult=(1, 2), num_res_blocks=1, input_depths=(1, 1), output_depths=(1, 1, 1, 1),
    context_dim=128, num_heads=None, head_dim=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def primed(test_seed):
    """A net, its inputs and how much each attention's logits favour "left" on the left, before and after priming."""
    vocabulary = Vocabulary(CLIP.encode)
    nets = build_denoiser(CONFIG, replace(TEXT, vocab=vocabulary.size), test_seed % 1000)
    with torch.no_grad():  # fresh residual branches end in zeros, so nothing would tell where the border is
        for p in nets.unet.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(std=0.1)
    scenes = [random_scene(test_seed, i) for i in range(400)]
    recipe = DenoiserRecipe(batch=64, blind=((0, 0.9),), seed=test_seed % 1000)
    batch = make_batch(torch.zeros(400, 4, 16, 16), scenes, vocabulary, recipe, 0)
    batch = replace(batch, x=0.1 * batch.x + 1)
    rows = [[vocabulary.row_of[token] for word in words for token in vocabulary.tokenize(word)] for words in WORDS]
    word_of = torch.full_like(batch.rows, -1)
    for number, group in enumerate(rows):
        word_of[torch.isin(batch.rows, torch.tensor(group))] = number
    with torch.no_grad():
        context = nets.encode(batch.rows)
    inputs = (batch.x, batch.timesteps, context)
    before = leaning(nets.unet, inputs, word_of)
    fits = prime_places(nets.unet, *inputs, word_of)
    return before, leaning(nets.unet, inputs, word_of), fits


@torch.no_grad()
def leaning(unet: UNet, inputs: tuple[torch.Tensor, ...], word_of: torch.Tensor) -> dict[str, float]:
    """Mean logit of "left" tokens in the left column minus that in the right one, for each cross-attention."""
    found: dict[str, float] = {}
    handles = []

    def listen(name: str, module: CrossAttention) -> None:
        def keep(_: CrossAttention, args: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
            x, context = args[:2]
            side = round(x.shape[1] ** 0.5)
            logits = module.to_q(x) @ module.to_k(context).transpose(1, 2) / 32**0.5
            logits = logits.view(len(x), side, side, -1).mean(1)
            found[name] = float((logits[:, 0] - logits[:, -1])[word_of == 0].mean())

        handles.append(module.register_forward_hook(keep))

    for name, module in unet.named_modules():
        if isinstance(module, CrossAttention) and name.endswith("attn2"):
            listen(name, module)
    unet(*inputs)
    for handle in handles:
        handle.remove()
    return found


def test_left_is_looked_at_on_the_left(primed):
    before, after, fits = primed
    assert fits
    for name, (column, _) in fits.items():
        if column > 0.3:  # columns that can be read from the features at all
            assert after[name] > before[name] + 1
    assert max(column for column, _ in fits.values()) > 0.3


def test_the_finest_grid_is_left_alone(primed):
    before, after, fits = primed
    fine = set(before) - set(fits)
    assert fine
    for name in fine:
        assert abs(after[name] - before[name]) < 0.5
