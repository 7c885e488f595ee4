"""Passes: a plan's runs of a sampler. Every picture takes one, with hires fix a second over what came of the first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modules.nets.hypertile import Tiling
from modules.pipeline import control, depth, inversion, latents, networks, text
from modules.pipeline.context import BrokenOff, RunContext, Skipped
from modules.pipeline.denoiser import Denoiser, Guiding, Handover, noise_levels
from modules.pipeline.hooks import Batch
from modules.pipeline.latents import Start
from modules.pipeline.models import Models
from modules.pipeline.progress import Meter
from modules.pipeline.source import Prepared
from modules.pipeline.text import PictureConditioning
from modules.sampling import noise, samplers, schedules, table
from modules.schema.errors import Cancelled, NotANumber
from modules.schema.plan import Plan, SecondPass
from modules.schema.request import Inversion
from modules.weights.residency import LoadedModel


@dataclass(frozen=True)
class Pass:
    """One run. `strength` is None for a picture out of nothing. `prompts` have an entry for every picture of the job.

    `exact`: all `steps` are run, whatever the strength, where otherwise it is their share. `second`: that of hires fix.
    """

    sampler: str
    scheduler: str
    steps: int
    size: tuple[int, int]
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    merging: float
    strength: float | None = None
    exact: bool = False
    second: bool = False
    first_calls: int | None = None

    @property
    def calls(self) -> int:
        """Model calls that the prompt's schedule is spread over; `first_calls` are those of the pass before."""
        return self.steps * table.find_sampler(self.sampler)[0].order

    @property
    def steps_run(self) -> int:
        if self.strength is None:
            return self.steps
        return schedules.img2img_steps(self.steps, self.strength, exact=self.exact, forced=self.second)[1] + 1


def first_pass(plan: Plan) -> Pass:
    request, drawing = plan.request, plan.settings.drawing
    source = request.source
    return Pass(
        plan.sampler, plan.scheduler, request.steps, (request.width, request.height), plan.prompts,
        plan.negative_prompts, merging_ratio(plan), source.denoising_strength if source else None,
        exact=drawing.img2img_fix_steps,
    )  # fmt: skip


def passes(plan: Plan) -> list[Pass]:
    """All passes of a plan, in order."""
    first = first_pass(plan)
    return [first] if plan.second is None else [first, second_pass(plan, plan.second, first)]


def run_of(plan: Plan) -> list[Pass]:
    """The passes that are drawn: a finished picture may stand for the first."""
    known = plan.request.hires is not None and plan.request.hires.first_picture is not None
    return passes(plan)[1:] if known else passes(plan)


def second_pass(plan: Plan, own: SecondPass, first: Pass) -> Pass:
    ratio = plan.settings.drawing.token_merging_ratio_hr or first.merging
    return Pass(
        own.sampler, own.scheduler, own.steps, own.size, own.prompts, own.negative_prompts, ratio,
        plan.denoising_strength, second=True, first_calls=first.calls,
    )  # fmt: skip


def merging_ratio(plan: Plan) -> float:
    """Token merging of the first pass; img2img may have its own."""
    drawing, override = plan.settings.drawing, plan.request.override_settings
    if plan.request.source is None or "token_merging_ratio" in override:
        return drawing.token_merging_ratio
    return drawing.token_merging_ratio_img2img or drawing.token_merging_ratio


def tiling_of(plan: Plan, run: Pass) -> Tiling | None:
    """Hypertile's; a second pass may have it alone."""
    own = plan.settings.drawing
    if not own.hypertile_enable_unet and not (run.second and own.hypertile_enable_unet_secondpass):
        return None
    return Tiling(max(1, own.hypertile_max_tile_unet // 8), own.hypertile_max_depth_unet, own.hypertile_swap_size_unet)


def sample(
    plan: Plan, run: Pass, batch: range, models: Models, ctx: RunContext, meter: Meter,
    start: Start | None = None, extra: Tensor | None = None, units: control.Control | None = None,
) -> Tensor:  # fmt: skip
    """The latents of one batch [B, C, h, w], denoised: out of nothing, or out of `start`.

    `extra` [B, C', h, w] is what the net wants besides (`latents.net_input`), `units` those of ControlNet.

    Raises NotANumber, and BrokenOff where it was stopped after its first step.
    """
    request, options, model = plan.request, plan.settings.sampling, models.current
    meter.size = run.size
    sampler, schedule = table.normalise(run.sampler, run.scheduler)
    levels = noise_levels(model, options)
    walk = schedules.plan_walk(
        sampler, schedule, run.steps, levels, options,
        sdxl=bool(model.facts.vector), strength=run.strength, exact=run.exact, forced=run.second,
    )  # fmt: skip
    source = noise.BatchNoise(
        noise.picture_noises(
            [plan.seeds[k] for k in batch], [plan.subseeds[k] for k in batch], request.subseed_strength,
            (request.seed_resize_from_h, request.seed_resize_from_w), options.eta_noise_seed_delta,
        ),
        latents.shape(model, *run.size),
        source=options.randn_source, device=model.device, brownian=walk.brownian, down=model.vae.config.downscale,
        shared_path=options.no_dpmpp_sde_batch_determinism,
    )  # fmt: skip

    if model.facts.concat == "depth":
        extra = depth.shown(plan, batch, latents.shape(model, *run.size)[1:], ctx).to(model.device)
    uses = networks.uses_of(run.prompts[batch.start], plan.networks)
    cast = networks.Cast(uses, run.calls, sampler.order, ctx.warn, run.first_calls)

    def condition(model: LoadedModel) -> list[PictureConditioning]:
        words = networks.words_in([t for k in batch for t in (run.prompts[k], run.negative_prompts[k])], model, ctx)
        return [
            text.condition(
                model, run.prompts[k], run.negative_prompts[k], run.calls, plan.settings, run.size, ctx.conditionings,
                words.embeddings, run.first_calls,
            )
            for k in batch
        ]  # fmt: skip

    denoiser = Denoiser(
        models,
        levels,
        lambda model: cast.conditioned(model, condition),
        guiding_of(plan, model, sampler),
        options,
        run.steps_run * sampler.order,
        start=start if start and start.new is not None else None,
        extra=extra,
        wants_uncond=sampler.wants_uncond,
        timesteps=sampler.variance_preserving,
        lcm=sampler.lcm,
        handover=handover_of(plan, run),
        merging=run.merging,
        deep_interval=plan.settings.drawing.deep_cache_interval,
        first_block=plan.settings.drawing.first_block_cache_threshold,
        tiling=tiling_of(plan, run),
        pictures_per_call=models.policy.pictures_per_call,
        enter=cast.enter,
        shows=plan.settings.preview.live_preview_content,
        control=units,
    )
    if start is not None and not torch.isfinite(start.latents).all():
        raise NotANumber(
            "The autoencoder made numbers that are not finite out of the source picture; set Precision of the VAE to "
            "float32 in the settings."
        )
    asked = request.source.inversion if request.source and not run.second else None
    if start is not None and asked is not None:
        found = _found(plan, asked, batch, models, denoiser, start, ctx, meter)
        # The picture itself is not kept beneath this noise.
        first = inversion.mixed(found, source.initial, asked) - start.latents / float(levels.table[-1])
        x = walk.from_picture(start.latents, first, extra_noise=plan.settings.drawing.img2img_extra_noise)
    elif start is None:
        x = walk.from_noise(source.initial, sgm_noise_multiplier=options.sgm_noise_multiplier)
    else:
        first = source.initial if run.second else source.initial * noise_multiplier(plan)
        x = walk.from_picture(start.latents, first, extra_noise=plan.settings.drawing.img2img_extra_noise)

    hooks, about = ctx.hooks, Batch(plan, batch, run.size, run.second)
    denoise = hooks.wrapped(denoiser, about, sampler.cfg_factor) if hooks else denoiser

    def on_step(step: int, _x: Tensor, denoised: Tensor, sigma: float) -> None:
        try:
            meter.step(step, models.current, denoised, denoiser.shown)
        except (Cancelled, Skipped) as stop:
            latents = denoised if start is None else start.finished(denoised)
            raise BrokenOff(latents, run.size, stop, start) from stop
        if hooks:
            hooks.on_step(step, denoised, sigma, about)

    drawn = samplers.sample(sampler, denoise, x, walk.sigmas, source, on_step, options, levels)
    if models.current.policy.check_numbers and not torch.isfinite(drawn).all():
        raise NotANumber(
            "The denoiser produced numbers that are not finite; the checkpoint may be damaged or need float32: "
            "set Precision to float32 in the settings."
        )
    if hooks:
        drawn = hooks.after_sampling(drawn, about)
    return drawn if start is None else start.finished(drawn)


def _found(
    plan: Plan, asked: Inversion, batch: range, models: Models, like: Denoiser, start: Start, ctx: RunContext,
    meter: Meter,
) -> Tensor:  # fmt: skip
    """The noise [B, C, h, w] that the source of a batch would have come from, by the prompt asked for."""
    size = plan.request.width, plan.request.height

    def condition(model: LoadedModel) -> list[PictureConditioning]:
        words = networks.words_in([asked.prompt, asked.negative_prompt], model, ctx)
        known = text.condition(
            model, asked.prompt, asked.negative_prompt, asked.steps, plan.settings, size, ctx.conditionings,
            words.embeddings,
        )  # fmt: skip
        return [known for _ in batch]

    backwards = replace(
        like, condition=condition, guiding=Guiding(asked.cfg_scale), total=asked.steps, start=None, wants_uncond=False,
        timesteps=False, lcm=False, handover=None, control=None, calls=0,
    )  # fmt: skip
    sigmas = inversion.rising(asked.steps, like.levels)
    meter.say("Finding the noise")
    found = inversion.found_noise(
        backwards, start.latents, sigmas, asked.sigma_adjustment,
        lambda step, denoised: meter.step(step, models.current, denoised),
    )  # fmt: skip
    meter.start_pass("Drawing", asked.steps)
    return found


def controls_of(
    plan: Plan, run: Pass, batch: range, prepared: Prepared | None, maps: control.Maps
) -> control.Control | None:
    """The units of ControlNet that take part in this pass."""
    order = table.find_sampler(run.sampler)[0].order
    return control.of_pass(
        plan, batch, run.size, run.steps_run, order, run.second, prepared, maps, tiling(plan)
    )  # fmt: skip


def tiling(plan: Plan) -> tuple[bool, bool]:
    """Whether the picture's opposite edges meet: left and right, top and bottom."""
    drawing = plan.settings.drawing
    return drawing.tiling and drawing.tiling_axes != "y", drawing.tiling and drawing.tiling_axes != "x"


def noise_multiplier(plan: Plan) -> float:
    """Of the noise that a source picture is drowned in."""
    source = plan.request.source
    asked = source.initial_noise_multiplier if source else None
    return plan.settings.drawing.initial_noise_multiplier if asked is None else asked


def guiding_of(plan: Plan, model: LoadedModel, sampler: table.Sampler) -> Guiding:
    source = plan.request.source
    image_scale = source.image_cfg_scale if source and model.facts.concat == "edit" else None
    return Guiding(
        plan.request.cfg_scale * sampler.cfg_factor,
        None if image_scale == 1 else image_scale,  # then there is nothing to tell apart
        plan.request.cfg_rescale,
    )


def handover_of(plan: Plan, run: Pass) -> Handover | None:
    """Whether a refiner takes part in this pass."""
    drawing, refiner = plan.settings.drawing, plan.request.refiner
    if refiner is None or plan.refiner is None:
        return None
    if plan.request.hires is not None:
        wanted = drawing.hires_fix_refiner_pass
        if wanted != "both passes" and (wanted == "second pass") != run.second:
            return None
    return Handover(plan.refiner, refiner.refiner_switch_at, drawing.refiner_switch_by_sample_steps)
