"""A request becomes a plan: everything looked up, decided and checked before any weight moves."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from modules.prompt import infotext, parse, styles, tokens, wildcards
from modules.sampling import table
from modules.schema.errors import BadRequest
from modules.schema.fields import all_facts
from modules.schema.plan import Plan
from modules.schema.request import GenerationRequest
from modules.schema.settings import SECTION_OF, Sampling, Settings
from modules.schema.version import NAME, VERSION
from modules.weights.catalogue import Catalogue

SEED_RANGE = 4294967294
# Order in which sampling options stand in an infotext (those that differ from their default and are read).
OPTION_ORDER = (
    "sigma_min", "sigma_max", "rho", "beta_dist_alpha", "beta_dist_beta", "always_discard_next_to_last_sigma",
    "sgm_noise_multiplier", "eta_ancestral", "eta_ddim", "s_churn", "s_tmin", "s_tmax", "s_noise",
    "s_min_uncond", "s_min_uncond_all", "skip_early_cond",
)  # fmt: skip
ALWAYS_READ = {
    "always_discard_next_to_last_sigma", "sgm_noise_multiplier", "s_min_uncond", "s_min_uncond_all", "skip_early_cond"
}  # fmt: skip


def make_plan(
    request: GenerationRequest,
    settings: Settings,
    catalogue: Catalogue,
    known_styles: Mapping[str, styles.Style],
    lookup: wildcards.Lookup = wildcards.no_files,
) -> Plan:
    """Look up names, draw seeds and wildcards, merge styles. Raises BadRequest or NotFound with the field named."""
    known = {key: value for key, value in request.override_settings.items() if key in SECTION_OF}
    settings = settings.with_options(known)
    checkpoint = (
        catalogue.find(request.checkpoint)
        if request.checkpoint
        else catalogue.default(settings.model.sd_model_checkpoint)
    )
    if checkpoint.problem:
        raise BadRequest(checkpoint.problem, field="checkpoint")
    sampler, scheduler = table.normalise(request.sampler, request.scheduler)
    prompt, negative = styles.apply_styles(known_styles, request.styles, request.prompt, request.negative_prompt)
    if settings.prompting.enable_prompt_comments:
        prompt, negative = parse.strip_comments(prompt), parse.strip_comments(negative)

    count = request.n_iter * request.batch_size
    seed = random.randrange(SEED_RANGE) if request.seed == -1 else request.seed
    subseed = random.randrange(SEED_RANGE) if request.subseed == -1 else request.subseed
    varied = request.subseed_strength > 0
    seeds = tuple(seed if varied else seed + k for k in range(count))
    drawn = [_draw(prompt, negative, one, settings, lookup) for one in seeds]
    warnings = [f"No style is called {name!r}; it was left out." for name in request.styles if name not in known_styles]
    warnings += [
        f"No setting is called {key!r}; it was ignored." for key in request.override_settings if key not in known
    ]
    tags = dict.fromkeys(tag for one in drawn for tag in parse.extract_tags(one.prompt)[1])
    warnings += [f"{tag} was not applied: this version draws without extra networks." for tag in tags]
    warnings += [
        f"No wildcard file is called {name}.txt, so __{name}__ stays in the prompt; put it into the folder wildcards."
        for name in dict.fromkeys(name for one in drawn for name in one.unknown)
    ]
    return Plan(
        request=request,
        settings=settings,
        checkpoint=checkpoint,
        sampler=sampler.name,
        scheduler=_label(sampler, scheduler),
        prompts=tuple(one.prompt for one in drawn),
        negative_prompts=tuple(one.negative_prompt for one in drawn),
        template=prompt,
        negative_template=negative,
        draws=tuple(one.note for one in drawn),
        seeds=seeds,
        subseeds=tuple(subseed + k for k in range(count)),
        warnings=tuple(warnings),
    )


def _draw(prompt: str, negative: str, seed: int, settings: Settings, lookup: wildcards.Lookup) -> wildcards.Drawn:
    """The prompts of the picture with this seed."""
    mode = settings.prompting.prompt_wildcards
    if mode == "Off":
        return wildcards.Drawn(prompt, negative)
    return wildcards.draw_prompts(prompt, negative, seed, lookup, braces=mode == "Files and choices")


def _label(sampler: table.Sampler, schedule: table.Schedule) -> str:
    """The schedule as an infotext names it: Automatic is written as what it stands for, where it stands for one."""
    if schedule is table.AUTOMATIC and sampler.scheduler:
        return table.find_schedule(sampler.scheduler).label
    return schedule.label


def infotext_of(plan: Plan, k: int) -> str:
    """The infotext of picture k, in A1111's layout and order of keys."""
    request, settings = plan.request, plan.settings
    options, prompting = settings.sampling, settings.prompting
    sampler, schedule = table.normalise(plan.sampler, plan.scheduler)
    fields: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": plan.sampler,
        "Schedule type": plan.scheduler,
        "CFG scale": request.cfg_scale,
        "Seed": plan.seeds[k],
        "Size": f"{request.width}x{request.height}",
        "Model hash": plan.checkpoint.short_hash,
        "Model": plan.checkpoint.name,
    }
    if request.subseed_strength:
        fields |= {"Variation seed": plan.subseeds[k], "Variation seed strength": request.subseed_strength}
    if request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0:
        fields["Seed resize from"] = f"{request.seed_resize_from_w}x{request.seed_resize_from_h}"
    if settings.model.CLIP_stop_at_last_layers > 1:
        fields["Clip skip"] = settings.model.CLIP_stop_at_last_layers
    if options.eta_noise_seed_delta and sampler.uses_ensd and _eta(sampler, options):
        fields["ENSD"] = options.eta_noise_seed_delta
    if options.randn_source != "GPU":
        fields["RNG"] = options.randn_source
    if options.sd_noise_schedule != "Default":
        fields["Noise Schedule"] = options.sd_noise_schedule
    if options.use_downcasted_alpha_bar:
        fields["Downcast alphas_cumprod"] = True
    fields |= _option_fields(sampler, table.resolve(sampler, schedule), options)
    if (prompting.pad_cond_uncond or prompting.pad_cond_uncond_v0) and _lengths_differ(plan, k):
        fields["Pad conds v0" if prompting.pad_cond_uncond_v0 else "Pad conds"] = True
    if prompting.emphasis != "Original" and any(c in plan.prompts[k] + plan.negative_prompts[k] for c in "(["):
        fields["Emphasis"] = prompting.emphasis
    if prompting.use_old_scheduling:
        fields["Old prompt editing timelines"] = True
    if plan.draws and plan.draws[k]:
        # The prompt written is the one drawn, so that pasting it repeats the picture; these say where it came from.
        templates = {"Template": plan.template, "Negative Template": plan.negative_template}
        fields |= {name: text for name, text in templates.items() if text}
        fields["Wildcards"] = plan.draws[k]
    fields["Version"] = f"{NAME} {VERSION}"
    return infotext.format(plan.prompts[k], plan.negative_prompts[k], fields)


def _lengths_differ(plan: Plan, k: int) -> bool:
    """Whether prompt and negative prompt of picture k have different numbers of chunks."""

    def chunks(text: str, negative: bool) -> set[int]:
        prompt = parse.parse_prompt(text, plan.request.steps, negative=negative)
        return {len(tokens.chunk(parse.parse_emphasis(one), tokens.CLIP)) for one in prompt.texts}

    return chunks(plan.prompts[k], False) != chunks(plan.negative_prompts[k], True)


def _eta(sampler: table.Sampler, options: Sampling) -> float:
    return options.eta_ddim if sampler.variance_preserving else options.eta_ancestral


def _option_fields(sampler: table.Sampler, schedule: table.Schedule, options: Sampling) -> dict[str, Any]:
    """Options that change this picture and are not at their default, by their infotext key."""
    eta = "eta_ddim" if sampler.variance_preserving else "eta_ancestral"
    read = {eta if name == "eta" else name for name in sampler.reads} | ALWAYS_READ
    if sampler.uses_schedule:
        read |= {*schedule.reads}
    facts = all_facts(Sampling)
    changed = [key for key in OPTION_ORDER if key in read and getattr(options, key) != facts[key].default]
    return {str(facts[key].infotext): getattr(options, key) for key in changed}
