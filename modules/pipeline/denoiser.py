"""A loaded net as the samplers see it: (x, sigma) -> denoised, with conditioning, guidance and masks inside.

Each picture's rows go through the net by themselves unless the policy asks for several pictures a call: a net's result
for one row depends, in its last bits, on how many rows share the call, and picture k of a batch has to equal that
seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.nets.hypertile import Tiling
from modules.nets.unet import Cache, Deep, FirstBlock, Prompted, Residuals
from modules.pipeline.control import Control
from modules.pipeline.latents import Start
from modules.pipeline.models import Models
from modules.pipeline.text import Encoding, PictureConditioning
from modules.sampling import guidance, prediction
from modules.sampling.prediction import EDMSchedule, NoiseLevels, NoiseSchedule
from modules.schema.errors import BadRequest
from modules.schema.record import CheckpointView
from modules.schema.settings import Sampling
from modules.weights.adapters.apply import Outcome
from modules.weights.residency import LoadedModel


def noise_levels(model: LoadedModel, options: Sampling) -> NoiseLevels:
    """The noise levels a model was taught at, on its device; the owner's choices hold for discrete ones."""
    facts = model.facts
    if facts.sigma_range is not None:
        return EDMSchedule.of(*facts.sigma_range).to(model.device)
    return NoiseSchedule.stable_diffusion(
        zero_snr=facts.zero_snr or options.sd_noise_schedule == "Zero Terminal SNR",
        downcast=options.use_downcasted_alpha_bar,
        quantize=options.enable_quantization,
        betas=prediction.scaled_linear_betas(*facts.betas),
    ).to(model.device)


MOST_HEARD = 16
"""Combinations of prompts whose keys and values are kept."""
Conditioner = Callable[[LoadedModel], list[PictureConditioning]]


@dataclass(frozen=True)
class Guiding:
    """How predictions with and without the prompt become one. `image_scale`: of a model taught to edit pictures."""

    cfg_scale: float
    image_scale: float | None = None
    rescale: float = 0.0


@dataclass(frozen=True)
class Handover:
    """Another checkpoint goes on from the first call at which the share `at` of the way is done.

    The way is counted in timesteps, or in calls where `by_steps` says so, as before A1111's 1.8.
    """

    checkpoint: CheckpointView
    at: float
    by_steps: bool = False

    def due(self, call: int, total: int, sigma: Tensor, levels: NoiseLevels) -> bool:
        if self.by_steps:
            return call / max(total, 1) >= self.at
        nearest = int((levels.table.to(sigma) - sigma.max()).abs().argmin())
        return (len(levels.table) - 1 - nearest) / len(levels.table) >= self.at


class _Row(NamedTuple):
    """One row of a call of the net: which picture, which of its rows, its text, whether it sees the picture to edit,
    and whether it is the negative prompt's."""

    picture: int
    number: int
    text: Encoding
    sees_picture: bool = True
    negative: bool = False


@dataclass
class Denoiser:
    """`calls` counts evaluations so far (prompt schedules follow it); `total` is how many are expected.

    `start`: the picture to start from with its mask, `extra` [B, C', h, w] what the net wants besides x.
    `timesteps`: the sampler thinks in timesteps: so does the limit below which the negative prompt is left out, and
    the kept part of an inpainted picture goes into x instead of into the prediction. `enter` is told before each call
    which it is, and gives the model the strengths its networks have then. `deep_interval`, `first_block`: see `_cache`.
    `control`: what further nets have to say (ControlNet).
    `shows`: whose guess `shown` [B, C, h, w] holds after a call: "Prompt" or "Negative prompt"; with "Combined" None.
    """

    models: Models
    levels: NoiseLevels
    condition: Conditioner
    guiding: Guiding
    options: Sampling
    total: int
    start: Start | None = None
    extra: Tensor | None = None
    wants_uncond: bool = False
    timesteps: bool = False
    lcm: bool = False
    handover: Handover | None = None
    merging: float = 0.0
    deep_interval: int = 1
    first_block: float = 0.0
    tiling: Tiling | None = None
    pictures_per_call: int = 1
    shows: str = "Combined"
    control: Control | None = None
    enter: Callable[[LoadedModel, int], None] = lambda model, call: None
    calls: int = field(default=0)
    shown: Tensor | None = field(default=None, init=False)
    _numbers: dict[tuple[int, ...], Tensor] = field(default_factory=dict, init=False)
    _heard: dict[tuple[int, ...], tuple[tuple[Encoding, ...], Prompted, Tensor | None]] = field(
        default_factory=dict, init=False
    )
    _heard_with: Outcome | None = field(default=None, init=False)
    _caches: dict[tuple, tuple[tuple[Encoding, ...], Cache]] = field(default_factory=dict, init=False)
    _acting: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._meet(self.models.current)

    def _meet(self, model: LoadedModel) -> None:
        """Read the prompts, and learn what is predicted, by a model."""
        if model.facts.concat and self.extra is None:
            raise BadRequest(
                f"{model.checkpoint.name} is {model.facts.label} and cannot go on from another model's picture; "
                "choose a refiner that wants nothing beside it.",
                field="refiner",
            )
        self._heard.clear()
        self._caches.clear()
        predictor = prediction.Predictor(prediction.find_prediction(model.prediction), self.levels)
        self.predictor = predictor.lcm() if self.lcm else predictor
        self.pictures = self.condition(model)
        if self.control is not None:
            self.control.meet(model)

    def __call__(self, x: Tensor, sigma: Tensor) -> Any:
        """x [B, C, h, w], sigma [B] -> denoised [B, C, h, w], guided; with `wants_uncond` (guided, unconditional)."""
        if self.handover and self.handover.due(self.calls, self.total, sigma, self.levels):
            self._meet(self.models.use(self.handover.checkpoint))
            self.handover = None
        self.enter(self.models.current, self.calls)
        if self.control is not None and (acting := self.control.active(self.calls)) != self._acting:
            self._caches.clear()  # they hold what others had a say in
            self._acting = acting
        seen = x
        into_x = self.start is not None and self.timesteps and self.start.soft is None
        if self.start is not None and into_x:
            # These samplers hold x / sqrt(1 + sigma^2), and the kept part is put into that.
            seen = self.start.keep(x, ((1 + sigma**2) ** 0.5).view(-1, 1, 1, 1))
        with_negative = self.wants_uncond or not self._skips_negative(sigma)
        shows = self.shows == "Prompt" or (self.shows == "Negative prompt" and with_negative)
        self.shown = torch.empty_like(x) if shows else None
        guided = torch.empty_like(x)
        unguided = torch.empty_like(x) if self.wants_uncond else None
        together = 1 if self.first_block else self.pictures_per_call  # each picture is compared with itself alone
        for begin in range(0, x.shape[0], together):
            pictures = range(begin, min(begin + together, x.shape[0]))
            self._guide(seen, sigma, pictures, with_negative, guided, unguided)
        self.calls += 1
        if self.start is not None:
            # The noise found in `seen` is what the sampler takes out of its own x.
            guided = guided + (x - seen) if into_x else self.start.blended(guided, sigma)
            if unguided is not None:
                unguided = unguided + (x - seen)
            if self.shown is not None and not into_x:
                self.shown = self.start.blended(self.shown, sigma)
        return guided if unguided is None else (guided, unguided)

    def _skips_negative(self, sigma: Tensor) -> bool:
        level = 0.0
        if self.options.s_min_uncond > 0:  # reading the level makes the device wait, so only then
            level = float(self.predictor.levels.sigma_to_t(sigma[:1]) if self.timesteps else sigma[0])
        return guidance.skips_negative(self.calls, self.total, level, self.options)

    def _guide(
        self,
        x: Tensor,
        sigma: Tensor,
        pictures: range,
        with_negative: bool,
        guided: Tensor,
        unguided: Tensor | None,
    ) -> None:
        """Fill `guided` (and `unguided`) for some pictures: as few net calls as token counts allow."""
        three_way = with_negative and self.guiding.image_scale is not None
        rows: list[_Row] = []
        for k in pictures:
            parts, negative = self.pictures[k].at(self.calls)
            rows += [_Row(k, number, part) for number, part in enumerate(parts)]
            if with_negative:
                rows.append(_Row(k, len(parts), negative, negative=True))
            if three_way:
                rows.append(_Row(k, len(parts), negative, sees_picture=False, negative=True))
        denoised: dict[int, Tensor] = {}
        for length in dict.fromkeys(row.text.tokens.shape[0] for row in rows):
            chosen = [i for i, row in enumerate(rows) if row.text.tokens.shape[0] == length]
            together = 1 if self.models.current.policy.split_guidance else len(chosen)
            for begin in range(0, len(chosen), together):
                some = chosen[begin : begin + together]
                denoised.update(zip(some, self._predict(x, sigma, [rows[i] for i in some])))
        position = 0
        for k in pictures:
            weights = [weight for _, weight in self.pictures[k].parts]
            parts = [denoised[position + i] for i in range(len(weights))]
            position += len(weights)
            if self.shown is not None and self.shows == "Prompt":
                self.shown[k] = parts[0]
            if not with_negative:
                guided[k] = parts[0]
                continue
            negative = denoised[position]
            if self.shown is not None and self.shows == "Negative prompt":
                self.shown[k] = negative
            blind = denoised[position + 1] if three_way else None
            guided[k] = self._combine(parts, weights, negative, blind, x[k], sigma[k])
            if unguided is not None:
                unguided[k] = negative
            position += 2 if three_way else 1

    def _combine(
        self,
        parts: list[Tensor],
        weights: list[float],
        negative: Tensor,
        blind: Tensor | None,
        x: Tensor,
        sigma: Tensor,
    ) -> Tensor:
        """One picture's predictions as one, [C, h, w] each. `blind`: without text and without the picture."""
        scale, image_scale, rescale = self.guiding.cfg_scale, self.guiding.image_scale, self.guiding.rescale
        if blind is not None and image_scale is not None:
            guided = guidance.three_way(parts[0], negative, blind, scale, image_scale)
        else:
            guided = guidance.combine(parts, weights, negative, scale)
        if not rescale:
            return guided
        prompted = guidance.combine(parts, weights, negative, 1.0)
        return guidance.rescale(guided, prompted, x, sigma.double(), rescale)

    def _predict(self, x: Tensor, sigma: Tensor, rows: list[_Row]) -> Tensor:
        """One call of the net for rows of equal text length -> denoised [R, C, h, w]."""
        model = self.models.current
        dtype, device = model.policy.denoiser_dtype, model.device
        of_picture = self._places(tuple(row.picture for row in rows), x.device)
        x, sigma = x[of_picture], sigma[of_picture]
        scaled, timesteps = self.predictor.inputs(x, sigma)
        plain = scaled
        if self.extra is not None and model.facts.concat:  # a refiner may want none of it
            extra = self.extra[of_picture]
            unseen = tuple(i for i, row in enumerate(rows) if not row.sees_picture)
            if unseen:
                extra.index_fill_(0, self._places(unseen, extra.device), 0)
            scaled = torch.cat([scaled, extra.to(scaled)], dim=1)
        context, y = self._said(model, rows, device, dtype)
        cache = self._cache(rows)
        control: Residuals | None = None
        if self.control is not None:
            pictures, negative = [row.picture for row in rows], [row.negative for row in rows]
            control = self.control.residuals(
                self.calls, pictures, negative, plain.to(dtype), timesteps, context, y
            )  # fmt: skip
        out = model.call(
            scaled.to(dtype), timesteps, context, y, model.networks.outcome.context_map, self.merging, cache,
            self.tiling, control,
        )  # fmt: skip
        return self.predictor.denoised(x, out.to(x.dtype), sigma)

    def _places(self, numbers: tuple[int, ...], device: torch.device) -> Tensor:
        """Numbers on a device: brought there once, since a card would be waited for each time."""
        if numbers not in self._numbers:
            self._numbers[numbers] = torch.tensor(numbers, device=device)
        return self._numbers[numbers]

    def _said(
        self, model: LoadedModel, rows: list[_Row], device: torch.device, dtype: torch.dtype
    ) -> tuple[Prompted, Tensor | None]:
        """What rows say, as the net takes it: made once for as long as they say it and the networks stay the same."""
        if self._heard_with is not model.networks.outcome:
            self._heard.clear()
            self._caches.clear()
            self._heard_with = model.networks.outcome
        texts = tuple(row.text for row in rows)
        key = tuple(map(id, texts))
        if key not in self._heard:
            while len(self._heard) >= MOST_HEARD:
                del self._heard[next(iter(self._heard))]
            context = Prompted(torch.stack([text.tokens for text in texts]).to(device, dtype))
            vectors = [text.vector for text in texts if text.vector is not None]
            y = torch.stack(vectors).to(device, dtype) if model.facts.vector else None
            self._heard[key] = texts, context, y
        return self._heard[key][1:]

    def _cache(self, rows: list[_Row]) -> Cache | None:
        """What this call may leave out: with `deep_interval` the deep part, but in every so many-th call; with
        `first_block`, which wins, all that follows the first blocks where these have changed by less than that share.

        Rows have their own; first blocks are compared only as long as rows say the same.
        """
        if self.deep_interval <= 1 and not self.first_block:
            return None
        key = tuple((row.picture, row.number, row.sees_picture) for row in rows)
        texts = tuple(row.text for row in rows)
        said, cache = self._caches.get(key, ((), None))
        if cache is None or (self.first_block and any(a is not b for a, b in zip(said, texts))):
            cache = FirstBlock(self.first_block) if self.first_block else Deep()
            self._caches[key] = texts, cache
        if isinstance(cache, Deep):
            cache.fresh = self.calls % self.deep_interval == 0
        return cache
