"""Training Postcards further, from a finished file: pairs of things, small things, and weights that mean something.

What differs from the first training (`denoiser_loop`), all measured on its file:
- Nearly half of the pictures show two things, also among the blind samples: where each stands and in which colour is
  decided at the first step of sampling, and the first training had no blind pair.
- The error around things counts more, around small ones most: they are a few latent cells out of 256.
- Captions with contradictions (`emphasis.contradiction`), and a few samples whose target is what the file before made
  of a stressed word, so that a single `(word:w)` keeps its effect.
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
from torch import Tensor

from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.training.autoencoder_loop import always, write_state
from modules.training.captions import Habits, caption
from modules.training.denoiser_loop import (
    BLIND_TIMESTEPS,
    TEXT,
    UNET,
    Denoiser,
    Vocabulary,
    alphas_cumprod,
    build_denoiser,
    loss_weights,
)
from modules.training.drawing import SIZE, SIZES, THING_HEIGHT, Mixture, Scene
from modules.training.emphasis import contradiction, emphasised, stressed, weighted_ids
from modules.training.optim import Average, Optimizers, warm_constant_cosine

MIXTURE_OF_PAIRS = Mixture(counts=(8, 46, 46), apart=0.4, twins=0.12)


@dataclass(frozen=True)
class RefineRecipe:
    """All that decides the refined denoiser, beside the file it starts from, latents and scenes."""

    steps: int = 880
    planned: tuple[int, int] = (729, 950)
    """Before that step the learning rate fell as if there were so many; the shipped file's run was cut short."""
    batch: int = 40
    learning_rate: float = 5e-4
    warm_up: int = 40
    hold: float = 0.55
    orthogonalise_every: int = 2
    average: float = 0.99
    unknown: float = 0.12
    blind: tuple[tuple[int, float], ...] = ((0, 0.2), (491, 0.4), (800, 0.2))
    """From each step on, this share of a batch is all noise (see `denoiser_loop.make_batch`)."""
    blind_weight: float = 6.0
    kept: float = 0.1
    """Share of a batch that learns what the file before made of a stressed word."""
    contradictions: float = 0.14
    """Share of the other captions that contradict themselves."""
    near: float = 2.5
    """Weight of the squared error around a thing; `near_small` around a small one. Elsewhere 1."""
    near_small: float = 4.0
    lean: float = 0.6
    """Timesteps are 1000 · u ** lean with u spread evenly: below 1 more samples lie where things take their places."""
    lean_from: int = 252
    """The step from which on that is so; the shipped file's run began evenly."""
    pictures: int = 6_000
    bfloat16: bool = True
    seed: int = 2

    def blind_samples(self, step: int) -> int:
        """How many samples of that step's batch are blind."""
        return round([share for start, share in self.blind if step >= start][-1] * self.batch)


HABITS_OF_PAIRS = Habits(single=0.08, silent_pair=0.2)


def cells_near_things(scene: Scene, recipe: RefineRecipe, side: int) -> Tensor:
    """[side, side] weights of a latent's cells."""
    weights = torch.ones(side, side)
    cell = SIZE / side
    for thing in scene.things:
        height = THING_HEIGHT[thing.kind][SIZES.index(thing.size)]
        top = thing.base - (0.5 if thing.kind == "balloon" else 1.0) * height
        bottom = thing.base + (0.5 if thing.kind == "balloon" else 0.05) * height
        rows = slice(max(int(top / cell), 0), int(bottom / cell) + 1)
        columns = slice(max(int((thing.x - height / 2) / cell), 0), int((thing.x + height / 2) / cell) + 1)
        weights[rows, columns] = recipe.near_small if thing.size == "small" else recipe.near
    return weights


@dataclass(frozen=True)
class RefineBatch:
    """As `denoiser_loop.Batch`, with each token's weight and each cell's; the last `kept` samples have no target."""

    x: Tensor
    target: Tensor
    timesteps: Tensor
    rows: Tensor
    emphasis: Tensor
    weights: Tensor
    kept: int


def refine_batch(
    latents: Tensor, scenes: Sequence[Scene], vocabulary: Vocabulary, recipe: RefineRecipe, step: int
) -> RefineBatch:
    """Latents [N, 4, h, w] of unit variance -> a batch: blind samples first, then seeing ones, then kept ones."""
    rng = random.Random(recipe.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    blind, kept = recipe.blind_samples(step), round(recipe.kept * recipe.batch)
    seeing = recipe.batch - blind - kept

    def row_of(token: int) -> int:
        return vocabulary.row_of.get(token, vocabulary.unknown)

    index: list[int] = []
    rows: list[list[int]] = []
    emphasis: list[list[float]] = []
    while len(index) < recipe.batch:
        i, k = rng.randrange(len(scenes)), len(index)
        scene = scenes[i]
        if (k < blind and not scene.things) or (k >= blind + seeing and len(scene.things) != 1):
            continue
        if k >= blind + seeing:
            ids, weights = weighted_ids(stressed(scene, rng), row_of)
        elif rng.random() < recipe.contradictions:
            ids, weights = weighted_ids(contradiction(scene, rng), row_of)
        else:
            habits = replace(HABITS_OF_PAIRS, single=0.0) if k < blind else HABITS_OF_PAIRS
            unknown = rng.randint(1, 5) if rng.random() < recipe.unknown else 0
            ids, weights = vocabulary.rows(caption(scene, rng, habits), rng, unknown), [1.0] * 77
        index.append(i)
        rows.append(ids)
        emphasis.append(weights)
    strata = torch.arange(seeing) + torch.rand(seeing, generator=generator)
    lean = recipe.lean if step >= recipe.lean_from else 1.0
    timesteps = torch.cat([
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (blind,), generator=generator),
        ((strata / seeing) ** lean * 1000).long().clamp_(0, 999),
        torch.randint(500, 1000, (kept,), generator=generator),
    ])  # fmt: skip
    noise = torch.randn(recipe.batch, *latents.shape[1:], generator=generator)
    alpha = alphas_cumprod()[timesteps].float()[:, None, None, None]
    x0 = latents[index].float()
    is_blind = (torch.arange(recipe.batch) < blind)[:, None, None, None]
    # A stressed word matters most where nothing is drawn yet: every other kept sample is blind, too.
    hidden = is_blind | ((torch.arange(recipe.batch) >= blind + seeing) & (torch.arange(recipe.batch) % 2 == 0)
                         & (timesteps > 900))[:, None, None, None]  # fmt: skip
    x = (1 - alpha).sqrt() * noise + torch.where(hidden, 0.0, 1.0) * alpha.sqrt() * x0
    target = noise - torch.where(is_blind, 1.0, 0.0) * (alpha / (1 - alpha)).sqrt() * x0
    weights = loss_weights()[timesteps] * torch.where(is_blind.flatten(), recipe.blind_weight, 1.0)
    cells = torch.stack([cells_near_things(scenes[i], recipe, latents.shape[-1]) for i in index])
    cells[blind + seeing :] = 1.0
    return RefineBatch(
        x.contiguous(memory_format=torch.channels_last), target, timesteps, torch.tensor(rows), torch.tensor(emphasis),
        weights[:, None, None] * cells, kept,
    )  # fmt: skip


def noise_of(model: Denoiser, batch: RefineBatch, of: slice, bfloat16: bool) -> Tensor:
    """The noise a model finds in some samples of a batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        context = emphasised(model.encode(batch.rows[of]).float(), batch.emphasis[of])
        return model.unet(batch.x[of], batch.timesteps[of], context).float()


def refine_loss(model: Denoiser, before: Denoiser, batch: RefineBatch, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """The weighted loss to follow, and the squared error of each sample [B] (for the log)."""
    target = batch.target
    if batch.kept:
        with torch.no_grad():
            taught = noise_of(before, batch, slice(len(target) - batch.kept, None), bfloat16)
        target = torch.cat([target[: -batch.kept], taught])
    squared = (noise_of(model, batch, slice(None), bfloat16) - target).square().mean(1)
    return (squared * batch.weights).mean(), squared.detach().mean(dim=(1, 2))


def denoiser_from(
    text: dict[str, Tensor], unet: dict[str, Tensor], vocabulary: Vocabulary, seed: int,
    unet_config: UNetConfig = UNET, text_config: ClipConfig = TEXT,
) -> Denoiser:  # fmt: skip
    """Nets to train from a checkpoint's two parts; the token table is cut down to the vocabulary's rows."""
    model = build_denoiser(unet_config, replace(text_config, vocab=vocabulary.size), seed)
    table = text["embeddings.token_embedding.weight"]
    strange = next(token for token in range(len(table)) if token not in vocabulary.row_of)
    tokens = [*vocabulary.row_of, strange]
    small = {**text, "embeddings.token_embedding.weight": table[tokens]}
    small.pop("embeddings.position_ids", None)
    model.text.load_state_dict({key: value.float() for key, value in small.items()})
    model.unet.load_state_dict({key: value.float() for key, value in unet.items()})
    return model


def refine(
    model: Denoiser,
    before: Denoiser,
    latents: Tensor,
    scenes: Sequence[Scene],
    vocabulary: Vocabulary,
    recipe: RefineRecipe,
    checkpoint: Path,
    keep_going: Callable[[int], bool] = always,
    save_every: float = 240.0,
    log: Callable[[str], None] = print,
) -> tuple[Denoiser, list[tuple[int, float]]]:
    """Train `model` on until the recipe's steps are done or `keep_going(step)` says no; `before` is what it was.

    `checkpoint` holds weights, average and optimiser, written every `save_every` seconds and at the end.
    Returns the model with averaged weights and the loss curve as (step, weighted loss) pairs.
    """
    optimizers = Optimizers(model.named_parameters(), recipe.learning_rate, (0.9, 0.99), recipe.orthogonalise_every)
    average = Average(model, recipe.average)
    before.requires_grad_(False)
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
    running, window, done = 0.0, 0, 0
    by_part = torch.zeros(6)  # blind samples, four ranges of timesteps, kept samples
    kept = round(recipe.kept * recipe.batch)
    while step < recipe.steps and keep_going(step):
        loss, errors = refine_loss(
            model, before, refine_batch(latents, scenes, vocabulary, recipe, step), recipe.bfloat16
        )
        loss.backward()
        total = recipe.planned[1] if step < recipe.planned[0] else recipe.steps
        optimizers.step(warm_constant_cosine(step, total, recipe.warm_up, recipe.hold))
        average.update(model)
        blind = recipe.blind_samples(step)
        step, done, window = step + 1, done + 1, window + 1
        running += float(loss.detach())
        parts = (errors[:blind], *errors[blind : recipe.batch - kept].tensor_split(4), errors[recipe.batch - kept :])
        by_part += torch.stack([part.mean() if len(part) else torch.zeros(()) for part in parts])
        if step % 50 == 0:
            seen = " ".join(f"{value / window:.4f}" for value in by_part.tolist())
            pace = (time.monotonic() - began) / done
            log(f"refine {step}/{recipe.steps} loss {running / window:.4f} by part {seen} {pace:.3f} s/step")
            curve.append((step, round(running / window, 5)))
            running, window, by_part = 0.0, 0, torch.zeros(6)
        if time.monotonic() - saved > save_every:
            save()
            saved = time.monotonic()
    save()
    model.load_state_dict(average.values, strict=False)
    return model, curve
