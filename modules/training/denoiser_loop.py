"""Training the denoiser and the text encoder of Postcards together, in latent space.

Noise prediction (Ho et al., arXiv:2006.11239) on Stable Diffusion 1's schedule. The text encoder learns on a compact
vocabulary: the tokens the caption grammar can produce, begin, end and one row for every other token. Now and then such
unknown tokens are strewn into a caption, so that a word it never met changes (almost) nothing.
Each step's randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from modules.training.autoencoder_loop import TRAINING_OPS, always, write_state
from modules.training.captions import caption, phrases
from modules.training.drawing import Scene
from modules.training.fused import plain_attention
from modules.training.optim import Average, Optimizers, warm_constant_cosine

BEGIN, END, POSITIONS = 49406, 49407, 77
UNET = UNetConfig(
    model_channels=64,
    channel_mult=(1, 2, 3, 3),
    num_res_blocks=1,
    input_depths=(1, 1, 1, 0),
    middle_depth=1,
    output_depths=(0, 0, 1, 1, 1, 1, 1, 1),
    context_dim=128,
    num_heads=None,
    head_dim=32,
)
TEXT = ClipConfig(width=128, layers=2, heads=4, mlp=512)

Tokenize = Callable[[str], Sequence[int]]
"""Text to CLIP's token ids, without begin and end."""


@dataclass(frozen=True)
class DenoiserRecipe:
    """All that decides the trained denoiser and text encoder, beside latents and scenes."""

    steps: int = 4000
    batch: int = 40
    learning_rate: float = 1e-3
    warm_up: int = 100
    hold: float = 0.55
    orthogonalise_every: int = 2
    average: float = 0.998
    unknown: float = 0.15
    """Share of the captions into which 1 to 5 unknown tokens are strewn."""
    bfloat16: bool = True
    seed: int = 1


class Vocabulary:
    """Compact rows for training: the grammar's tokens in id order, then begin, end, unknown."""

    def __init__(self, tokenize: Tokenize) -> None:
        self.tokenize = tokenize
        self.tokens = sorted({token for phrase in phrases() for token in tokenize(phrase)})
        self.row_of = {token: row for row, token in enumerate([*self.tokens, BEGIN, END])}
        self.unknown = len(self.row_of)
        self.size = self.unknown + 1
        self._known: dict[str, list[int]] = {}

    def rows(self, text: str, rng: random.Random | None = None, unknown: int = 0) -> list[int]:
        """A text as 77 compact rows, `unknown` unknown ones strewn in by `rng`."""
        if text not in self._known:
            self._known[text] = [self.row_of.get(token, self.unknown) for token in self.tokenize(text)]
        body = list(self._known[text])
        for _ in range(unknown if rng else 0):
            assert rng is not None
            body.insert(rng.randint(0, len(body)), self.unknown)
        end = self.row_of[END]
        return ([self.row_of[BEGIN], *body[: POSITIONS - 2], end] + [end] * POSITIONS)[:POSITIONS]

    def full_table(self, compact: Tensor) -> Tensor:
        """Embedding rows [size, D] -> [49408, D] in CLIP's order; every token never seen gets the unknown row."""
        full = compact[self.unknown].expand(END + 1, -1).clone()
        for token, row in self.row_of.items():
            full[token] = compact[row]
        return full


class Denoiser(nn.Module):
    """Text encoder and UNet as one thing to train."""

    def __init__(self, unet: UNetConfig, text: ClipConfig, fused: bool = True) -> None:
        super().__init__()
        self.text = TextEncoder(text)
        self.unet = UNet(unet, TRAINING_OPS, plain_attention) if fused else UNet(unet)

    def encode(self, rows: Tensor) -> Tensor:
        """Token rows [B, 77] -> context [B, 77, D]."""
        return self.text.final_layer_norm(self.text.hidden_states(self.text.embed(rows))[-1])

    def forward(self, x: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        """The noise in x [B, 4, h, w]."""
        return self.unet(x, timesteps, self.encode(rows))


def build_denoiser(unet: UNetConfig, text: ClipConfig, seed: int) -> Denoiser:
    """Fresh nets: every residual branch starts at zero, and the text encoder's output away from zero mean.

    Emphasis rescales a conditioning by the quotient of two means, which must not be near 0.
    """
    torch.manual_seed(seed)
    model = Denoiser(unet, text)
    with torch.no_grad():
        for name, p in model.unet.named_parameters():
            if name.startswith("out.2.") or ".out_layers.3." in name or ".proj_out." in name:
                p.zero_()
        bias = model.text.final_layer_norm.bias
        assert isinstance(bias, Tensor)
        bias.fill_(0.25)
    model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def alphas_cumprod() -> Tensor:
    """Stable Diffusion 1's schedule: square roots of beta evenly spaced. [1000] float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


def loss_weights() -> Tensor:
    """Weight of the noise-prediction error at each timestep, mean 1. [1000] float32.

    Where a thing stands is decided at signal-to-noise ratios below 0.1 on so small a latent; plain or min-SNR weights
    (Hang et al., arXiv:2303.09556) leave almost no gradient there, and the prototype trained so never learned it.
    """
    alphas = alphas_cumprod()
    snr = alphas / (1 - alphas)
    weights = snr.pow(-0.4) * (1 + snr / 5).pow(-0.5)
    return (weights / weights.mean()).float()


@dataclass(frozen=True)
class Batch:
    """One step's training data: noisy latents, what was added, when, and the captions' rows."""

    x: Tensor
    noise: Tensor
    timesteps: Tensor
    rows: Tensor


def make_batch(
    latents: Tensor, scenes: Sequence[Scene], vocabulary: Vocabulary, recipe: DenoiserRecipe, step: int
) -> Batch:
    """Latents [N, 4, h, w] of unit variance -> a batch with fresh captions, noise and stratified timesteps."""
    rng = random.Random(recipe.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    index = [rng.randrange(len(scenes)) for _ in range(recipe.batch)]
    rows = torch.tensor([
        vocabulary.rows(caption(scenes[i], rng), rng, rng.randint(1, 5) if rng.random() < recipe.unknown else 0)
        for i in index
    ])  # fmt: skip
    strata = torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)
    timesteps = (strata * (1000 / recipe.batch)).long().clamp_(0, 999)
    noise = torch.randn(recipe.batch, *latents.shape[1:], generator=generator)
    alpha = alphas_cumprod()[timesteps].float()[:, None, None, None]
    x = alpha.sqrt() * latents[index].float() + (1 - alpha).sqrt() * noise
    return Batch(x.contiguous(memory_format=torch.channels_last), noise, timesteps, rows)


def denoiser_loss(model: nn.Module, batch: Batch, weights: Tensor, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """The weighted loss to follow, and the squared error of each sample [B] (for the log)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        predicted = model(batch.x, batch.timesteps, batch.rows)
    errors = (predicted.float() - batch.noise).square().mean(dim=(1, 2, 3))
    return (errors * weights[batch.timesteps]).mean(), errors.detach()


def train_denoiser(
    latents: Tensor,
    scenes: Sequence[Scene],
    vocabulary: Vocabulary,
    recipe: DenoiserRecipe,
    checkpoint: Path,
    unet: UNetConfig = UNET,
    text: ClipConfig = TEXT,
    keep_going: Callable[[int], bool] = always,
    save_every: float = 300.0,
    log: Callable[[str], None] = print,
) -> tuple[Denoiser, list[tuple[int, float]]]:
    """Train (or go on) until the recipe's steps are done or `keep_going(step)` says no.

    `checkpoint` holds weights, average and optimiser, written every `save_every` seconds and at the end.
    Returns the model with averaged weights and the loss curve as (step, weighted loss) pairs.
    """
    model = build_denoiser(unet, replace(text, vocab=vocabulary.size), recipe.seed)
    optimizers = Optimizers(model.named_parameters(), recipe.learning_rate, (0.9, 0.99), recipe.orthogonalise_every)
    average = Average(model, recipe.average)
    weights = loss_weights()
    step, curve = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        average.load_state_dict(state["average"])
        step, curve = state["step"], state["curve"]

    def save() -> None:
        state: dict[str, Any] = {
            "model": model.state_dict(), "optimizers": optimizers.state_dict(), "average": average.state_dict(),
            "step": step, "curve": curve,
        }  # fmt: skip
        write_state(state, checkpoint)

    began = saved = time.monotonic()
    running, done = 0.0, 0
    by_time = torch.zeros(4)
    while step < recipe.steps and keep_going(step):
        batch = make_batch(latents, scenes, vocabulary, recipe, step)
        loss, errors = denoiser_loss(model, batch, weights, recipe.bfloat16)
        loss.backward()
        optimizers.step(warm_constant_cosine(step, recipe.steps, recipe.warm_up, recipe.hold))
        average.update(model)
        step, done = step + 1, done + 1
        running += float(loss.detach())
        by_time += torch.stack([part.mean() for part in errors.tensor_split(4)])
        if step % 50 == 0:
            quarters = " ".join(f"{value / 50:.4f}" for value in by_time.tolist())
            seconds = (time.monotonic() - began) / done
            log(f"denoiser {step}/{recipe.steps} loss {running / 50:.4f} by time {quarters} {seconds:.3f} s/step")
            curve.append((step, round(running / 50, 5)))
            running, by_time = 0.0, torch.zeros(4)
        if time.monotonic() - saved > save_every:
            save()
            saved = time.monotonic()
    save()
    model.load_state_dict(average.values, strict=False)
    return model, curve


def load_averaged(
    checkpoint: Path, vocabulary: Vocabulary, unet: UNetConfig = UNET, text: ClipConfig = TEXT
) -> Denoiser:
    """The averaged nets of a training checkpoint."""
    model = build_denoiser(unet, replace(text, vocab=vocabulary.size), seed=0)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"]["values"], strict=False)
    return model
