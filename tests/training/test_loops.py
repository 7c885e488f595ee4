"""The training loops learn, resume exactly, and export what the engine expects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from modules.nets.autoencoder import AutoencoderConfig
from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.prompt.tokens import CLIP
from modules.training import export
from modules.training.autoencoder_loop import (
    CONFIG,
    SCALE_FACTOR,
    AutoencoderRecipe,
    balance_latents,
    build_autoencoder,
    decode_latents,
    encode_pictures,
    train_autoencoder,
)
from modules.training.denoiser_loop import (
    END,
    TEXT,
    UNET,
    DenoiserRecipe,
    Vocabulary,
    alphas_cumprod,
    build_denoiser,
    denoiser_loss,
    loss_weights,
    make_batch,
    train_denoiser,
)
from modules.training.drawing import draw_scene, random_scene
from modules.training.fused import FusedGroupNorm, plain_attention
from modules.training.optim import newton_schulz

SMALL_VAE = AutoencoderConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)
SMALL_UNET = UNetConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, input_depths=(1, 0), output_depths=(0, 0, 1, 1),
    context_dim=32, num_heads=None, head_dim=16,
)  # fmt: skip
SMALL_TEXT = ClipConfig(width=32, layers=1, heads=2, mlp=64)


@pytest.fixture(scope="module")
def scenes(test_seed):
    return [random_scene(test_seed, i) for i in range(12)]


@pytest.fixture(scope="module")
def pictures(scenes):
    return np.stack([draw_scene(scene) for scene in scenes])


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(CLIP.encode)


def quiet(line: str) -> None:
    pass


def same_state(a, b):
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=0)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("groups", [32, 8])
def test_fused_group_norm_is_torch_s_both_ways(test_seed, groups, silu):
    torch.manual_seed(test_seed)
    x = torch.randn(2, 64, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    fused = FusedGroupNorm(groups, 64, 1e-5, silu)
    torch.nn.init.normal_(fused.weight)
    torch.nn.init.normal_(fused.bias)
    y = F.group_norm(x, groups, fused.weight, fused.bias, 1e-5)
    y = F.silu(y) if silu else y
    g = torch.randn_like(y)
    wanted = torch.autograd.grad(y, (x, fused.weight, fused.bias), g)
    out = fused(x)
    torch.testing.assert_close(out, y, rtol=1e-4, atol=1e-5)
    for a, b in zip(torch.autograd.grad(out, (x, fused.weight, fused.bias), g), wanted):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_fused_group_norm_in_bfloat16_stays_near(test_seed):
    torch.manual_seed(test_seed)
    x = torch.randn(2, 64, 16, 16) * 3 + 1
    fused = FusedGroupNorm(32, 64, 1e-5, True)
    exact = F.silu(F.group_norm(x, 32))
    rough = fused(x.bfloat16().to(memory_format=torch.channels_last)).float()
    assert (rough - exact).abs().mean() < 0.02


def test_plain_attention_is_the_fused_one(test_seed):
    torch.manual_seed(test_seed)
    q, k, v = torch.randn(3, 2, 3, 7, 8).unbind(0)
    torch.testing.assert_close(plain_attention(q, k, v), F.scaled_dot_product_attention(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 64), (64, 24)])
def test_newton_schulz_makes_singular_values_alike(test_seed, shape):
    torch.manual_seed(test_seed)
    singular = torch.linalg.svdvals(newton_schulz(torch.randn(shape), steps=5).float())
    assert singular.min() > 0.4
    assert singular.max() < 1.5


def test_autoencoder_learns_and_resumes_exactly(tmp_path, scenes, pictures, test_seed):
    recipe = AutoencoderRecipe(steps=30, batch=4, crop=32, warm_up=2, whole_from=0.9, seed=test_seed % 1000)
    whole, _ = train_autoencoder(pictures, scenes, recipe, tmp_path / "a.pt", SMALL_VAE, log=quiet)
    train_autoencoder(pictures, scenes, recipe, tmp_path / "b.pt", SMALL_VAE, lambda step: step < 12, log=quiet)
    again, _ = train_autoencoder(pictures, scenes, recipe, tmp_path / "b.pt", SMALL_VAE, log=quiet)
    same_state(whole.state_dict(), again.state_dict())
    fresh = build_autoencoder(SMALL_VAE, recipe.seed)
    x = torch.from_numpy(pictures[:4]).permute(0, 3, 1, 2).float() / 127.5 - 1
    last = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    trained = build_autoencoder(SMALL_VAE, recipe.seed)
    trained.load_state_dict(last)
    with torch.no_grad():
        before, after = (F.mse_loss(m.decode(m.encode_moments(x)[0]), x) for m in (fresh, trained))
    assert after < 0.8 * before


def test_balancing_keeps_pictures_and_gives_unit_latents(pictures, test_seed):
    model = build_autoencoder(SMALL_VAE, test_seed % 1000)
    before = decode_latents(model, encode_pictures(model, pictures, bfloat16=False).float(), bfloat16=False)
    balance_latents(model, pictures)
    latents = encode_pictures(model, pictures, bfloat16=False)
    after = decode_latents(model, latents.float(), bfloat16=False)
    assert abs(float(latents.float().square().mean()) - 1) < 0.02
    assert np.abs(before.astype(int) - after).mean() < 1
    logvar = model.encode_moments(torch.zeros(1, 3, 16, 16))[1]
    assert torch.allclose(logvar, torch.full_like(logvar, -9.0))
    assert SCALE_FACTOR == 0.18215


def test_denoiser_learns_and_resumes_exactly(tmp_path, scenes, vocabulary, test_seed):
    torch.manual_seed(test_seed)
    latents = torch.randn(len(scenes), 4, 1, 1).expand(-1, -1, 8, 8).contiguous()
    recipe = DenoiserRecipe(steps=50, batch=8, warm_up=2, blind=((10, 0.15),), seed=test_seed % 1000, bfloat16=False)

    def train(name: str, until: int):
        return train_denoiser(
            latents, scenes, vocabulary, recipe, tmp_path / name, SMALL_UNET, SMALL_TEXT,
            lambda step: step < until, log=quiet,
        )  # fmt: skip

    whole, curve = train("a.pt", 50)
    train("b.pt", 20)
    stopped = torch.load(tmp_path / "b.pt", weights_only=True)["step"]
    assert stopped == 20
    again, _ = train("b.pt", 50)
    same_state(whole.state_dict(), again.state_dict())
    assert len(curve) == 1
    fresh, trained = (build_denoiser(SMALL_UNET, replace(SMALL_TEXT, vocab=vocabulary.size), 0) for _ in range(2))
    trained.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True)["model"])
    batch = make_batch(latents, scenes, vocabulary, replace(recipe, batch=32, blind=()), 1000)
    with torch.no_grad():
        before, after = (float(denoiser_loss(nets, batch, bfloat16=False)[0]) for nets in (fresh, trained))
    assert after < 0.8 * before


def test_a_batch_is_a_function_of_seed_and_step(scenes, vocabulary, test_seed):
    latents = torch.zeros(len(scenes), 4, 8, 8)
    recipe = DenoiserRecipe(batch=8, blind=((0, 0.15),), seed=test_seed % 1000)
    a, b, c = (make_batch(latents, scenes, vocabulary, recipe, step) for step in (3, 3, 4))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.rows, b.rows)
    assert not torch.equal(a.target, c.target)
    blind = recipe.blind_samples(3)
    assert blind > 0
    assert a.timesteps[:blind].min() >= 985
    assert a.timesteps[blind:].tolist() == sorted(a.timesteps[blind:].tolist())  # one from each part of the schedule


def test_a_blind_sample_shows_noise_alone_and_asks_for_the_picture(scenes, vocabulary, test_seed):
    latents = torch.full((len(scenes), 4, 8, 8), 2.0)
    recipe = DenoiserRecipe(batch=8, blind=((10, 0.5),), seed=test_seed % 1000)
    alpha = alphas_cumprod()
    before, after = (make_batch(latents, scenes, vocabulary, recipe, step) for step in (9, 10))
    for batch, blind in ((before, 0), (after, 4)):
        a = alpha[batch.timesteps].float()[:, None, None, None]
        x0 = (batch.x - (1 - a).sqrt() * batch.target) / a.sqrt()  # what a net that is right would draw
        torch.testing.assert_close(x0, torch.full_like(x0, 2.0), rtol=1e-3, atol=1e-3)
        noise = batch.x / (1 - a).sqrt()
        assert noise[:blind].mean().abs() < 0.3 if blind else True
    assert after.weights[0] > 3 * after.weights[-1]


def test_weights_favour_where_layout_is_decided():
    weights = loss_weights()
    assert abs(float(weights.mean()) - 1) < 1e-5
    assert weights[900] > 3 * weights[300] > 3 * weights[20]


def test_unknown_words_share_one_row(vocabulary):
    rows = vocabulary.rows("a red zebra, masterpiece")
    assert rows.count(vocabulary.unknown) == len(CLIP.encode("zebra masterpiece"))
    assert len(rows) == 77
    assert vocabulary.unknown not in vocabulary.rows("a big red house on the left, green hills, night, moon")
    table = vocabulary.full_table(torch.arange(vocabulary.size)[:, None].float())
    assert table.shape == (END + 1, 1)
    assert int(table[CLIP.encode("zebra")[0]]) == vocabulary.unknown
    assert int(table[CLIP.encode("red")[0]]) == vocabulary.row_of[CLIP.encode("red")[0]]


def test_export_has_the_layout_and_round_trips(tmp_path, vocabulary, test_seed):
    nets = build_denoiser(UNET, replace(TEXT, vocab=vocabulary.size), test_seed % 1000)
    vae = build_autoencoder(CONFIG, test_seed % 1000)
    path = tmp_path / "model.safetensors"
    header = export.metadata(export.recipe_hash(AutoencoderRecipe(), DenoiserRecipe()), "2026-01-01")
    export.write_checkpoint(export.checkpoint_tensors(nets, vae, vocabulary), header, path)
    assert path.stat().st_size <= 70e6
    with safe_open(str(path), "pt") as file:
        assert file.metadata() == header
        keys = set(file.keys())
        assert len(keys) == 659
        table = file.get_tensor("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight")
        kernel = file.get_tensor("model.diffusion_model.input_blocks.0.0.weight")
    assert table.shape == (49408, 128)
    assert kernel.dtype == torch.float16
    torch.testing.assert_close(kernel.float(), nets.unet.state_dict()["input_blocks.0.0.weight"], rtol=1e-3, atol=1e-4)
    for key in (
        "first_stage_model.decoder.up.0.block.0.norm1.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    ):
        assert key in keys


def test_the_recipe_s_hash_follows_the_recipe():
    base = export.recipe_hash(AutoencoderRecipe(), DenoiserRecipe())
    assert base == export.recipe_hash(AutoencoderRecipe(), DenoiserRecipe())
    assert base != export.recipe_hash(AutoencoderRecipe(), DenoiserRecipe(seed=2))
