"""The small decoder for previews: it learns, resumes, and the shipped one shows what Postcards draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from modules.nets.taesd import TaesdDecoder
from modules.training import evaluate
from modules.training.autoencoder_loop import encode_pictures, psnr
from modules.training.drawing import draw_scene, random_scene
from modules.training.preview_decoder import PreviewRecipe, decode, fingerprint, preview_batch, train_preview
from modules.weights import decoders

MODELS = Path(__file__).parents[2] / "models"
DECODER = MODELS / "VAE-taesd/postcards_decoder.safetensors"
TINY = PreviewRecipe(width=32, steps=6, batch=2, crop=4, bfloat16=False, warm_up=2)


def quiet(line: str) -> None:
    pass


def test_the_shipped_decoder_shows_what_the_model_s_latents_hold(test_seed):
    model = evaluate.load(MODELS / "Stable-diffusion/postcards.safetensors")
    with safe_open(str(DECODER), "pt") as file:
        header = file.metadata()
    assert header["easel.autoencoder_sha256"] == fingerprint(model.autoencoder), "made for these latents"
    assert DECODER.stat().st_size < 1e6
    net = decoders.load(DECODER, "TAESD", 4, torch.device("cpu"))
    assert isinstance(net, TaesdDecoder)
    true = np.stack([draw_scene(random_scene(test_seed, evaluate.HELD_OUT + i)) for i in range(8)])
    latents = encode_pictures(model.autoencoder, true, batch=8)
    assert psnr(true, decode(net, latents)).mean() > 27  # 29.5 over a hundred
    assert psnr(true, decode(net, latents.roll(1, 0))).mean() < 20, "another picture's latents are another picture"


def test_crops_of_latents_belong_to_crops_of_pictures(test_seed):
    ramp = torch.arange(16.0).expand(4, 16, 16)[None]
    pictures = np.arange(128).repeat(3).reshape(1, 1, 128, 3).repeat(128, 1).astype(np.uint8)
    mine = replace(TINY, noise=0.0, seed=test_seed % 1000)
    x, y = preview_batch(ramp, pictures, mine, 3)
    assert x.shape == (2, 4, 4, 4)
    assert y.shape == (2, 3, 32, 32)
    columns = (y[:, 0, 0, ::8] + 1) * 127.5 / 8
    torch.testing.assert_close(columns, x[:, 0, 0], rtol=0, atol=1e-3)


def test_it_learns_and_resumes_exactly(tmp_path, test_seed):
    torch.manual_seed(test_seed)
    pictures = np.full((2, 128, 128, 3), 200, np.uint8)
    latents = torch.randn(2, 4, 16, 16)

    def train(name: str, until: int, **changes: object) -> TaesdDecoder:
        mine = replace(TINY, **changes)  # type: ignore[arg-type]
        return train_preview(latents, pictures, mine, tmp_path / name, lambda step: step < until, log=quiet)

    whole = train("a.pt", 6).state_dict()
    train("b.pt", 2)
    again = train("b.pt", 6).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    grey, bright = (decode(train(f"{n}.pt", n, steps=40, learning_rate=1e-2), latents) for n in (0, 40))
    assert psnr(pictures, bright).mean() > psnr(pictures, grey).mean() + 3
