"""Training Postcards further, from a finished file: pairs of things, small things, and weights that mean something.

What differs from the first training (`denoiser_loop`), all measured on its file:
- Half of the pictures show two things, also among the blind samples: where each stands and in which colour is decided
  at the first step of sampling, and the first training had no blind pair.
- Two things are often named without their places, from left to right: a few samples hear such a caption and learn what
  the file before made of one that says the places (`RefineRecipe.told`).
- `AND` of two prompts wants a net that leaves alone what the other prompt has drawn: on half-drawn pictures of a pair
  it hears of one of the two and learns what the file before makes of both (`RefineRecipe.joined`). Beside it single
  things half drawn, or it draws company for them (`lone`).
- The error around things counts more, around small ones most: they are a few latent cells out of 256.
- Captions with contradictions (`emphasis.contradiction`), and a few samples whose target is what the file before made
  of a stressed word, so that a single `(word:w)` keeps its effect.
Each step's randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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

MIXTURE_OF_PAIRS = Mixture(
    counts=(5, 50, 45), apart=0.85, twins=0.12, small=0.6, kinds=(("cactus", 2.2), ("boat", 1.5), ("car", 1.4))
)
"""A cactus without arms is a balloon to the eye, a small boat or car a house: they were wrong most often."""


@dataclass(frozen=True)
class RefineRecipe:
    """All that decides the refined denoiser, beside the file it starts from, latents and scenes."""

    cycles: tuple[int, ...] = (1200, 2000)
    """Steps by which the learning rate has fallen; after each but the last it begins anew, with what was learned."""
    batch: int = 44
    learning_rate: float = 4e-4
    warm_up: int = 40
    hold: float = 0.6
    orthogonalise_every: int = 2
    average: float = 0.995
    unknown: float = 0.12
    blind: tuple[tuple[int, float], ...] = ((0, 0.18),)
    """From each step on, this share of a batch is all noise (see `denoiser_loop.make_batch`)."""
    blind_weight: float = 6.0
    told: float = 0.09
    """Share of a batch that hears of two things without their places and learns what the file before made of a caption
    that says them: a target with far less chance in it than one picture."""
    joined: float = 0.12
    """Share of a batch, in threes that see the same x and hear of one thing of a pair, of the other, and nothing. The
    first three see noise and learn what the file before makes of the same captions; the others see a pair half drawn
    (`half_drawn`), and those that hear of one thing learn what the file before makes of the caption of both."""
    joined_weight: float = 3.0
    """Factor on the loss of those that see something, and of `lone` ones: their targets hold no chance, so their errors
    are small."""
    lone: float = 0.12
    """Share of a batch that sees one thing half drawn and learns what the file before makes of its caption: beside the
    joined ones alone it learns to draw second things nobody asked for."""
    half_drawn: int = 320
    """How many pairs, and how many single things, are drawn for them."""
    kept: float = 0.12
    """Share of a batch that learns what the file before made of a stressed word, and a quarter of it of no caption."""
    contradictions: float = 0.45
    """Share of the other captions that contradict themselves."""
    near: float = 2.5
    """Weight of the squared error around a thing; `near_small` around a small one. Elsewhere 1."""
    near_small: float = 5.0
    lean: float = 0.75
    """Timesteps are 1000 · u ** lean with u spread evenly: below 1 more samples lie where things take their places."""
    pictures: int = 7_200
    bfloat16: bool = True
    seed: int = 2

    small_said: float | None = None
    """See `Habits.small`."""
    changes: tuple[tuple[int, tuple[tuple[str, float | None], ...]], ...] = ()

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

    @property
    def joined_samples(self) -> int:
        """How many samples of a batch are joined ones: a multiple of three."""
        return 3 * round(self.joined * self.batch / 3)


HABITS_OF_PAIRS = Habits(single=0.08, silent_pair=0.45)
SILENT = Habits(empty=0.0, single=0.0, things=1.0, silent_pair=1.0)
SPOKEN = Habits(
    empty=0.0, single=0.0, things=1.0, color=1.0, natural_color=1.0, size=1.0, position=1.0, middle=1.0, land=1.0,
    time=1.0, sky=1.0,
)  # fmt: skip
"""What a pair's picture is called to the net in training, and to the one before it that knows the places' words."""
ALONE = replace(SPOKEN, size=0.5)
"""What a pair's picture is called when one of its things is left out."""
SINGLE = Habits(empty=0.0, single=0.0, things=1.0, position=1.0, middle=0.3)
"""What a picture of one thing is drawn from, for `RefineRecipe.lone`."""
UNPLACED = Habits(empty=0.0, single=0.0, things=1.0, middle=0.0)
"""What a thing in the middle is called when silence has to mean the middle."""
GUIDANCE = 5.0
"""The guidance a new user has, for `AND`."""
JOINED_SHARES = torch.tensor([GUIDANCE, GUIDANCE, 1 - 2 * GUIDANCE])
"""What `AND` takes of the noise found for one prompt, the other, and none (`modules.sampling.guidance`)."""


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


def named_alone(scene: Scene, vocabulary: Vocabulary, rng: random.Random) -> list[list[int]]:
    """Rows of three captions of a pair's picture, [3][77]: of its one thing, of the other, and none."""
    captions = [caption(replace(scene, things=(thing,)), rng, ALONE) for thing in scene.things]
    return [vocabulary.rows(text) for text in (*captions, "")]


@dataclass(frozen=True)
class HalfDrawn:
    """Pictures on their way: x [N, 4, h, w] at timesteps [N], which scene each is of, and what it is drawn from: a
    caption's rows [N][77]."""

    x: Tensor
    timesteps: Tensor
    scene: list[int]
    rows: list[list[int]]


@torch.no_grad()
def half_drawn(
    before: Denoiser, side: int, chosen: Sequence[int], rows: Sequence[list[int]], nothing: list[int],
    steps: tuple[int, int], timesteps: tuple[int, int], recipe: RefineRecipe,
) -> HalfDrawn:  # fmt: skip
    """What a net passes through, within those timesteps, when it draws captions `rows` of the `chosen` scenes.

    In Euler steps, so many (from, to), evenly spread in time, each picture with a guidance between 4 and 9 away from
    `nothing`, the empty caption's rows. side: of a latent.

    A guided drawing goes another way than a picture with noise on it, and further out.
    """
    rng = random.Random(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    states: list[tuple[Tensor, int, int]] = []
    alphas = alphas_cumprod().float()
    for start in range(0, len(chosen), 16):
        heard = torch.tensor([*rows[start : start + 16], *[nothing] * len(rows[start : start + 16])])
        count = len(heard) // 2
        x = torch.randn(count, 4, side, side, generator=generator)
        guidance = torch.empty(count, 1, 1, 1).uniform_(4, 9, generator=generator)
        times = torch.linspace(999, 0, rng.randint(*steps)).round().long()
        for now, then in pairwise(times):
            found = noise_of(
                before, x.repeat(2, 1, 1, 1), now.expand(len(heard)), heard, torch.ones(heard.shape), recipe.bfloat16
            )
            asked, unasked = found.chunk(2)
            noise = unasked + guidance * (asked - unasked)
            x0 = (x - (1 - alphas[now]).sqrt() * noise) / alphas[now].sqrt()
            x = alphas[then].sqrt() * x0 + (1 - alphas[then]).sqrt() * noise
            if timesteps[0] <= then <= timesteps[1]:
                states += [(x[k], int(then), start + k) for k in range(count)]
    which = [k for _, _, k in states]
    return HalfDrawn(
        torch.stack([x for x, _, _ in states]), torch.tensor([time for _, time, _ in states]),
        [chosen[k] for k in which], [rows[k] for k in which],
    )  # fmt: skip


def half_drawn_pairs_and_singles(
    before: Denoiser, side: int, scenes: Sequence[Scene], vocabulary: Vocabulary, recipe: RefineRecipe
) -> tuple[HalfDrawn, HalfDrawn]:
    """For the joined samples, from captions of both things, and for the single ones."""
    rng = random.Random(recipe.seed)

    def drawn(habits: Habits, fits: Callable[[Scene], bool], steps: tuple[int, int], until: int) -> HalfDrawn:
        chosen = [i for i, scene in enumerate(scenes) if fits(scene)][: recipe.half_drawn]
        rows = [vocabulary.rows(caption(scenes[i], rng, habits)) for i in chosen]
        return half_drawn(before, side, chosen, rows, vocabulary.rows(""), steps, (100, until), recipe)

    return drawn(SPOKEN, is_apart, (6, 12), 850), drawn(SINGLE, lambda scene: len(scene.things) == 1, (6, 20), 999)


def is_apart(scene: Scene) -> bool:
    """Whether it shows one thing on the left and one on the right."""
    return {thing.position for thing in scene.things} == {"left", "right"}


@dataclass(frozen=True)
class RefineBatch:
    """As `denoiser_loop.Batch`, with each token's weight and each cell's.

    The last `taught` samples have no target: it is what the net before finds, hearing `before_rows` [taught, 77] with
    weights `before_emphasis`. Those in `joined` come in threes, see `RefineRecipe.joined`.
    """

    x: Tensor
    target: Tensor
    timesteps: Tensor
    rows: Tensor
    emphasis: Tensor
    weights: Tensor
    before_rows: Tensor
    before_emphasis: Tensor
    joined: slice

    @property
    def taught(self) -> int:
        return len(self.before_rows)


def refine_batch(
    latents: Tensor,
    scenes: Sequence[Scene],
    vocabulary: Vocabulary,
    recipe: RefineRecipe,
    step: int,
    states: tuple[HalfDrawn, HalfDrawn] | None = None,
) -> RefineBatch:
    """Latents [N, 4, h, w] of unit variance -> a batch of blind, seeing, told, joined, lone and kept samples.

    states: pairs and single things half drawn; without them there are no joined and no lone samples.
    """
    recipe = recipe.at(step)
    rng = random.Random(recipe.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    blind, told, kept = recipe.blind_samples(step), round(recipe.told * recipe.batch), round(recipe.kept * recipe.batch)
    joined = recipe.joined_samples if states else 0
    lone = round(recipe.lone * recipe.batch) if states else 0
    taught = told + joined + lone + kept
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
    from_states: tuple[list[int], list[int]] = ([], [])
    while len(index) < recipe.batch:
        i, k = rng.randrange(len(scenes)), len(index)
        scene = scenes[i]
        count = len(scene.things)
        if k < blind + seeing:
            if k < blind and not count:
                continue
            if k < blind // 4:
                if count != 1 or scene.things[0].position != "middle":
                    continue
                heard.append(plain(UNPLACED))
            elif rng.random() < recipe.contradictions:
                heard.append(weighted_ids(contradiction(scene, rng), row_of))
            else:
                heard.append(plain(replace(HABITS_OF_PAIRS, single=0.0) if k < blind else HABITS_OF_PAIRS))
        elif k < recipe.batch - joined - lone - kept:
            if not is_apart(scene):
                continue
            heard.append(plain(SILENT))
            before.append((vocabulary.rows(caption(scene, rng, SPOKEN)), [1.0] * POSITIONS))
        elif k < recipe.batch - lone - kept:
            assert states is not None
            if k == recipe.batch - joined - lone - kept:
                if not is_apart(scene):
                    continue
                rows = told_rows = named_alone(scene, vocabulary, rng)
            else:
                chosen = rng.randrange(len(states[0].scene))
                from_states[0].append(chosen)
                i = states[0].scene[chosen]
                rows = named_alone(scenes[i], vocabulary, rng)
                told_rows = [states[0].rows[chosen]] * 2 + rows[-1:]
            heard += [(each, [1.0] * POSITIONS) for each in rows]
            before += [(each, [1.0] * POSITIONS) for each in told_rows]
            index += [i, i]
        elif k < recipe.batch - kept:
            assert states is not None
            chosen = rng.randrange(len(states[1].scene))
            from_states[1].append(chosen)
            i = states[1].scene[chosen]
            heard.append((states[1].rows[chosen], [1.0] * POSITIONS))
            before.append(heard[-1])
        else:
            if count != 1:
                continue
            if rng.random() < 0.25:
                heard.append((vocabulary.rows(""), [1.0] * POSITIONS))
            else:
                heard.append(weighted_ids(stressed(scene, rng), row_of))
            before.append(heard[-1])
        index.append(i)
    strata = torch.arange(seeing) + torch.rand(seeing, generator=generator)
    timesteps = torch.cat([
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (blind,), generator=generator),
        ((strata / seeing) ** recipe.lean * 1000).long().clamp_(0, 999),
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (told - told // 2,), generator=generator),
        torch.randint(700, 1000, (told // 2,), generator=generator),
        torch.randint(BLIND_TIMESTEPS[0], BLIND_TIMESTEPS[1] + 1, (joined // 3,), generator=generator)
        .repeat_interleave(3),
        torch.zeros(lone, dtype=torch.long),
        torch.randint(500, 1000, (kept,), generator=generator),
    ])  # fmt: skip
    noise = torch.randn(recipe.batch, *latents.shape[1:], generator=generator)
    threes = slice(recipe.batch - joined - lone - kept, recipe.batch - lone - kept)
    noise[threes] = noise[threes][::3].repeat_interleave(3, 0)
    alpha = alphas_cumprod()[timesteps].float()[:, None, None, None]
    x0 = latents[index].float()
    number = torch.arange(recipe.batch)
    is_blind = (number < blind)[:, None, None, None]
    # Where nothing is drawn yet words matter most: the first half of the told samples and every other one of the kept
    # are blind, too.
    told_blind = (number >= blind + seeing) & (number < blind + seeing + told - told // 2)
    kept_blind = (number >= recipe.batch - kept) & (number % 2 == 0) & (timesteps > 900)
    joined_blind = (number >= threes.start) & (number < threes.stop)
    hidden = is_blind | (told_blind | kept_blind | joined_blind)[:, None, None, None]
    x = (1 - alpha).sqrt() * noise + torch.where(hidden, 0.0, 1.0) * alpha.sqrt() * x0
    sees = slice(threes.start + 3, threes.stop)
    ones = slice(threes.stop, threes.stop + lone)
    if states:
        pairs, singles = states
        x[sees] = pairs.x[from_states[0]].repeat_interleave(3, 0)
        timesteps[sees] = pairs.timesteps[from_states[0]].repeat_interleave(3)
        joined_blind[sees] = False
        x[ones], timesteps[ones] = singles.x[from_states[1]], singles.timesteps[from_states[1]]
    target = noise - torch.where(is_blind, 1.0, 0.0) * (alpha / (1 - alpha)).sqrt() * x0
    louder = is_blind.flatten() | told_blind | joined_blind
    weights = loss_weights()[timesteps] * torch.where(louder, recipe.blind_weight, 1.0)
    weights[sees.start : ones.stop] *= recipe.joined_weight
    cells = torch.stack([cells_near_things(scenes[i], recipe, latents.shape[-1]) for i in index])
    cells[recipe.batch - kept :] = 1.0
    return RefineBatch(
        x.contiguous(memory_format=torch.channels_last), target, timesteps,
        torch.tensor([rows for rows, _ in heard]), torch.tensor([weight for _, weight in heard]),
        weights[:, None, None] * cells,
        torch.tensor([rows for rows, _ in before]).reshape(taught, POSITIONS),
        torch.tensor([weight for _, weight in before]).reshape(taught, POSITIONS),
        threes,
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
    wrong = noise_of(model, batch.x, batch.timesteps, batch.rows, batch.emphasis, bfloat16) - target
    errors = wrong.square().mean(1)
    if batch.joined.start < batch.joined.stop:
        # Half counts each sample's own error, half that of the noise `AND` makes of all three.
        threes = wrong[batch.joined].unflatten(0, (-1, 3))
        together = torch.einsum("s,nschw->nchw", JOINED_SHARES / JOINED_SHARES.norm(), threes).square().mean(1)
        joined = 0.5 * (errors[batch.joined] + together.repeat_interleave(3, 0))
        errors = torch.cat([errors[: batch.joined.start], joined, errors[batch.joined.stop :]])
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
    states, drawn = None, 0
    running, window = 0.0, 0
    by_part = torch.zeros(9)  # blind samples, four ranges of timesteps, told, joined, lone and kept ones
    while progress.step < recipe.steps and keep_going(progress.step):
        step = progress.step
        now = recipe.at(step)
        if now.half_drawn != drawn:
            states = half_drawn_pairs_and_singles(before, latents.shape[-1], scenes, vocabulary, now)
            drawn = now.half_drawn
        batch = refine_batch(latents, scenes, vocabulary, recipe, step, states)
        loss, errors = refine_loss(model, before, batch, recipe.bfloat16)
        loss.backward()
        optimizers.step(recipe.pace(step))
        average.update(model)
        blind, told, kept = now.blind_samples(step), round(now.told * now.batch), round(now.kept * now.batch)
        progress.step = step = step + 1
        running, window = running + float(loss.detach()), window + 1
        parts = [told, now.joined_samples, round(now.lone * now.batch), kept]
        first, seeing, *others = errors.split([blind, now.batch - blind - sum(parts), *parts])
        groups = (first, *seeing.tensor_split(4), *others)
        by_part += torch.stack([group.mean() if len(group) else torch.zeros(()) for group in groups])
        if step % 25 == 0:
            seen = " ".join(f"{value / window:.4f}" for value in by_part.tolist())
            log(f"refine {step}/{recipe.steps} loss {running / window:.4f} by part {seen} {progress.pace:.3f} s/step")
            progress.curve.append((step, round(running / window, 5)))
            running, window, by_part = 0.0, 0, torch.zeros(9)
        progress.save_if_due()
    progress.finish()
    return model, progress.curve
