"""Training Postcards further, from a finished file: pairs of things, small things, and weights that mean something.

What differs from the first training (`denoiser_loop`), all measured on its file:
- Half of the pictures show two things, also among the blind samples: where each stands and in which colour is decided
  at the first step of sampling, and the first training had no blind pair.
- Two things are often named without their places, from left to right: a few samples hear such a caption and learn what
  the file before made of one that says the places (`RefineRecipe.told`).
- The error around things counts more, around small ones most: they are a few latent cells out of 256.
- Captions with contradictions (`emphasis.contradiction`), and a few samples whose target is what the file before made
  of a stressed word, so that a single `(word:w)` keeps its effect.
Each step's randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from modules.nets.clip import ClipConfig
from modules.nets.unet import UNetConfig
from modules.training.captions import Habits, caption
from modules.training.denoiser_loop import (
    BLIND_TIMESTEPS,
    POSITIONS,
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
from modules.training.progress import Progress, always

MIXTURE_OF_PAIRS = Mixture(counts=(5, 45, 50), apart=0.85, twins=0.12, small=0.6)


@dataclass(frozen=True)
class RefineRecipe:
    """All that decides the refined denoiser, beside the file it starts from, latents and scenes."""

    cycles: tuple[int, ...] = (600, 800)
    """Steps by which the learning rate has fallen; after each but the last it begins anew, with what was learned."""
    batch: int = 40
    learning_rate: float = 5e-4
    warm_up: int = 40
    hold: float = 0.6
    orthogonalise_every: int = 2
    average: float = 0.99
    unknown: float = 0.12
    blind: tuple[tuple[int, float], ...] = ((0, 0.25),)
    """From each step on, this share of a batch is all noise (see `denoiser_loop.make_batch`)."""
    blind_weight: float = 6.0
    told: float = 0.2
    """Share of a batch that hears of two things without their places and learns what the file before made of a caption
    that says them: a target with far less chance in it than one picture."""
    kept: float = 0.075
    """Share of a batch that learns what the file before made of a stressed word."""
    contradictions: float = 0.12
    """Share of the other captions that contradict themselves."""
    near: float = 2.5
    """Weight of the squared error around a thing; `near_small` around a small one. Elsewhere 1."""
    near_small: float = 5.0
    lean: float = 0.75
    """Timesteps are 1000 · u ** lean with u spread evenly: below 1 more samples lie where things take their places."""
    pictures: int = 2_400
    bfloat16: bool = True
    seed: int = 2

    small_said: float | None = None
    """See `Habits.small`."""
    changes: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = (
        (600, (("told", 0.1), ("kept", 0.25), ("contradictions", 0.4), ("small_said", 0.95))),
    )
    """What is different from a step on: after 600 steps weights of words did less than before, and a thing whose size
    is not said came out small."""

    def at(self, step: int) -> RefineRecipe:
        """The recipe with the changes up to that step."""
        changed = {name: value for start, values in self.changes if step >= start for name, value in values}
        return replace(self, changes=(), **changed)  # type: ignore[arg-type]

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.cycles[-1]

    def pace(self, step: int) -> float:
        """Factor of the learning rate."""
        start = max((end for end in self.cycles[:-1] if end <= step), default=0)
        end = next((end for end in self.cycles if end > step), self.steps)
        return warm_constant_cosine(step - start, end - start, self.warm_up, self.hold)

    def blind_samples(self, step: int) -> int:
        """How many samples of that step's batch are blind."""
        return round([share for start, share in self.blind if step >= start][-1] * self.batch)


HABITS_OF_PAIRS = Habits(single=0.08, silent_pair=0.45)
SILENT = Habits(empty=0.0, single=0.0, things=1.0, silent_pair=1.0)
SPOKEN = Habits(
    empty=0.0, single=0.0, things=1.0, color=1.0, natural_color=1.0, size=1.0, position=1.0, middle=1.0, land=1.0,
    time=1.0, sky=1.0,
)  # fmt: skip
"""What a pair's picture is called to the net in training, and to the one before it that knows the places' words."""


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
    """As `denoiser_loop.Batch`, with each token's weight and each cell's.

    The last `taught` samples have no target: it is what the net before finds, hearing `before_rows` [taught, 77] with
    weights `before_emphasis`.
    """

    x: Tensor
    target: Tensor
    timesteps: Tensor
    rows: Tensor
    emphasis: Tensor
    weights: Tensor
    before_rows: Tensor
    before_emphasis: Tensor

    @property
    def taught(self) -> int:
        return len(self.before_rows)


def refine_batch(
    latents: Tensor, scenes: Sequence[Scene], vocabulary: Vocabulary, recipe: RefineRecipe, step: int
) -> RefineBatch:
    """Latents [N, 4, h, w] of unit variance -> a batch: blind samples first, then seeing, told and kept ones."""
    recipe = recipe.at(step)
    rng = random.Random(recipe.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    blind, told, kept = recipe.blind_samples(step), round(recipe.told * recipe.batch), round(recipe.kept * recipe.batch)
    taught = told + kept
    seeing = recipe.batch - blind - taught

    def row_of(token: int) -> int:
        return vocabulary.row_of.get(token, vocabulary.unknown)

    def plain(habits: Habits) -> tuple[list[int], list[float]]:
        unknown = rng.randint(1, 5) if rng.random() < recipe.unknown else 0
        text = caption(scene, rng, replace(habits, small=recipe.small_said))
        return vocabulary.rows(text, rng, unknown), [1.0] * POSITIONS

    index: list[int] = []
    heard: list[tuple[list[int], list[float]]] = []
    before: list[tuple[list[int], list[float]]] = []
    while len(index) < recipe.batch:
        i, k = rng.randrange(len(scenes)), len(index)
        scene = scenes[i]
        count = len(scene.things)
        if k < blind + seeing:
            if k < blind and not count:
                continue
            if rng.random() < recipe.contradictions:
                heard.append(weighted_ids(contradiction(scene, rng), row_of))
            else:
                heard.append(plain(replace(HABITS_OF_PAIRS, single=0.0) if k < blind else HABITS_OF_PAIRS))
        elif k < recipe.batch - kept:
            if {thing.position for thing in scene.things} != {"left", "right"}:
                continue
            heard.append(plain(SILENT))
            before.append((vocabulary.rows(caption(scene, rng, SPOKEN)), [1.0] * POSITIONS))
        else:
            if count != 1:
                continue
            heard.append(weighted_ids(stressed(scene, rng), row_of))
            before.append(heard[-1])
        index.append(i)
    strata = torch.arange(seeing) + torch.rand(seeing, generator=generator)
    timesteps = torch.cat([
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (blind,), generator=generator),
        ((strata / seeing) ** recipe.lean * 1000).long().clamp_(0, 999),
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (told - told // 2,), generator=generator),
        torch.randint(700, 1000, (told // 2,), generator=generator),
        torch.randint(500, 1000, (kept,), generator=generator),
    ])  # fmt: skip
    noise = torch.randn(recipe.batch, *latents.shape[1:], generator=generator)
    alpha = alphas_cumprod()[timesteps].float()[:, None, None, None]
    x0 = latents[index].float()
    number = torch.arange(recipe.batch)
    is_blind = (number < blind)[:, None, None, None]
    # Where nothing is drawn yet words matter most: the first half of the told samples and every other one of the kept
    # are blind, too.
    told_blind = (number >= blind + seeing) & (number < blind + seeing + told - told // 2)
    kept_blind = (number >= recipe.batch - kept) & (number % 2 == 0) & (timesteps > 900)
    hidden = is_blind | (told_blind | kept_blind)[:, None, None, None]
    x = (1 - alpha).sqrt() * noise + torch.where(hidden, 0.0, 1.0) * alpha.sqrt() * x0
    target = noise - torch.where(is_blind, 1.0, 0.0) * (alpha / (1 - alpha)).sqrt() * x0
    louder = is_blind.flatten() | told_blind
    weights = loss_weights()[timesteps] * torch.where(louder, recipe.blind_weight, 1.0)
    cells = torch.stack([cells_near_things(scenes[i], recipe, latents.shape[-1]) for i in index])
    cells[recipe.batch - kept :] = 1.0
    return RefineBatch(
        x.contiguous(memory_format=torch.channels_last), target, timesteps,
        torch.tensor([rows for rows, _ in heard]), torch.tensor([weight for _, weight in heard]),
        weights[:, None, None] * cells,
        torch.tensor([rows for rows, _ in before]).reshape(taught, POSITIONS),
        torch.tensor([weight for _, weight in before]).reshape(taught, POSITIONS),
    )  # fmt: skip


def noise_of(model: Denoiser, x: Tensor, timesteps: Tensor, rows: Tensor, emphasis: Tensor, bfloat16: bool) -> Tensor:
    """The noise a model finds in samples x [B, 4, h, w], hearing captions of rows [B, 77] with weights [B, 77]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        context = emphasised(model.encode(rows).float(), emphasis)
        return model.unet(x, timesteps, context).float()


def refine_loss(model: Denoiser, before: Denoiser, batch: RefineBatch, bfloat16: bool) -> tuple[Tensor, Tensor]:
    """The weighted loss to follow, and the squared error of each sample [B] (for the log)."""
    target = batch.target
    if batch.taught:
        last = slice(len(target) - batch.taught, None)
        with torch.no_grad():
            found = noise_of(
                before, batch.x[last], batch.timesteps[last], batch.before_rows, batch.before_emphasis, bfloat16
            )
        target = torch.cat([target[: -batch.taught], found])
    squared = (noise_of(model, batch.x, batch.timesteps, batch.rows, batch.emphasis, bfloat16) - target).square()
    errors = squared.mean(1)
    return (errors * batch.weights).mean(), errors.detach().mean(dim=(1, 2))


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
    progress = Progress(model, optimizers, average, checkpoint, save_every)
    running, window = 0.0, 0
    by_part = torch.zeros(7)  # blind samples, four ranges of timesteps, told and kept samples
    while progress.step < recipe.steps and keep_going(progress.step):
        step = progress.step
        batch = refine_batch(latents, scenes, vocabulary, recipe, step)
        loss, errors = refine_loss(model, before, batch, recipe.bfloat16)
        loss.backward()
        optimizers.step(recipe.pace(step))
        average.update(model)
        now = recipe.at(step)
        blind, told, kept = now.blind_samples(step), round(now.told * now.batch), round(now.kept * now.batch)
        progress.step = step = step + 1
        running, window = running + float(loss.detach()), window + 1
        first, seeing, by_teacher, last = errors.split([blind, recipe.batch - blind - told - kept, told, kept])
        parts = (first, *seeing.tensor_split(4), by_teacher, last)
        by_part += torch.stack([part.mean() if len(part) else torch.zeros(()) for part in parts])
        if step % 25 == 0:
            seen = " ".join(f"{value / window:.4f}" for value in by_part.tolist())
            log(f"refine {step}/{recipe.steps} loss {running / window:.4f} by part {seen} {progress.pace:.3f} s/step")
            progress.curve.append((step, round(running / window, 5)))
            running, window, by_part = 0.0, 0, torch.zeros(7)
        progress.save_if_due()
    progress.finish()
    return model, progress.curve
