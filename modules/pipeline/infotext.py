"""The infotext: how a picture was made, in A1111's words, order and layout. A function of the plan alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modules.pipeline import networks, passes
from modules.prompt import infotext, parse, tokens
from modules.sampling import table
from modules.schema import control
from modules.schema.fields import Frozen, all_facts
from modules.schema.plan import Plan, SecondPass
from modules.schema.request import RESIZE_MODES, Hires, Mask, Source
from modules.schema.settings import Drawing, Sampling
from modules.schema.version import NAME, VERSION

MASKED_CONTENT = ("fill", "original", "latent noise", "latent nothing")
# Order in which sampling options stand in an infotext (those that differ from their default and are read): what the
# schedule is made of, and what the sampler is told.
SCHEDULE_ORDER = (
    "sigma_min",
    "sigma_max",
    "rho",
    "beta_dist_alpha",
    "beta_dist_beta",
    "always_discard_next_to_last_sigma",
    "sgm_noise_multiplier",
)
SAMPLER_ORDER = (
    "eta_ancestral", "eta_ddim", "s_churn", "s_tmin", "s_tmax", "s_noise",
    "s_min_uncond", "s_min_uncond_all", "skip_early_cond", "uni_pc_variant", "uni_pc_skip_type", "uni_pc_order",
    "uni_pc_lower_order_final", "tcd_gamma", "dpm_adaptive_joint",
)  # fmt: skip
ALWAYS_TOLD = {"beta_dist_alpha", "beta_dist_beta"}
ALWAYS_READ = {
    "always_discard_next_to_last_sigma", "sgm_noise_multiplier", "s_min_uncond", "s_min_uncond_all", "skip_early_cond"
}  # fmt: skip


def infotext_of(plan: Plan, k: int, more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The infotext of picture k, in A1111's layout and order of keys; `more` comes behind all but the version."""
    request, settings = plan.request, plan.settings
    options, prompting, drawing = settings.sampling, settings.prompting, settings.drawing
    told = settings.infotext
    fields: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": plan.sampler,
        "Schedule type": plan.scheduler,
        "CFG scale": request.cfg_scale,
        "Image CFG scale": request.source.image_cfg_scale if request.source and plan.concat == "edit" else None,
        "Seed": plan.seeds[k],
        "Face restoration": settings.faces.face_restoration_model if settings.faces.face_restoration else None,
        "Size": f"{request.width}x{request.height}",
        "Model hash": plan.checkpoint.short_hash if told.add_model_hash_to_info else None,
        "Model": plan.checkpoint.name if told.add_model_name_to_info else None,
        "VAE hash": plan.checkpoint.vae_hash if told.add_vae_hash_to_info else None,
        "VAE": plan.checkpoint.vae_name if told.add_vae_name_to_info else None,
    }
    if settings.model.sd_vae_decode_method != "Full":
        fields["VAE Decoder"] = settings.model.sd_vae_decode_method
    if request.subseed_strength:
        fields |= {"Variation seed": plan.subseeds[k], "Variation seed strength": request.subseed_strength}
    if request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0:
        fields["Seed resize from"] = f"{request.seed_resize_from_w}x{request.seed_resize_from_h}"
    fields["Denoising strength"] = plan.denoising_strength
    if plan.concat == "inpaint":
        fields["Conditional mask weight"] = drawing.inpainting_mask_weight
    if settings.model.CLIP_stop_at_last_layers > 1:
        fields["Clip skip"] = settings.model.CLIP_stop_at_last_layers
    walks = _walks(plan)
    if options.eta_noise_seed_delta and any(one.uses_ensd and _eta(one, options) for one, _ in walks):
        fields["ENSD"] = options.eta_noise_seed_delta
    fields["Token merging ratio"] = passes.first_pass(plan).merging or None
    if plan.second is not None:
        fields["Token merging ratio hr"] = passes.passes(plan)[-1].merging or None
    fields["First block cache threshold"] = drawing.first_block_cache_threshold or None
    if drawing.deep_cache_interval > 1 and not drawing.first_block_cache_threshold:
        fields["Deep cache interval"] = drawing.deep_cache_interval
    fields |= _hypertile_fields(plan)
    if plan.init_hashes:
        fields["Init image hash"] = plan.init_hashes[source_of(plan, k)]
    if options.randn_source != "GPU":
        fields["RNG"] = options.randn_source
    if drawing.tiling:
        fields["Tiling"] = True
        fields["Tiling direction"] = drawing.tiling_axes if drawing.tiling_axes != "both" else None
    fields["CFG rescale"] = request.cfg_rescale or None
    if settings.performance.memory_saving != "nothing":
        fields["Memory saving"] = settings.performance.memory_saving
    if options.sd_noise_schedule != "Default":
        fields["Noise Schedule"] = options.sd_noise_schedule
    if options.use_downcasted_alpha_bar:
        fields["Downcast alphas_cumprod"] = True
    if request.hires is not None and plan.second is not None:
        fields |= _hires_fields(plan, plan.second, request.hires, k)
    if request.source is not None:
        fields |= _source_fields(request.source)
        if (multiplier := passes.noise_multiplier(plan)) != 1:
            fields["Noise multiplier"] = multiplier
    fields |= networks.infotext_fields(plan, k)
    fields |= _option_fields(SCHEDULE_ORDER, walks, options)
    if drawing.img2img_extra_noise and plan.denoising_strength is not None:
        fields["Extra noise"] = drawing.img2img_extra_noise
    fields |= _option_fields(SAMPLER_ORDER, walks, options)
    if (prompting.pad_cond_uncond or prompting.pad_cond_uncond_v0) and _lengths_differ(plan, k):
        fields["Pad conds v0" if prompting.pad_cond_uncond_v0 else "Pad conds"] = True
    if prompting.emphasis != "Original" and any(c in plan.prompts[k] + plan.negative_prompts[k] for c in "(["):
        fields["Emphasis"] = prompting.emphasis
    if prompting.use_old_scheduling:
        fields["Old prompt editing timelines"] = True
    if plan.refiner is not None and request.refiner is not None:
        if drawing.refiner_switch_by_sample_steps:
            fields["Refiner switch by sampling steps"] = True
        if plan.second is not None and drawing.hires_fix_refiner_pass != "second pass":
            fields["Hires refiner"] = drawing.hires_fix_refiner_pass
        fields["Refiner"] = f"{plan.refiner.name} [{plan.refiner.short_hash}]"
        fields["Refiner switch at"] = request.refiner.refiner_switch_at
    for number, (unit, file) in enumerate(zip(request.controlnet, plan.controls)):
        fields[f"ControlNet {number}"] = control.told(unit, file.title)
    if plan.draws and plan.draws[k]:
        # The prompt written is the one drawn, so that pasting it repeats the picture; these say where it came from.
        templates = {"Template": plan.template, "Negative Template": plan.negative_template}
        fields |= {name: text for name, text in templates.items() if text}
        fields["Wildcards"] = plan.draws[k]
    fields |= more
    fields["Version"] = f"{NAME} {VERSION}" if told.add_version_to_infotext else None
    return infotext.format(plan.prompts[k], plan.negative_prompts[k], fields)


def source_of(plan: Plan, k: int) -> int:
    """Which of the source pictures number k is drawn from; a loop begins with the first."""
    source = plan.request.source
    return k % len(source.images) if source and not source.loopback else 0


def _lengths_differ(plan: Plan, k: int) -> bool:
    """Whether prompt and negative prompt of picture k have different numbers of chunks."""

    def chunks(text: str, negative: bool) -> set[int]:
        prompt = parse.parse_prompt(text, plan.request.steps, negative=negative)
        return {len(tokens.chunk(parse.parse_emphasis(one), tokens.CLIP)) for one in prompt.texts}

    return chunks(plan.prompts[k], False) != chunks(plan.negative_prompts[k], True)


Walk = tuple[table.Sampler, table.Schedule]


def _walks(plan: Plan) -> list[Walk]:
    """Sampler and schedule of each pass."""
    names = [(plan.sampler, plan.scheduler)]
    if plan.second is not None:
        names.append((plan.second.sampler, plan.second.scheduler))
    return [(sampler, table.resolve(sampler, schedule)) for sampler, schedule in (table.normalise(*n) for n in names)]


def _eta(sampler: table.Sampler, options: Sampling) -> float:
    return options.eta_ddim if sampler.variance_preserving else options.eta_ancestral


def _hires_fields(plan: Plan, second: SecondPass, hires: Hires, k: int) -> dict[str, Any]:
    """What the second pass has of its own."""
    fields: dict[str, Any] = {}
    if second.checkpoint is not None:
        fields["Hires checkpoint"] = f"{second.checkpoint.name} [{second.checkpoint.short_hash}]"
    if second.sampler != plan.sampler:
        fields["Hires sampler"] = second.sampler
    # What "Use same scheduler" means for the second sampler, where the first one's is read back from this infotext.
    same = table.label_of(table.find_sampler(second.sampler)[0], table.normalise(plan.sampler, plan.scheduler)[1])
    if second.scheduler != same:
        fields["Hires schedule type"] = second.scheduler
    if second.prompts[k] != plan.prompts[k]:
        fields["Hires prompt"] = second.prompts[k]
    if second.negative_prompts[k] != plan.negative_prompts[k]:
        fields["Hires negative prompt"] = second.negative_prompts[k]
    if hires.hr_resize_x or hires.hr_resize_y:
        fields["Hires resize"] = f"{hires.hr_resize_x}x{hires.hr_resize_y}"
    else:
        fields["Hires upscale"] = hires.hr_scale
    fields["Hires steps"] = hires.hr_second_pass_steps or None
    fields["Hires upscaler"] = hires.hr_upscaler
    return fields


def _hypertile_fields(plan: Plan) -> dict[str, Any]:
    """As A1111 tells it: that it was on, and what is not at its default."""
    drawing, known = plan.settings.drawing, all_facts(Drawing)
    runs = passes.passes(plan)
    names = ["hypertile_enable_unet"]
    if len(runs) > 1:
        names.append("hypertile_enable_unet_secondpass")
    if any(passes.tiling_of(plan, run) for run in runs):
        names += ["hypertile_max_depth_unet", "hypertile_max_tile_unet", "hypertile_swap_size_unet"]
    if drawing.hypertile_enable_vae:
        names += ["hypertile_enable_vae", "hypertile_max_tile_vae"]
    return {
        str(known[name].infotext): getattr(drawing, name)
        for name in names
        if getattr(drawing, name) != known[name].default
    }


def _told(part: Frozen, *names: str) -> dict[str, Any]:
    """These fields of a part of a request by their infotext keys; all that have one where none is named."""
    known = all_facts(type(part))
    return {str(known[name].infotext): getattr(part, name) for name in names or known if known[name].infotext}


def _source_fields(source: Source) -> dict[str, Any]:
    """What is told of the mask and of drawing in several rounds."""
    fields: dict[str, Any] = {}
    if source.resize_mode:
        fields["Resize mode"] = RESIZE_MODES[source.resize_mode]
    if source.tiles is not None:
        fields |= _told(source.tiles, "overlap", "upscaler")
    if source.loopback is not None:
        fields |= _told(source.loopback)
    if source.outpaint is not None:
        fields |= {key: value for key, value in _told(source.outpaint).items() if value and value != "edges"}
    if source.inversion is not None:
        fields |= _told(source.inversion)
    mask: Mask | None = source.mask
    if mask is None:
        return fields
    if mask.soft is not None:
        fields |= {"Soft inpainting enabled": True, **_told(mask.soft)}
    if mask.inpainting_mask_invert:
        fields["Mask mode"] = "Inpaint not masked"
    if mask.mask_blur_x == mask.mask_blur_y:
        fields["Mask blur"] = mask.mask_blur_x
    if mask.inpaint_full_res:
        fields |= {"Inpaint area": "Only masked", "Masked area padding": mask.inpaint_full_res_padding}
    if MASKED_CONTENT[mask.inpainting_fill] != "original":
        fields["Masked content"] = MASKED_CONTENT[mask.inpainting_fill]
    return fields


def _option_fields(order: tuple[str, ...], walks: list[Walk], options: Sampling) -> dict[str, Any]:
    """Options that change this picture and are not at their default (some always), by their infotext key."""
    facts = all_facts(Sampling)
    read, first = set[str](), set[str]()
    for sampler, schedule in walks:
        eta = "eta_ddim" if sampler.variance_preserving else "eta_ancestral"
        read |= {eta if name == "eta" else name for name in sampler.reads} | ALWAYS_READ
        if sampler.uses_schedule:
            read |= {*schedule.reads}
        first = first or read.copy()
    told = [
        k for k in order
        if k in first & ALWAYS_TOLD or (k in read and getattr(options, k) != facts[k].default)
    ]  # fmt: skip
    return {str(facts[key].infotext): getattr(options, key) for key in told}
