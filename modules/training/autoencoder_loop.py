"""Training the autoencoder of Postcards, and its latents made fit for diffusion.

Loss: L1 + 2 MSE + a breath of KL, and towards the end differences of neighbours too (an edge loss at the start drives
the decoder to a flat picture). First on crops of 64 x 64, most of them around a thing, then on whole pictures, whose
group-norm statistics are the ones it will meet.
Each step's randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.layers import PLAIN
from modules.training.drawing import Scene
from modules.training.fused import FusedGroupNorm, plain_attention
from modules.training.optim import Average, Optimizers, warm_constant_cosine
from modules.training.progress import Progress, always

SCALE_FACTOR = 0.18215
"""What Stable Diffusion multiplies latents by; the trained latents have unit variance after it."""


@dataclass(frozen=True)
class AutoencoderRecipe:
    """All that decides the trained autoencoder, beside the pictures."""

    steps: int = 2400
    batch: int = 16
    crop: int = 64
    whole_from: float = 0.72
    """Share of the steps after which whole pictures (a quarter as many a step) replace crops."""
    edges_from: float = 0.55
    learning_rate: float = 1e-3
    warm_up: int = 50
    hold: float = 0.4
    average: float = 0.995
    kl: float = 1e-5
    edge: float = 0.25
    near_things: float = 0.75
    bfloat16: bool = True
    seed: int = 1


CONFIG = AutoencoderConfig(ch=64, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, embed_dim=4)
TRAINING_OPS = dataclasses.replace(PLAIN, GroupNorm=FusedGroupNorm)


def build_autoencoder(config: AutoencoderConfig, seed: int, fused: bool = True) -> Autoencoder:
    """A fresh autoencoder whose posterior starts narrow, so that the decoder hears the encoder from the first step."""
    torch.manual_seed(seed)
    model = Autoencoder(config, TRAINING_OPS if fused else PLAIN, plain_attention)
    bias = model.quant_conv.bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias[config.embed_dim :] = -6.0
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pick_crops(pictures: np.ndarray, scenes: list[Scene], recipe: AutoencoderRecipe, step: int, size: int) -> Tensor:
    """This step's batch: [B, 3, size, size] in [-1, 1]. As many pixels whatever the size."""
    rng = random.Random(recipe.seed * 1_000_003 + step)
    out: list[np.ndarray] = []
    for _ in range(max(1, recipe.batch * recipe.crop**2 // size**2)):
        i = rng.randrange(len(pictures))
        room = pictures.shape[1] - size
        x, y = rng.randint(0, room), rng.randint(0, room)
        if room and scenes[i].things and rng.random() < recipe.near_things:
            thing = rng.choice(scenes[i].things)
            middle = thing.base - (0 if thing.kind == "balloon" else 20)
            x = min(max(round(thing.x - size / 2 + rng.uniform(-12, 12)), 0), room)
            y = min(max(round(middle - size / 2 + rng.uniform(-12, 12)), 0), room)
        out.append(pictures[i, y : y + size, x : x + size])
    return to_tensor(np.stack(out))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] in [-1, 1], channels last."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_pictures(images: Tensor) -> np.ndarray:
    """[B, 3, H, W] about [-1, 1] -> [B, H, W, 3] uint8."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the two pictures' horizontal and vertical steps."""
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def autoencoder_loss(model: Autoencoder, x: Tensor, recipe: AutoencoderRecipe, step: int) -> tuple[Tensor, Tensor]:
    """The loss to follow, and the plain mean squared error (for the log), of pictures x [B, 3, H, W]."""
    noise = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
        mean, logvar = model.encode_moments(x)
        mean, logvar = mean.float(), logvar.float()
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise)
        y = model.decode(z)
    y = y.float()
    mse = F.mse_loss(y, x)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
    loss = F.l1_loss(y, x) + 2 * mse + recipe.kl * kl * (recipe.crop / x.shape[-1]) ** 2
    if step >= recipe.edges_from * recipe.steps:
        loss = loss + recipe.edge * edge_loss(y, x)
    return loss, mse.detach()


def train_autoencoder(
    pictures: np.ndarray,
    scenes: list[Scene],
    recipe: AutoencoderRecipe,
    checkpoint: Path,
    config: AutoencoderConfig = CONFIG,
    keep_going: Callable[[int], bool] = always,
    save_every: float = 300.0,
    log: Callable[[str], None] = print,
) -> tuple[Autoencoder, list[tuple[int, float]]]:
    """Train (or go on) until the recipe's steps are done or `keep_going(step)` says no.

    `checkpoint` holds weights, average and optimiser, written every `save_every` seconds and at the end.
    Returns the model with averaged weights and the loss curve as (step, loss) pairs.
    """
    model = build_autoencoder(config, recipe.seed)
    optimizers = Optimizers(model.named_parameters(), recipe.learning_rate, (0.9, 0.99))
    average = Average(model, recipe.average)
    progress = Progress(model, optimizers, average, checkpoint, save_every)
    running, squared, window = 0.0, 0.0, 0
    while progress.step < recipe.steps and keep_going(progress.step):
        step = progress.step
        size = pictures.shape[1] if step >= recipe.whole_from * recipe.steps else recipe.crop
        loss, mse = autoencoder_loss(model, pick_crops(pictures, scenes, recipe, step, size), recipe, step)
        loss.backward()
        optimizers.step(warm_constant_cosine(step, recipe.steps, recipe.warm_up, recipe.hold, floor=0.0))
        average.update(model)
        progress.step = step = step + 1
        running, squared, window = running + float(loss.detach()), squared + float(mse), window + 1
        if step % 50 == 0:
            psnr = 10 * math.log10(4 * window / max(squared, 1e-12))
            log(
                f"autoencoder {step}/{recipe.steps} loss {running / window:.4f} psnr {psnr:.2f} "
                f"{progress.pace:.3f} s/step"
            )
            progress.curve.append((step, round(running / window, 5)))
            running, squared, window = 0.0, 0.0, 0
        progress.save_if_due()
    progress.finish()
    return model, progress.curve


@torch.no_grad()
def encode_pictures(model: Autoencoder, pictures: np.ndarray, bfloat16: bool = True, batch: int = 32) -> Tensor:
    """[N, H, W, 3] uint8 -> latents [N, 4, H/8, W/8] float16 as the denoiser sees them (means times `SCALE_FACTOR`)."""
    out: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for i in range(0, len(pictures), batch):
            mean, _ = model.encode_moments(to_tensor(pictures[i : i + batch]))
            out.append((mean.float() * SCALE_FACTOR).half())
    return torch.cat(out)


@torch.no_grad()
def decode_latents(model: Autoencoder, latents: Tensor, bfloat16: bool = True, batch: int = 16) -> np.ndarray:
    """Latents as the denoiser leaves them [N, 4, h, w] -> [N, 8h, 8w, 3] uint8."""
    out: list[np.ndarray] = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for i in range(0, len(latents), batch):
            part = latents[i : i + batch].float().contiguous(memory_format=torch.channels_last)
            out.append(to_pictures(model.decode(part / SCALE_FACTOR)))
    return np.concatenate(out)


@torch.no_grad()
def balance_latents(model: Autoencoder, pictures: np.ndarray) -> None:
    """Turn and stretch the latent space so that diffusion noise treats its directions alike; pictures stay the same.

    Trained latents are nearly collinear: two of four directions would drown in unit noise. Half of a whitening (each
    principal direction divided by the fourth root of its variance) is folded exactly into the 1 x 1 convolutions beside
    the latents, together with the mean and the scale factor. Samples are made certain (log-variance -9).
    """
    means = encode_pictures(model, pictures, bfloat16=False).double() / SCALE_FACTOR
    values = means.movedim(1, -1).reshape(-1, means.shape[1])
    mu, deviation = values.mean(0), values.std(0)
    eigenvalues, directions = torch.linalg.eigh(torch.corrcoef(values.T))
    turn = torch.diag(eigenvalues.clamp(min=1e-4) ** -0.25) @ directions.T @ torch.diag(1 / deviation)
    turned = (values - mu) @ turn.T
    turn = turn / turned.square().mean().sqrt() / SCALE_FACTOR

    width = len(mu)
    into, out_of = model.quant_conv, model.post_quant_conv
    assert isinstance(into, nn.Conv2d)
    assert isinstance(out_of, nn.Conv2d)
    assert into.bias is not None
    assert out_of.bias is not None
    weight, bias = into.weight.double(), into.bias.double()
    post, post_bias = out_of.weight.double()[:, :, 0, 0], out_of.bias.double()
    new_weight, new_bias = torch.zeros_like(weight), torch.full_like(bias, -9.0)
    new_weight[:width, :, 0, 0] = turn @ weight[:width, :, 0, 0]
    new_bias[:width] = turn @ (bias[:width] - mu)
    into.weight.copy_(new_weight)
    into.bias.copy_(new_bias)
    out_of.weight.copy_((post @ torch.linalg.inv(turn))[:, :, None, None])
    out_of.bias.copy_(post_bias + post @ mu)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each pair of pictures [N, H, W, 3] uint8, in dB."""
    error = ((a.astype(np.float32) - b.astype(np.float32)) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))
