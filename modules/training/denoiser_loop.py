"""Training the denoiser and the text encoder of Postcards together, in latent space.

Noise prediction (Ho et al., arXiv:2006.11239) on Stable Diffusion 1's schedule. The text encoder learns on a compact
vocabulary: the tokens the caption grammar can produce, begin, end and one row for every other token. Now and then such
unknown tokens are strewn into a caption, so that a word it never met changes (almost) nothing.
Each step's randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from modules.training.autoencoder_loop import TRAINING_OPS
from modules.training.captions import HABITS, Habits, caption, phrases
from modules.training.drawing import Scene
from modules.training.fused import plain_attention
from modules.training.optim import Average, Optimizers, warm_constant_cosine
from modules.training.places import LOUDER, WORDS, prime_places
from modules.training.progress import Progress, always

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

    steps: int = 4400
    batch: int = 40
    learning_rate: float = 1e-3
    warm_up: int = 100
    hold: float = 0.7
    orthogonalise_every: int = 2
    average: float = 0.998
    unknown: float = 0.15
    """Share of the captions into which 1 to 5 unknown tokens are strewn."""
    blind: tuple[tuple[int, float], ...] = (
        (1494, 0.15),
        (2190, 0.7),
        (2440, 0.15),
        (2942, 0.4),
        (3342, 0.15),
        (3644, 0.25),
        (3894, 0.15),
    )
    """From each step on, this share of a batch is all noise, see `make_batch`.

    This is what the shipped file's run did while places were still unlearned; (0, 0.15) should do from the start.
    """
    prime_at: int = 2942
    """The step before which `places.prime_places` is applied; early is better, the shipped file's run found it late."""
    middle_from: int = 3644
    """The first step whose captions let silence about a place mean the middle."""
    blind_weight: float = 6.0
    bfloat16: bool = True
    seed: int = 1

    def blind_samples(self, step: int) -> int:
        """How many samples of that step's batch are blind."""
        share = 0.0
        for start, value in self.blind:
            share = value if step >= start else share
        return round(share * self.batch)


EARLY_HABITS = Habits(position=0.86, middle=0.86)
EARLY_BLIND_HABITS = Habits(position=1.0, middle=1.0, single=0.0)
BLIND_HABITS = Habits(single=0.0)
"""Caption habits before and from `middle_from` on, of blind samples and of others (`captions.HABITS`)."""
BLIND_TIMESTEPS = (985, 999)
"""Where blind samples are placed: the noise level every sampler begins with."""


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
    """One step's training data: noisy latents, the noise to find in them, when, captions' rows, samples' weights."""

    x: Tensor
    target: Tensor
    timesteps: Tensor
    rows: Tensor
    weights: Tensor


def make_batch(
    latents: Tensor, scenes: Sequence[Scene], vocabulary: Vocabulary, recipe: DenoiserRecipe, step: int
) -> Batch:
    """Latents [N, 4, h, w] of unit variance -> a batch with fresh captions, noise and stratified timesteps.

    The first samples of it are blind: at the highest noise levels the latent is left out of x altogether, as it is when
    a sampler starts, and the target is the noise that would lead to it. On so small a latent even timestep 999 shows
    where a large thing stands (its 120 or so numbers together outweigh the noise), so that a net trained without blind
    samples reads places from noise and never listens to the words for them.
    """
    rng = random.Random(recipe.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    blind = recipe.blind_samples(step)
    late = step >= recipe.middle_from
    habits, blind_habits = (HABITS, BLIND_HABITS) if late else (EARLY_HABITS, EARLY_BLIND_HABITS)
    index: list[int] = []
    while len(index) < recipe.batch:
        i = rng.randrange(len(scenes))
        if len(index) >= blind or len(scenes[i].things) == 1:
            index.append(i)
    rows = torch.tensor([
        vocabulary.rows(
            caption(scenes[i], rng, blind_habits if k < blind else habits),
            rng,
            rng.randint(1, 5) if rng.random() < recipe.unknown else 0,
        )
        for k, i in enumerate(index)
    ])  # fmt: skip
    seeing = recipe.batch - blind
    strata = torch.arange(seeing) + torch.rand(seeing, generator=generator)
    timesteps = torch.cat([
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (blind,), generator=generator),
        (strata * (1000 / seeing)).long().clamp_(0, 999),
    ])  # fmt: skip
    noise = torch.randn(recipe.batch, *latents.shape[1:], generator=generator)
    alpha = alphas_cumprod()[timesteps].float()[:, None, None, None]
    x0, is_blind = latents[index].float(), (torch.arange(recipe.batch) < blind)[:, None, None, None]
    x = (1 - alpha).sqrt() * noise + torch.where(is_blind, 0.0, 1.0) * alpha.sqrt() * x0
    target = noise - torch.where(is_blind, 1.0, 0.0) * (alpha / (1 - alpha)).sqrt() * x0
    weights = loss_weights()[timesteps] * torch.where(is_blind.flatten(), recipe.blind_weight, 1.0)
    return Batch(x.contiguous(memory_format=torch.channels_last), target, timesteps, rows, weights)


def denoiser_loss(model: nn.Module, batch: Batch, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """The weighted loss to follow, and the squared error of each sample [B] (for the log)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        predicted = model(batch.x, batch.timesteps, batch.rows)
    errors = (predicted.float() - batch.target).square().mean(dim=(1, 2, 3))
    return (errors * batch.weights).mean(), errors.detach()


@torch.no_grad()
def prime(
    model: Denoiser,
    average: Average,
    latents: Tensor,
    scenes: Sequence[Scene],
    vocabulary: Vocabulary,
    recipe: DenoiserRecipe,
) -> dict[str, list[float]]:
    """Apply `places.prime_places` to model and average alike, with a batch of nearly all blind samples."""
    batch = make_batch(latents, scenes, vocabulary, replace(recipe, batch=96, blind=((0, 0.95),)), recipe.prime_at)
    rows = [[vocabulary.row_of[token] for word in words for token in vocabulary.tokenize(word)] for words in WORDS]
    word_of = torch.full_like(batch.rows, -1)
    for number, group in enumerate(rows):
        word_of[torch.isin(batch.rows, torch.tensor(group))] = number
        model.text.embeddings.token_embedding.weight[group] *= LOUDER
    fits = prime_places(model.unet, batch.x, batch.timesteps, model.encode(batch.rows), word_of)
    for name, p in model.named_parameters():
        if name.endswith(("token_embedding.weight", "attn2.to_q.weight", "attn2.to_k.weight")):
            average.values[name].copy_(p)
    return fits


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
    progress = Progress(model, optimizers, average, checkpoint, save_every)
    running, window = 0.0, 0
    by_part = torch.zeros(5)  # blind samples, then four ranges of timesteps
    while progress.step < recipe.steps and keep_going(progress.step):
        step = progress.step
        if step == recipe.prime_at:
            log(f"columns read by cross-attentions: {prime(model, average, latents, scenes, vocabulary, recipe)}")
        batch = make_batch(latents, scenes, vocabulary, recipe, step)
        loss, errors = denoiser_loss(model, batch, recipe.bfloat16)
        loss.backward()
        optimizers.step(warm_constant_cosine(step, recipe.steps, recipe.warm_up, recipe.hold))
        average.update(model)
        blind = recipe.blind_samples(step)
        progress.step = step = step + 1
        running, window = running + float(loss.detach()), window + 1
        by_part += torch.stack([part.mean() for part in (errors[:blind], *errors[blind:].tensor_split(4))])
        if step % 50 == 0:
            parts = " ".join(f"{value / window:.4f}" for value in by_part.tolist())
            log(
                f"denoiser {step}/{recipe.steps} loss {running / window:.4f} by part {parts} {progress.pace:.3f} s/step"
            )
            progress.curve.append((step, round(running / window, 5)))
            running, window, by_part = 0.0, 0, torch.zeros(5)
        progress.save_if_due()
    progress.finish()
    return model, progress.curve


def load_averaged(
    checkpoint: Path, vocabulary: Vocabulary, unet: UNetConfig = UNET, text: ClipConfig = TEXT
) -> Denoiser:
    """The averaged nets of a training checkpoint."""
    model = build_denoiser(unet, replace(text, vocab=vocabulary.size), seed=0)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"]["values"], strict=False)
    return model
