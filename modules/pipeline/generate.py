"""The whole story of one request, from plan to saved pictures."""

from __future__ import annotations

import time
import uuid

import torch
from PIL import Image
from torch import Tensor

from modules.imaging.save import encode_png, save_picture
from modules.memory import budget, policy
from modules.pipeline import decode, text
from modules.pipeline.context import RunContext, Skipped
from modules.pipeline.denoiser import Denoiser
from modules.pipeline.plan import infotext_of, make_plan
from modules.pipeline.progress import Meter
from modules.prompt import styles, wildcards
from modules.sampling import noise, prediction, samplers, schedules, table
from modules.schema.errors import DiskTrouble, NotANumber
from modules.schema.events import ImageReady, Warned
from modules.schema.plan import Plan
from modules.schema.record import SavedRecord
from modules.schema.request import GenerationRequest
from modules.weights.residency import LoadedModel

FULL_SIZE_CHANNELS = 320  # of every published Stable Diffusion denoiser, at least


@torch.inference_mode()
def generate(request: GenerationRequest, ctx: RunContext) -> list[SavedRecord]:
    """Draw a request. Pictures are announced as they are finished; those of an interrupted job stay.

    Raises EaselError: BadRequest or NotFound while planning, BadFile while loading, Cancelled when interrupted.
    """
    known_styles, problems = styles.load_styles(ctx.folders.styles_files)
    places = wildcards.places(ctx.folders.wildcards, ctx.folders.data / "extensions")
    plan = make_plan(request, ctx.settings, ctx.catalogue, known_styles, wildcards.folder_lookup(*places))
    for message in (*(problems if request.styles else ()), *plan.warnings):
        ctx.emit(Warned(message=message))
    meter = Meter(ctx, plan)
    meter.say("Loading the model")
    chosen = policy.choose(ctx.facts, plan.settings)
    records: list[SavedRecord] = []
    with ctx.residency.lease(plan.checkpoint, chosen) as model:
        for message in (*model.warnings, *slowness(model)):
            ctx.emit(Warned(message=message))
        checkpoint = plan.checkpoint.model_copy(update={"sha256": model.sha256})
        plan = plan.model_copy(update={"checkpoint": checkpoint})
        budget.check_decode(ctx.facts, model.vae.config.ch, request.width, request.height, chosen.vae_dtype.itemsize)
        for number, batch in enumerate(plan.batches()):
            if ctx.control.finished.issuperset(batch):
                continue
            try:
                meter.start_batch(number)
                latents = sample(plan, batch, model, ctx, meter, chosen.pictures_per_call)
                for k, latent in zip(batch, latents):
                    meter.say("Decoding")
                    image = decode.decode(model, latent, (request.width, request.height))
                    records.append(publish(image, plan, k, ctx))
            except Skipped:
                continue
    return records


def sample(
    plan: Plan, batch: range, model: LoadedModel, ctx: RunContext, meter: Meter, pictures_per_call: int
) -> Tensor:
    """The latents of one batch [B, C, h, w], denoised."""
    request, options = plan.request, plan.settings.sampling
    sampler, schedule = table.normalise(plan.sampler, plan.scheduler)
    levels = prediction.NoiseSchedule.stable_diffusion(
        zero_snr=options.sd_noise_schedule == "Zero Terminal SNR",
        downcast=options.use_downcasted_alpha_bar,
        quantize=options.enable_quantization,
    ).to(model.device)
    walk = schedules.plan_walk(sampler, schedule, request.steps, levels, options)
    calls = request.steps * sampler.order
    conditionings = [
        text.condition(
            model, plan.prompts[k], plan.negative_prompts[k], calls,
            plan.settings.prompting, plan.settings.model.CLIP_stop_at_last_layers, ctx.conditionings,
        )
        for k in batch
    ]  # fmt: skip
    source = noise.BatchNoise(
        noise.picture_noises(
            [plan.seeds[k] for k in batch], [plan.subseeds[k] for k in batch], request.subseed_strength,
            (request.seed_resize_from_h, request.seed_resize_from_w), options.eta_noise_seed_delta,
        ),
        latent_shape(model, request.width, request.height),
        source=options.randn_source, device=model.device, brownian=walk.brownian, down=model.vae.config.downscale,
    )  # fmt: skip
    predictor = prediction.Predictor(prediction.find_prediction(model.prediction), levels)
    denoiser = Denoiser(
        model,
        predictor.lcm() if sampler.lcm else predictor,
        conditionings,
        request.cfg_scale * sampler.cfg_factor,
        options,
        calls,
        wants_uncond=sampler.wants_uncond,
        timesteps=sampler.variance_preserving,
        pictures_per_call=pictures_per_call,
    )
    x = walk.from_noise(source.initial, sgm_noise_multiplier=options.sgm_noise_multiplier)

    def on_step(step: int, _x: Tensor, denoised: Tensor, _sigma: float) -> None:
        meter.step(step, model, denoised)

    latents = samplers.sample(sampler, denoiser, x, walk.sigmas, source, on_step, options, levels)
    if not torch.isfinite(latents).all():
        raise NotANumber(
            "The denoiser produced numbers that are not finite; the checkpoint may be damaged or need float32: "
            "set Precision to float32 in the settings."
        )
    return latents


def latent_shape(model: LoadedModel, width: int, height: int) -> tuple[int, int, int]:
    """(channels, height, width) of the latent that holds a picture of this size; the picture is padded up to it."""
    grid = model.vae.config.downscale
    return (model.vae.config.embed_dim, -(-height // grid), -(-width // grid))


def slowness(model: LoadedModel) -> tuple[str, ...]:
    """What to say of a device that is slow for this model."""
    if model.device.type != "cpu" or model.unet.config.model_channels < FULL_SIZE_CHANNELS:
        return ()
    return ("No graphics card was found, so the processor draws; a full-size model takes minutes for each picture.",)


def publish(image: Image.Image, plan: Plan, k: int, ctx: RunContext) -> SavedRecord:
    """Save one picture and announce it; one that cannot be saved is handed over in memory, with the reason."""
    infotext = infotext_of(plan, k)
    path, problem, data = None, None, None
    if plan.settings.saving.samples_save:
        try:
            path = save_picture(image, infotext, plan, k, ctx.folders.data)
        except DiskTrouble as error:
            problem = error.message
    if path is None:
        data = encode_png(image, infotext)
    record = SavedRecord(
        id=uuid.uuid4().hex, job=ctx.job, index=k, path=path, width=image.width, height=image.height,
        seed=plan.seeds[k], infotext=infotext, created=time.time(), problem=problem,
    )  # fmt: skip
    ctx.emit(ImageReady(record=record, data=data))
    return record
