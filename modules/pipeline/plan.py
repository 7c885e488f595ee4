"""A request becomes a plan: everything looked up, decided and checked before any weight moves."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from modules.pipeline import control, faces, hires, networks, rounds, upscalers
from modules.prompt import parse, styles, wildcards
from modules.sampling import table
from modules.schema import enlarging
from modules.schema.errors import BadRequest
from modules.schema.plan import Plan, SecondPass
from modules.schema.record import CheckpointView
from modules.schema.request import (
    SAME_CHECKPOINT,
    SAME_SAMPLER,
    SAME_SCHEDULER,
    SEEDS,
    GenerationRequest,
    seeded,
)
from modules.schema.settings import SECTION_OF, Settings
from modules.weights.catalogue import Catalogue

SEED_RANGE = 4294967294
MAX_BATCH = 64
MAX_SIDE = 16384
Expand = Callable[[str, str, int], tuple[str, str]]
"""(prompt, negative prompt, seed) of a picture -> what they become."""


def with_seeds(request: GenerationRequest) -> GenerationRequest:
    """The request with seeds that are asked for at random (-1) drawn."""
    return seeded(request, {name: random.randrange(SEED_RANGE) for name in SEEDS})


def make_plan(
    request: GenerationRequest,
    settings: Settings,
    catalogue: Catalogue,
    known_styles: Mapping[str, styles.Style],
    lookup: wildcards.Lookup = wildcards.no_files,
    expand: Expand = lambda prompt, negative, seed: (prompt, negative),
) -> Plan:
    """Look up names, draw seeds and wildcards, merge styles. Raises BadRequest or NotFound with the field named.

    `expand` has the last word on each picture's prompts, before networks are looked for in them.
    """
    known = {key: value for key, value in request.override_settings.items() if key in SECTION_OF}
    settings = settings.with_options(known)
    checkpoint = (
        catalogue.find(request.checkpoint)
        if request.checkpoint
        else catalogue.default(settings.model.sd_model_checkpoint)
    )
    if checkpoint.problem:
        raise BadRequest(checkpoint.problem, field="checkpoint")
    checkpoint, vae_warnings = catalogue.dressed(checkpoint, settings.model)
    settings = catalogue.noted(checkpoint, settings, known)
    request = _with_source_checked(request)
    if request.source is not None:
        upscalers.check(settings.drawing.upscaler_for_img2img, catalogue.folders)
        upscalers.check(request.source.tiles and request.source.tiles.upscaler, catalogue.folders)
    if settings.faces.face_restoration:
        faces.check(settings.faces.face_restoration_model, catalogue.folders, "face_restoration_model")
    sampler, scheduler = table.normalise(request.sampler, request.scheduler)
    prompt, negative = styles.apply_styles(known_styles, request.styles, request.prompt, request.negative_prompt)
    if settings.prompting.enable_prompt_comments:
        prompt, negative = parse.strip_comments(prompt), parse.strip_comments(negative)

    count = count_of(request)
    request = with_seeds(request)
    seed, subseed = request.seed, request.subseed
    varied = request.subseed_strength > 0
    seeds = tuple(seed if varied else seed + k for k in range(count))
    drawn = [_draw(prompt, negative, one, settings, lookup, expand) for one in seeds]
    warnings = list(vae_warnings)
    warnings += [f"No style is called {one!r}; it was left out." for one in request.styles if one not in known_styles]
    warnings += [
        f"No setting is called {key!r}; it was ignored." for key in request.override_settings if key not in known
    ]
    prompts = networks.with_defaults([one.prompt for one in drawn], settings.networks, catalogue.networks)
    second = _second(request, settings, catalogue, known_styles, lookup, expand, prompts, drawn, seeds)
    found, problems = networks.find([*prompts, *(second.prompts if second else ())], catalogue.networks)
    warnings += problems
    warnings += [
        f"No wildcard file is called {name}.txt, so __{name}__ stays in the prompt; put it into the folder wildcards."
        for name in dict.fromkeys(name for one in drawn for name in one.unknown)
    ]
    return Plan(
        request=request,
        settings=settings,
        checkpoint=checkpoint,
        second=second,
        refiner=_refiner(request, checkpoint, settings, catalogue),
        sampler=sampler.name,
        scheduler=table.label_of(sampler, scheduler),
        prompts=prompts,
        negative_prompts=tuple(one.negative_prompt for one in drawn),
        template=prompt,
        negative_template=negative,
        draws=tuple(one.note for one in drawn),
        seeds=seeds,
        subseeds=tuple(subseed + k for k in range(count)),
        networks=found,
        controls=control.find(request, checkpoint, second and second.checkpoint, catalogue.folders),
        warnings=tuple(warnings),
    )


def _with_source_checked(request: GenerationRequest) -> GenerationRequest:
    """A request whose source makes sense; several source pictures are drawn as one batch."""
    source = request.source
    if source is None:
        return request
    if not source.images:
        raise BadRequest("A picture to start from is missing; add one.", field="source")
    if request.hires is not None:
        raise BadRequest("Hires. fix is for pictures out of nothing; a source has its own size.", field="hires")
    if len(source.images) > MAX_BATCH:
        raise BadRequest(
            f"{len(source.images)} source pictures are too many; give at most {MAX_BATCH}.", field="source"
        )
    rounds.check(source, request.width, request.height)
    if source.tiles is not None:
        return request
    if source.loopback is not None:
        return request.model_copy(update={"batch_size": 1})
    return request.model_copy(update={"batch_size": len(source.images)}) if len(source.images) > 1 else request


def count_of(request: GenerationRequest) -> int:
    """How many pictures there will be: tiles are drawn in batches, pictures of them are not."""
    source = request.source
    if source is not None and source.tiles is not None:
        return request.n_iter * len(source.images)
    if source is not None and source.loopback is not None:
        return request.n_iter * source.loopback.loops
    return request.n_iter * request.batch_size


def _refiner(
    request: GenerationRequest, checkpoint: CheckpointView, settings: Settings, catalogue: Catalogue
) -> CheckpointView | None:
    """The checkpoint that takes over; None where nobody does."""
    asked = request.refiner
    if asked is None or asked.refiner_checkpoint in ("", "None"):
        return None
    found = catalogue.find(asked.refiner_checkpoint)
    if found.problem:
        raise BadRequest(found.problem, field="refiner")
    return None if found.path == checkpoint.path else catalogue.dressed(found, settings.model)[0]


def _second(
    request: GenerationRequest,
    settings: Settings,
    catalogue: Catalogue,
    known_styles: Mapping[str, styles.Style],
    lookup: wildcards.Lookup,
    expand: Expand,
    prompts: tuple[str, ...],
    drawn: Sequence[wildcards.Drawn],
    seeds: Sequence[int],
) -> SecondPass | None:
    """The second pass of hires fix; what it does not name for itself is the first's."""
    asked = request.hires
    if asked is None:
        return None
    hires.check_upscaler(asked.hr_upscaler, catalogue.folders)
    goal = enlarging.target(request.width, request.height, asked)
    if min(goal.latent) < 1 or max(goal.size) > MAX_SIDE:
        width, height = goal.size
        raise BadRequest(f"Hires. fix would draw {width}x{height}; sides go from 8 to {MAX_SIDE}.", field="hires")
    sampler, schedule = table.normalise(request.sampler, request.scheduler)
    if asked.hr_sampler_name not in (None, "", SAME_SAMPLER):
        sampler, fused = table.find_sampler(str(asked.hr_sampler_name))
        schedule = fused or schedule
    if asked.hr_scheduler not in (None, "", SAME_SCHEDULER):
        schedule = table.find_schedule(asked.hr_scheduler)
    prompt, negative = styles.apply_styles(
        known_styles, request.styles, asked.hr_prompt or request.prompt,
        asked.hr_negative_prompt or request.negative_prompt,
    )  # fmt: skip
    if settings.prompting.enable_prompt_comments:
        prompt, negative = parse.strip_comments(prompt), parse.strip_comments(negative)
    own = [_draw(prompt, negative, seed, settings, lookup, expand) for seed in seeds]
    own_prompts = networks.with_defaults([one.prompt for one in own], settings.networks, catalogue.networks)
    checkpoint = None
    if asked.hr_checkpoint_name not in (None, "", SAME_CHECKPOINT):
        checkpoint = catalogue.find(str(asked.hr_checkpoint_name))
        if checkpoint.problem:
            raise BadRequest(checkpoint.problem, field="hires")
        checkpoint = catalogue.dressed(checkpoint, settings.model)[0]
    return SecondPass(
        sampler=sampler.name,
        scheduler=table.label_of(sampler, schedule),
        steps=asked.hr_second_pass_steps or request.steps,
        prompts=own_prompts if asked.hr_prompt else prompts,
        negative_prompts=tuple(one.negative_prompt for one in (own if asked.hr_negative_prompt else drawn)),
        size=goal.size,
        checkpoint=checkpoint,
    )


def _draw(
    prompt: str, negative: str, seed: int, settings: Settings, lookup: wildcards.Lookup, expand: Expand
) -> wildcards.Drawn:
    """The prompts of the picture with this seed."""
    mode = settings.prompting.prompt_wildcards
    drawn = wildcards.Drawn(prompt, negative)
    if mode != "Off":
        drawn = wildcards.draw_prompts(prompt, negative, seed, lookup, braces=mode == "Files and choices")
    prompt, negative = expand(drawn.prompt, drawn.negative_prompt, seed)
    return replace(drawn, prompt=prompt, negative_prompt=negative)
