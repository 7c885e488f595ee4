"""Judging Postcards: draw with the exported file, read the pictures by `rules`, write the model card.

Every figure is counted on prompts x seeds that no one chose by hand, with the sampler and guidance a new user gets
(DPM++ 2M, Karras, 20 steps, CFG 5). Seeds start where `first_seed` says.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from modules.nets.autoencoder import Autoencoder
from modules.nets.clip import TextEncoder
from modules.nets.layers import PLAIN
from modules.nets.unet import UNet
from modules.prompt.parse import parse_emphasis
from modules.prompt.tokens import CLIP, chunk
from modules.sampling.noise import BatchNoise, PictureNoise
from modules.sampling.prediction import NoiseSchedule
from modules.sampling.samplers import sample_dpmpp_2m, sample_euler
from modules.sampling.schedules import karras_range, with_zero
from modules.training import rules
from modules.training.autoencoder_loop import (
    CONFIG,
    AutoencoderRecipe,
    decode_latents,
    encode_pictures,
    psnr,
)
from modules.training.captions import LAND_PHRASES, caption
from modules.training.denoiser_loop import TEXT, UNET, DenoiserRecipe
from modules.training.drawing import (
    COLORS,
    KINDS,
    LANDS,
    POSITIONS,
    SIZES,
    TIMES,
    Scene,
    draw_scene,
    random_scene,
)
from modules.training.export import AUTOENCODER_PREFIX, TEXT_PREFIX, UNET_PREFIX
from modules.training.refine_loop import RefineRecipe

HELD_OUT = 500_000
"""Scenes from this index on are never trained on."""


@dataclass(frozen=True, eq=False)
class Postcards:
    """The nets of the exported file."""

    text: TextEncoder
    unet: UNet
    autoencoder: Autoencoder


def load(path: Path) -> Postcards:
    """The shipped file, in float32, by its checkpoint keys alone."""
    with safe_open(str(path), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open has no __iter__)

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}

    text, unet, autoencoder = TextEncoder(TEXT), UNet(UNET), Autoencoder(CONFIG, PLAIN)
    text_part = part(TEXT_PREFIX)
    text_part.pop("embeddings.position_ids")
    text.load_state_dict(text_part)
    unet.load_state_dict(part(UNET_PREFIX))
    autoencoder.load_state_dict(part(AUTOENCODER_PREFIX))
    for net in (text, unet, autoencoder):
        net.eval().requires_grad_(False)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Postcards(text, unet, autoencoder)


def encode_prompt(model: Postcards, prompt: str) -> Tensor:
    """[77, D]: the first chunk of a prompt, emphasis applied as A1111 does (weights, then the old mean restored)."""
    first = chunk(parse_emphasis(prompt), CLIP)[0]
    states = model.text.hidden_states(model.text.embed(torch.tensor([first.ids])))[-1]
    z = model.text.final_layer_norm(states)[0]
    weighted = z * torch.tensor(first.weights)[:, None]
    return weighted * (z.mean() / weighted.mean())


@dataclass(frozen=True)
class Drawing:
    """One picture to draw."""

    prompt: str
    seed: int
    negative: str = ""
    cfg: float = 5.0
    steps: int = 20
    even: bool = False
    """Even steps in time instead of Karras's."""
    sampler: str = "DPM++ 2M"


SAMPLERS = {"DPM++ 2M": sample_dpmpp_2m, "Euler": sample_euler}


@torch.no_grad()
def draw(model: Postcards, wanted: Sequence[Drawing], size: int = 128, batch: int = 16) -> np.ndarray:
    """[N, size, size, 3] uint8: the drawings. Those of one batch must agree in sampler, steps and schedule."""
    schedule = NoiseSchedule.stable_diffusion()
    out: list[np.ndarray] = []
    encoded = {text: encode_prompt(model, text) for d in wanted for text in (d.prompt, d.negative)}
    for start in range(0, len(wanted), batch):
        part = wanted[start : start + batch]
        assert len({(d.sampler, d.steps, d.even) for d in part}) == 1, "one batch, one sampler and schedule"
        context = torch.stack([encoded[d.prompt] for d in part] + [encoded[d.negative] for d in part])
        cfg = torch.tensor([d.cfg for d in part])[:, None, None, None]
        if part[0].even:
            levels = schedule.t_to_sigma(torch.linspace(schedule.last_t, 0, part[0].steps))
        else:
            levels = karras_range(part[0].steps, schedule.sigma_min, schedule.sigma_max)
        sigmas = with_zero(levels)
        noise = BatchNoise([PictureNoise(d.seed) for d in part], (4, size // 8, size // 8), source="CPU")

        def denoise(x: Tensor, sigma: Tensor, context: Tensor = context, cfg: Tensor = cfg) -> Tensor:
            scaled = x / (sigma.square() + 1).sqrt()[:, None, None, None]
            t = schedule.sigma_to_t(sigma)
            with torch.autocast("cpu", torch.bfloat16):
                eps = model.unet(scaled.repeat(2, 1, 1, 1), t.repeat(2), context).float()
            positive, negative = eps.chunk(2)
            return x - sigma[:, None, None, None] * (negative + cfg * (positive - negative))

        x = SAMPLERS[part[0].sampler](denoise, noise.initial.float() * sigmas[0], sigmas, noise)
        out.append(decode_latents(model.autoencoder, x))
    return np.concatenate(out)


def contact_sheet(pictures: np.ndarray, columns: int, gap: int = 0) -> np.ndarray:
    """[N, H, W, 3] -> one picture, row by row."""
    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[1] + gap, pictures.shape[2] + gap
    sheet = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = divmod(i, columns)
        sheet[y * height : y * height + picture.shape[0], x * width : x * width + picture.shape[1]] = picture
    return sheet


# --- prompts ----------------------------------------------------------------------------------------------------------


def full_prompt(scene: Scene, rng: random.Random) -> str:
    """A prompt that names all there is in a scene, in one of the grammar's phrasings."""
    words: list[str] = []
    for thing in scene.things:
        article = "an" if thing.color[0] in "aeiou" else "a"
        place = {"left": "on the left", "middle": "in the middle", "right": "on the right"}[thing.position]
        words.append(f"a {thing.size} {thing.color} {thing.kind} {place}" if rng.random() < 0.7
                     else f"{article} {thing.color} {thing.kind} {place}")  # fmt: skip
    subject = " and ".join(words)
    land = rng.choice(LAND_PHRASES[scene.land]) if words else scene.land
    sky = [name for name in ("sun", "moon", "stars", "clouds", "birds") if getattr(scene, name)]
    return ", ".join([f"{subject} {land}".strip(), scene.time, *sky])


def one_thing_scenes(count: int, seed: int, things: int = 1) -> list[Scene]:
    """Random scenes with so many things, all of them readable by the rules."""
    found: list[Scene] = []
    index = HELD_OUT
    while len(found) < count:
        scene = random_scene(seed, index)
        index += 1
        if len(scene.things) != things or not all(
            rules.readable(scene.time, scene.land, t.color) for t in scene.things
        ):
            continue
        # Clouds, and a sun behind a balloon, would be taken for a part of it.
        if any(t.kind == "balloon" for t in scene.things) and (scene.clouds or scene.sun):
            continue
        found.append(scene)
    return found


# --- rows of the table ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the card."""

    what: str
    prototype: str
    ours: str


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    right: int
    of: int

    def __str__(self) -> str:
        return f"{self.right}/{self.of} = {100 * self.right / max(self.of, 1):.1f} %"

    @property
    def value(self) -> float:
        return self.right / max(self.of, 1)


def share(answers: Sequence[bool]) -> Share:
    return Share(sum(map(bool, answers)), len(answers))


Draw = Callable[[Sequence[Drawing]], np.ndarray]


def reconstruction(model: Postcards, count: int = 200) -> np.ndarray:
    """PSNR in dB of held-out pictures through the autoencoder."""
    true = np.stack([draw_scene(random_scene(1, HELD_OUT + i)) for i in range(count)])
    latents = encode_pictures(model.autoencoder, true, bfloat16=False)
    return psnr(true, decode_latents(model.autoencoder, latents, bfloat16=False))


@dataclass(frozen=True)
class SceneScores:
    """What came right over drawn scenes with one thing."""

    land: Share
    time: Share
    found: Share
    color: Share
    kind: Share
    position: Share
    size: Share
    no_extra_thing: Share
    sky: Share
    no_extra_light: Share


def score_scenes(pictures: np.ndarray, scenes: Sequence[Scene], sized: Sequence[bool]) -> SceneScores:
    """Read pictures that were drawn from `full_prompt`s of scenes with one thing each. `sized`: the size was asked."""
    answers: dict[str, list[bool]] = {name: [] for name in SceneScores.__dataclass_fields__}
    for picture, scene, with_size in zip(pictures, scenes, sized):
        when, land = rules.scene_of(picture)
        answers["time"].append(when == scene.time)
        answers["land"].append(land == scene.land)
        lights = rules.moons(picture) if scene.time == "night" else rules.suns(picture, scene.time)
        asked = int(scene.moon if scene.time == "night" else scene.sun)
        answers["sky"].append((lights > 0) == bool(asked))
        answers["no_extra_light"].append(lights <= asked)
        seen = rules.things(picture, scene.time, scene.land)
        thing = scene.things[0]
        answers["found"].append(bool(seen))
        answers["no_extra_thing"].append(len(seen) <= 1)
        if not seen:
            for name in ("color", "kind", "position"):
                answers[name].append(False)
            continue
        answers["color"].append(rules.color_of(picture, seen[0], scene.time) == thing.color)
        answers["position"].append(rules.position_of(seen[0]) == thing.position)
        kind, size = rules.kind_and_size_of(picture, seen[0], scene.time, scene.land, thing.color)
        answers["kind"].append(kind == thing.kind)
        if with_size:
            answers["size"].append(size == thing.size)
    return SceneScores(**{name: share(values) for name, values in answers.items()})


def scene_scores(paint: Draw, count: int, first_seed: int) -> tuple[SceneScores, SceneScores]:
    """Scores of drawn pictures of `count` fresh scenes, and of the true pictures of the same scenes."""
    scenes = one_thing_scenes(count, seed=2)
    rng = random.Random(first_seed)
    prompts = [full_prompt(scene, rng) for scene in scenes]
    sized = [scene.things[0].size in prompt.split() for scene, prompt in zip(scenes, prompts)]
    drawn = paint([Drawing(prompt, first_seed + i) for i, prompt in enumerate(prompts)])
    true = np.stack([draw_scene(scene) for scene in scenes])
    return score_scenes(drawn, scenes, sized), score_scenes(true, scenes, sized)


def house_colors(paint: Draw, seeds: int, first_seed: int, **how: Any) -> Share:
    """ "a big {color} house, snow, day" in nine colours, and a white one by the sea: is the house that colour?

    `how` are fields of `Drawing`.
    """
    asked = [(color, "sea" if color == "white" else "snow") for color in COLORS for _ in range(seeds)]
    drawings = [
        Drawing(f"a big {color} house, {land}, day", first_seed + i, **how) for i, (color, land) in enumerate(asked)
    ]
    return share([_is_color(picture, "day", land, color) for picture, (color, land) in zip(paint(drawings), asked)])


def _is_color(picture: np.ndarray, when: str, land: str, color: str) -> bool:
    seen = rules.things(picture, when, land)
    return bool(seen) and rules.color_of(picture, seen[0], when) == color


@dataclass(frozen=True)
class PairScores:
    """What came right of pictures with two things. `all`: number, places, colours and kinds."""

    number: Share
    color: Share
    kind: Share
    all: Share


def score_pairs(pictures: np.ndarray, scenes: Sequence[Scene]) -> PairScores:
    """Read pictures of scenes with one thing on the left and one on the right."""
    answers: dict[str, list[bool]] = {name: [] for name in PairScores.__dataclass_fields__}
    for picture, scene in zip(pictures, scenes):
        seen = rules.things(picture, scene.time, scene.land)
        by_place = {rules.position_of(blob): blob for blob in seen[:2]}
        number = len(seen) == 2 and set(by_place) == {"left", "right"}
        color = kind = False
        if set(by_place) == {"left", "right"}:
            color = all(rules.color_of(picture, by_place[t.position], scene.time) == t.color for t in scene.things)
            kind = all(
                rules.kind_and_size_of(picture, by_place[t.position], scene.time, scene.land, t.color)[0] == t.kind
                for t in scene.things
            )
        for name, value in (("number", number), ("color", color), ("kind", kind), ("all", number and color and kind)):
            answers[name].append(value)
    return PairScores(**{name: share(values) for name, values in answers.items()})


def pair_scenes(count: int, seed: int = 3) -> list[Scene]:
    """Held-out scenes with a thing on the left and one on the right, of two colours, readable by the rules."""
    return [
        s for s in one_thing_scenes(6 * count, seed, things=2)
        if {t.position for t in s.things} == {"left", "right"} and s.things[0].color != s.things[1].color
    ][:count]  # fmt: skip


def two_things(paint: Draw, count: int, first_seed: int) -> tuple[PairScores, PairScores]:
    """Scores of drawn pictures of scenes with two things, and of the true ones."""
    scenes = pair_scenes(count)
    rng = random.Random(first_seed)
    drawn = paint([Drawing(full_prompt(scene, rng), first_seed + i) for i, scene in enumerate(scenes)])
    return score_pairs(drawn, scenes), score_pairs(np.stack([draw_scene(scene) for scene in scenes]), scenes)


def silent_pairs(paint: Draw, count: int, first_seed: int) -> PairScores:
    """ "a red house and a green tree in the snow, day": named from left to right, without places."""
    scenes = pair_scenes(count, seed=5)
    prompts = []
    for scene in scenes:
        nouns = [f"{'an' if t.color[0] in 'aeiou' else 'a'} {t.color} {t.kind}"
                 for t in sorted(scene.things, key=lambda t: t.x)]  # fmt: skip
        prompts.append(f"{' and '.join(nouns)} {LAND_PHRASES[scene.land][0]}, {scene.time}")
    drawn = paint([Drawing(prompt, first_seed + i) for i, prompt in enumerate(prompts)])
    return score_pairs(
        drawn, [replace(s, sun=False, moon=False, stars=False, clouds=False, birds=False) for s in scenes]
    )


def lights(paint: Draw, name: str, seeds: int, first_seed: int) -> tuple[Share, Share, Share]:
    """Share of pictures with a sun (by day) or moon (by night) when it is asked, not mentioned, and negated."""
    when = "day" if name == "sun" else "night"

    def seen(prompt: str, negative: str) -> Share:
        pictures = paint([Drawing(prompt, first_seed + i, negative) for i in range(seeds)])
        return share([(rules.suns(p, when) if name == "sun" else rules.moons(p)) > 0 for p in pictures])

    plain = f"a red house on green hills, {when}"
    return seen(f"{plain}, {name}", ""), seen(plain, ""), seen(plain, name)


def color_shares(
    paint: Draw, prompt: str, seeds: int, first_seed: int, colors: Sequence[str] = ("red",), negative: str = ""
) -> list[float]:
    """Mean share of pixels of each colour over seeds, by day."""
    pictures = paint([Drawing(prompt, first_seed + i, negative) for i in range(seeds)])
    return [float(np.mean([rules.share_of_color(p, color, "day") for p in pictures])) for color in colors]


@dataclass(frozen=True)
class Ladder:
    """A prompt whose {w} is a weight, and what is read of its pictures: a share of yes, or a mean."""

    what: str
    prompt: str
    read: Callable[[np.ndarray], float]


def _first(picture: np.ndarray, when: str, land: str) -> rules.Blob | None:
    seen = rules.things(picture, when, land)
    return seen[0] if seen else None


def _kind_is(kind: str) -> Callable[[np.ndarray], float]:
    def read(picture: np.ndarray) -> float:
        blob = _first(picture, "day", "snow")
        return float(blob is not None and rules.kind_and_size_of(picture, blob, "day", "snow", "red")[0] == kind)

    return read


def _is_left(picture: np.ndarray) -> float:
    blob = _first(picture, "day", "snow")
    return float(blob is not None and rules.position_of(blob) == "left")


def _area(picture: np.ndarray) -> float:
    blob = _first(picture, "day", "snow")
    return float(blob.area if blob else 0)


LADDERS: tuple[Ladder, ...] = (
    Ladder("colour: red share, a (red:w) house", "a (red:{w}) house, snow, day",
           lambda p: rules.share_of_color(p, "red", "day")),
    Ladder("colour against colour: the house is red, a (red:w) blue house", "a (red:{w}) blue house, snow, day",
           lambda p: float(_is_color(p, "day", "snow", "red"))),
    Ladder("kind against kind: it is a tree, a red (tree:w) house", "a red (tree:{w}) house, snow, day",
           _kind_is("tree")),
    Ladder("size: pixels, a (big:w) small red house", "a (big:{w}) small red house, snow, day", _area),
    Ladder("place: it is left, (left:w), right", "a red car (left:{w}), right, snow, day", _is_left),
    Ladder("land: it is desert, (desert:w), sea", "(desert:{w}), sea, day",
           lambda p: float(rules.scene_of(p)[1] == "desert")),
    Ladder("time: it is night, (night:w), day", "green hills, (night:{w}), day",
           lambda p: float(rules.scene_of(p)[0] == "night")),
    Ladder("sky: a moon, (moon:w)", "green hills, night, (moon:{w})", lambda p: float(rules.moons(p) > 0)),
    Ladder("sky: a sun, (sun:w)", "green hills, day, (sun:{w})", lambda p: float(rules.suns(p, "day") > 0)),
)  # fmt: skip
RUNGS = (0.4, 0.6, 1.0, 1.4)


def climb(paint: Draw, ladder: Ladder, seeds: int, first_seed: int, rungs: Sequence[float] = RUNGS) -> list[float]:
    """What a ladder reads at each weight, mean over seeds."""
    return [
        float(np.mean([ladder.read(p) for p in paint(
            [Drawing(ladder.prompt.format(w=w), first_seed + i) for i in range(seeds)]
        )]))
        for w in rungs
    ]  # fmt: skip


def climbs(values: Sequence[float]) -> bool:
    """Whether values never fall from rung to rung, by more than rounding, and end above where they begin."""
    return all(b >= 0.97 * a for a, b in itertools.pairwise(values)) and values[-1] > 1.1 * values[0] + 1e-4


def demo(paint: Draw, seeds: int, first_seed: int) -> Share:
    """The first prompt anyone tries: night, hills, one red house, one moon, all at once."""
    pictures = paint([Drawing(EXAMPLES[0], first_seed + i) for i in range(seeds)])
    answers: list[bool] = []
    for picture in pictures:
        seen = rules.things(picture, "night", "hills")
        answers.append(
            rules.scene_of(picture) == ("night", "hills")
            and rules.moons(picture) == 1
            and len(seen) == 1
            and rules.color_of(picture, seen[0], "night") == "red"
            and rules.kind_and_size_of(picture, seen[0], "night", "hills", "red")[0] == "house"
        )
    return share(answers)


def areas(paint: Draw, prompt: str, seeds: int, first_seed: int) -> list[int]:
    """Size in pixels of the largest thing, snow by day, for each seed."""
    pictures = paint([Drawing(prompt, first_seed + i) for i in range(seeds)])
    seen = [rules.things(picture, "day", "snow") for picture in pictures]
    return [blobs[0].area if blobs else 0 for blobs in seen]


def unknown_words(paint: Draw, seeds: int, first_seed: int) -> Share:
    """Words the model never met change neither colour nor kind nor scene."""
    prompt = "masterpiece, best quality, a blue house on the left in the snow, day, trending"
    pictures = paint([Drawing(prompt, first_seed + i) for i in range(seeds)])
    answers: list[bool] = []
    for picture in pictures:
        seen = rules.things(picture, "day", "snow")
        answers.append(
            rules.scene_of(picture) == ("day", "snow")
            and bool(seen)
            and rules.color_of(picture, seen[0], "day") == "blue"
            and rules.kind_and_size_of(picture, seen[0], "day", "snow", "blue")[0] == "house"
        )
    return share(answers)


SCENES, PAIRS = 400, 96
"""How many scenes with one thing and with two the table's main groups are counted on."""


def table(
    model: Postcards, scale: float = 1.0, first_seed: int = 1000, log: Callable[[str], None] = print
) -> list[Row]:
    """All rows of the card. `scale` shrinks the number of seeds of all but the main groups (`SCENES`, `PAIRS`)."""

    def paint(wanted: Sequence[Drawing]) -> np.ndarray:
        return draw(model, wanted)

    def n(count: float) -> int:
        return max(2, round(count * scale))

    rows: list[Row] = []

    def row(what: str, prototype: str, ours: object) -> None:
        rows.append(Row(what, prototype, str(ours)))
        log(f"{what} | {prototype} | {ours}")

    db = reconstruction(model, n(200))
    row(
        f"autoencoder PSNR, {len(db)} held-out pictures", "mean 31.2, p5 26.7, min 25.2 dB",
        f"mean {db.mean():.1f}, p5 {np.percentile(db, 5):.1f}, min {db.min():.1f} dB",
    )  # fmt: skip
    ours, true = scene_scores(paint, SCENES, first_seed)

    def scene_row(what: str, prototype: str, name: str) -> None:
        row(f"{what} (rule on true pictures {100 * getattr(true, name).value:.1f} %)", prototype, getattr(ours, name))

    scene_row("time of day", "100 % of 48", "time")
    scene_row("land, six of them", "100 % of 40 (four lands)", "land")
    scene_row("colour of the thing, any kind, land and time", "not measured", "color")
    scene_row("kind of thing", "55 % by rule, about 97 % by eye", "kind")
    scene_row("left / middle / right", "33 % (not learned)", "position")
    scene_row("big / small", "not measured", "size")
    scene_row("a thing is there", "not measured", "found")
    scene_row("no second thing", "about 67 % by eye", "no_extra_thing")
    scene_row("sun or moon there if and only if asked", "not measured", "sky")
    scene_row("no sun or moon too many", "about 67 % by eye", "no_extra_light")

    time_pictures = paint([Drawing(when, first_seed + i) for when in TIMES for i in range(n(16))])
    per = len(time_pictures) // 3
    for k, (when, was) in enumerate(zip(TIMES, ("138.7/142.8/146.2", "88.6/92.5/96.7", "19.2/22.6/24.7"))):
        top = [rules.top_luminance(p) for p in time_pictures[k * per : (k + 1) * per]]
        row(f"luminance of the top 16 rows, prompt \"{when}\", min/mean/max", was,
            f"{min(top):.1f}/{np.mean(top):.1f}/{max(top):.1f}")  # fmt: skip
    row("time of day, prompt of one word", "100 % of 48", share(
        [rules.scene_of(p)[0] == TIMES[i // per] for i, p in enumerate(time_pictures)]
    ))  # fmt: skip
    row("house colour, ten colours", "72/72 = 100 % (nine colours)", house_colors(paint, n(10), first_seed))
    for cfg, was in ((1.0, 65), (3.0, 95), (7.5, 100), (10.0, 100)):
        row(f"house colour at CFG {cfg:g}", f"{was} %", house_colors(paint, n(4), first_seed, cfg=cfg))
    for steps in (6, 10):
        row(f"house colour at {steps} steps", "100 %", house_colors(paint, n(4), first_seed, steps=steps))
    row(
        "house colour at 6 steps, even steps in time",
        "100 % (schedule not noted)",
        house_colors(paint, n(4), first_seed, steps=6, even=True),
    )
    row(
        "house colour at 6 steps, Euler",
        "not measured",
        house_colors(paint, n(4), first_seed, steps=6, sampler="Euler"),
    )
    drawn_two, true_two = two_things(paint, PAIRS, first_seed)
    for what, name, was in (
        ("two things, each its own colour", "color", "not measured"),
        ("two things, each its own kind", "kind", "not measured"),
        ("two things: number, places, colours, kinds", "all", "not measured"),
    ):
        row(
            f"{what} (rule on true pictures {100 * getattr(true_two, name).value:.1f} %)", was, getattr(drawn_two, name)
        )
    silent = silent_pairs(paint, PAIRS, first_seed)
    row("two things without places, named from left to right: each its own colour", "not measured", silent.color)
    row("the same: number, order, colours, kinds", "not measured", silent.all)
    kinds = [(kind, i) for kind in KINDS for i in range(n(16))]
    kind_pictures = paint([Drawing(f"a red {kind} in the snow, day", first_seed + i) for kind, i in kinds])
    seen = [rules.things(p, "day", "snow") for p in kind_pictures]
    row("kind, \"a red {kind} in the snow, day\"", "55 % by rule, 41-42 of 42 by eye", share(
        [
            bool(blobs) and rules.kind_and_size_of(picture, blobs[0], "day", "snow", "red")[0] == kind
            for picture, blobs, (kind, _) in zip(kind_pictures, seen, kinds)
        ]
    ))  # fmt: skip
    big = areas(paint, "a big red house, snow, day", n(24), first_seed)
    small = areas(paint, "a small red house, snow, day", n(24), first_seed)
    row("big beats small, same seed", "16/16; mean 1333 and 581 px",
        f"{share([a > b for a, b in zip(big, small)])}; mean {np.mean(big):.0f} and {np.mean(small):.0f}")  # fmt: skip
    for name in ("sun", "moon"):
        values = " / ".join(f"{100 * part.value:.0f}" for part in lights(paint, name, n(32), first_seed))
        row(f"{name}: asked / not mentioned / negative", "92 / 8 / 0 %", f"{values} %")
    stars = [
        np.mean([rules.star_share(p) for p in paint([Drawing(text, first_seed + i, no) for i in range(n(16))])])
        for text, no in (("green hills, night, stars", ""), ("green hills, night", "stars"))
    ]
    row("stars: bright share of the sky, asked / negative", "0.0156 / 0.0000", f"{stars[0]:.4f} / {stars[1]:.4f}")
    house = "a house, snow, day"
    row("negative \"red house\" on \"a house, snow, day\": red share", "0.00102 -> 0.00005", " -> ".join(
        f"{color_shares(paint, house, n(24), first_seed, negative=negative)[0]:.5f}" for negative in ("", "red house")
    ))  # fmt: skip
    ladder = [color_shares(paint, f"a (red:{w}) house, snow, day", n(16), first_seed)[0] for w in (0, 0.5, 1, 1.4, 1.8)]
    row("\"(red:w)\", w = 0, 0.5, 1, 1.4, 1.8: red share", "0.0134 0.0183 0.0390 0.0457 0.0584",
        " ".join(f"{value:.4f}" for value in ladder))  # fmt: skip
    conflict = [
        color_shares(paint, prompt, n(16), first_seed, ("red", "blue"))
        for prompt in ("a big red blue house, snow, day", "a big (red:1.4) blue house, snow, day",
                       "a big (red:.6) (blue:1.4) house, snow, day")
    ]  # fmt: skip
    row("\"red blue house\": red/blue share; with (red:1.4); with (red:.6) (blue:1.4)",
        "0.049/0.031; 0.101/0.0015; -/0.061", "; ".join(f"{r:.4f}/{b:.4f}" for r, b in conflict))  # fmt: skip
    climbing = 0
    for each in LADDERS:
        values = climb(paint, each, n(16), first_seed)
        climbing += climbs(values)
        row(f"emphasis, w = {', '.join(f'{w:g}' for w in RUNGS)}; {each.what}", "not measured",
            " ".join(f"{value:.3f}" if value < 10 else f"{value:.0f}" for value in values))  # fmt: skip
    row("attributes whose weight moves them, monotone", "not measured", f"{climbing} of {len(LADDERS)}")
    row(f'"{EXAMPLES[0]}": all of it, nothing else', "not measured", demo(paint, n(32), first_seed))
    row("unknown words change nothing", "4/4", unknown_words(paint, n(24), first_seed))
    return rows


# --- the card ---------------------------------------------------------------------------------------------------------

EXAMPLES = (
    "a red house on green hills, night, moon",
    "a big yellow boat on the left, sea, sunset, sun",
    "a small black cat in the snow, night, moon, stars",
    "a purple balloon in the middle, mountains, day, birds",
    "a green cactus on the right in the desert, sunset, sun",
    "a pink tree in a meadow, day, sun, clouds",
    "a blue car on the left in the desert, day",
    "a white house by the sea, night, stars",
    "a big orange cat on the right in a meadow, day",
    "a red boat on the right by the sea, night, moon, stars",
    "snowy mountains, sunset, sun, birds",
    "a red house on the left and a green tree on the right, hills, day, sun",
)


LIMITS = (
    "Its limits: of two things one is now and then drawn as another kind; small ones melt at times, and 6 steps of",
    "DPM++ 2M on Karras's schedule are too few. A thing whose size is not said may come out big or small. Other sizes",
    "than 128 x 128 were not learned.",
)
"""Sentences of the card on what comes out wrong."""


def sheet_prompts(count: int) -> list[str]:
    """The prompts of the contact sheet: the first held-out scenes, none picked."""
    rng = random.Random(0)
    scenes = [random_scene(4, HELD_OUT + i) for i in range(count)]
    texts = [full_prompt(scene, rng) if i % 2 else caption(scene, rng) for i, scene in enumerate(scenes)]
    return [text or full_prompt(scene, rng) for text, scene in zip(texts, scenes)]


def write_card(
    path: Path,
    autoencoder: AutoencoderRecipe,
    denoiser: DenoiserRecipe,
    refine: RefineRecipe,
    curves: Mapping[str, Sequence[Sequence[float]]],
    scale: float = 1.0,
    log: Callable[[str], None] = print,
) -> None:
    """Measure the exported file and write `postcards.md` and `postcards.sheet.jpg` beside it."""
    model = load(path)
    prompts = [*EXAMPLES, *sheet_prompts(28)]
    drawn = draw(model, [Drawing(prompt, seed) for seed, prompt in enumerate(prompts)])
    Image.fromarray(contact_sheet(drawn, columns=8, gap=4)).save(path.with_suffix(".sheet.jpg"), quality=92)
    began = time.monotonic()
    draw(model, [Drawing(EXAMPLES[0], 1)])
    seconds = time.monotonic() - began
    rows = table(model, scale, log=log)
    with safe_open(str(path), "pt") as file:
        header = dict(file.metadata())
    recipes = {"autoencoder": autoencoder, "denoiser": denoiser, "refine": refine}
    before = path.with_suffix(".md").read_text("utf-8").splitlines() if path.with_suffix(".md").exists() else []
    making = [line for name, recipe in recipes.items() for line in made(name, recipe, curves.get(name), before)]
    path.with_suffix(".md").write_text(card(rows, header, making, seconds), "utf-8")


def made(name: str, recipe: Any, curve: Sequence[Sequence[float]] | None, before: Sequence[str]) -> list[str]:
    """Two lines of a card about one training; without a loss curve, what the card said `before`."""
    if curve is None:
        return [line for line in before if line.startswith((f"- {name}: ", f"- {name} loss"))]
    chosen = [curve[i] for i in sorted({*range(0, len(curve), max(1, len(curve) // 12)), len(curve) - 1})]
    points = ", ".join(f"{int(step)}: {loss:.4f}" for step, loss in chosen)
    numbers = ", ".join(f"{key} {value}" for key, value in recipe.__dict__.items())
    return [f"- {name}: {numbers}", f"- {name} loss by step: {points}"]


def card(rows: Sequence[Row], header: Mapping[str, str], making: Sequence[str], seconds: float) -> str:
    """The model card as Markdown. `making`: lines about the trainings."""
    lines = [
        "# Postcards",
        "",
        f"{header['modelspec.description']} Licence: CC0-1.0, give it away.",
        "",
        "![forty drawings, not picked](postcards.sheet.jpg)",
        "",
        "Forty prompts with seeds 0 to 39, none picked; the first twelve are the examples below.",
        "",
        "## What you can ask for",
        "",
        f"- one thing, or two: {', '.join(KINDS)}",
        f"- in a colour: {', '.join(COLORS)}; {' or '.join(SIZES)} (also large, huge, little, tiny)",
        f'- {", ".join(POSITIONS)}: "on the left", "in the middle", "on the right"',
        f"- a land: {', '.join(LANDS)}; a time of day: {', '.join(TIMES)}",
        "- in the sky: sun (day, sunset), moon and stars (night), clouds, birds (day, sunset)",
        "",
        "Sentences and tags both work, commas part them. What is not mentioned of the sky stays away. A word it does",
        "not know changes next to nothing. Draw at 128 x 128, CFG 3 to 8, 10 steps or more. Negative prompts and",
        "`(word:1.4)` work.",
        "",
        *LIMITS,
        "",
        "Examples:",
        "",
        *(f"- {prompt}" for prompt in EXAMPLES),
        "",
        "## Measured",
        "",
        "DPM++ 2M, Karras, 20 steps, CFG 5, 128 x 128, seeds from 1000 on, read by the pixel rules of",
        "`modules/training/rules.py`; each rule was first checked on true pictures. Beside it the 46-minute prototype.",
        "",
        "| what | prototype | this file |",
        "|---|---|---|",
        *(f"| {row.what} | {row.prototype} | {row.ours} |" for row in rows),
        "",
        f"One picture, 20 steps, batch 1, one thread of the training machine: {seconds:.2f} s.",
        "",
        "## How it was made",
        "",
        "`python -m modules.training.postcards` draws 12 000 scenes, trains the autoencoder on them, then denoiser and",
        "text encoder together on their latents and fresh captions (`denoiser`), then both further on pictures of",
        "which half show two things (`refine`), exports and measures. See docs/postcards.md. The numbers below are",
        "what this file's runs did, changes on the way included: `blind` samples, `prime_at` and `middle_from` came in",
        "when left and right were still unlearned; steps up to a change were drawn by the code of that time. It was",
        "refined more than once: the last training (`refine` below) went on from the file with SHA-256",
        f"{header.get('easel.refined_from_sha256', '(none)')}, whose own refinement the card",
        "of that file tells, an earlier version of this one.",
        "",
        f"- recipe sha256 {header['easel.recipe_sha256']}, {header['modelspec.date']}",
        f"- torch {torch.__version__}, transformers {transformers.__version__}, safetensors {safetensors.__version__}",
        *making,
        "",
    ]
    return "\n".join(lines)
