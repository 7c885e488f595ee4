"""A loaded net as the samplers see it: (x, sigma) -> denoised, with conditioning and guidance inside.

Each picture's rows go through the net by themselves unless the policy asks for several pictures a call: a net's result
for one row depends, in its last bits, on how many rows share the call, and picture k of a batch has to equal that
seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modules.pipeline.text import PictureConditioning
from modules.sampling import guidance
from modules.sampling.prediction import Predictor
from modules.schema.settings import Sampling
from modules.weights.residency import LoadedModel


@dataclass
class Denoiser:
    """`calls` counts evaluations so far (prompt schedules follow it); `total` is how many are expected.

    `timesteps`: the sampler thinks in timesteps, and so does the limit below which the negative prompt is left out.
    """

    model: LoadedModel
    predictor: Predictor
    pictures: list[PictureConditioning]
    cfg_scale: float
    options: Sampling
    total: int
    wants_uncond: bool = False
    timesteps: bool = False
    pictures_per_call: int = 1
    calls: int = field(default=0)

    def __call__(self, x: Tensor, sigma: Tensor) -> Any:
        """x [B, C, h, w], sigma [B] -> denoised [B, C, h, w], guided; with `wants_uncond` (guided, unconditional)."""
        with_negative = self.wants_uncond or not self._skips_negative(sigma)
        guided = torch.empty_like(x)
        unguided = torch.empty_like(x) if self.wants_uncond else None
        for start in range(0, x.shape[0], self.pictures_per_call):
            pictures = range(start, min(start + self.pictures_per_call, x.shape[0]))
            self._guide(x, sigma, pictures, with_negative, guided, unguided)
        self.calls += 1
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
        rows: list[tuple[int, Tensor]] = []
        for k in pictures:
            parts, negative = self.pictures[k].at(self.calls)
            rows += [(k, tokens) for tokens in ([*parts, negative] if with_negative else parts)]
        denoised: dict[int, Tensor] = {}
        for length in dict.fromkeys(tokens.shape[0] for _, tokens in rows):
            chosen = [i for i, (_, tokens) in enumerate(rows) if tokens.shape[0] == length]
            of_picture = [rows[i][0] for i in chosen]
            context = torch.stack([rows[i][1] for i in chosen])
            denoised.update(zip(chosen, self._predict(x[of_picture], sigma[of_picture], context)))
        position = 0
        for k in pictures:
            weights = [weight for _, weight in self.pictures[k].parts]
            parts = [denoised[position + i] for i in range(len(weights))]
            position += len(weights)
            if not with_negative:
                guided[k] = parts[0]
                continue
            guided[k] = guidance.combine(parts, weights, denoised[position], self.cfg_scale)
            if unguided is not None:
                unguided[k] = denoised[position]
            position += 1

    def _predict(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """One call of the net: x [R, C, h, w], sigma [R], context [R, T, D] -> denoised [R, C, h, w]."""
        dtype, device = self.model.policy.denoiser_dtype, self.model.device
        scaled, timesteps = self.predictor.inputs(x, sigma)
        out = self.model.unet(scaled.to(dtype), timesteps, context.to(device, dtype))
        return self.predictor.denoised(x, out.to(x.dtype), sigma)
