"""From a form to a picture's infotext and back into the form: what is drawn again is the same."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
from PIL import Image

from modules.frontends.ui import forms
from modules.pipeline.infotext import infotext_of
from modules.pipeline.plan import make_plan
from modules.sampling.table import SAMPLER_NAMES, SCHEDULE_LABELS
from modules.schema.plan import Plan
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.weights.catalogue import Catalogue
from tests.pipeline.conftest import Studio

COUNT = 200 if os.environ.get("TEST_FULL") else 40
DRAWN = 200 if os.environ.get("TEST_FULL") else 3
"""So many are drawn twice."""
WORDS = ("a red house", "(small:1.3) boat", "[cat:dog:0.5]", "sea, calm", 'said "hello"', "x: y", "night [stars|moon]",
         "<not a tag>", "green hills AND (clouds:0.8)", "BREAK", "ünïcödé 猫", "a\\(b\\)", "Steps: 5")  # fmt: skip
OVERRIDES = ("Clip skip: 2", "ENSD: 31337", "RNG: CPU", "Eta: 0.5", "Discard penultimate sigma: True", "Tiling: True",
             "Schedule rho: 5", "Emphasis: No norm", "Sigma noise: 0.9", "Token merging ratio: 0.3")  # fmt: skip


def form_of(rng: random.Random) -> dict[str, Any]:
    """What somebody may have put into txt2img."""

    def prompt(least: int = 0) -> str:
        return ", ".join(rng.sample(WORDS, rng.randint(least, 4)))

    values = forms.untouched("txt2img") | {
        "prompt": prompt(1), "negative_prompt": prompt(), "sampler": rng.choice(SAMPLER_NAMES),
        "scheduler": rng.choice(SCHEDULE_LABELS), "steps": rng.randint(1, 20), "cfg_scale": rng.randint(2, 60) / 2,
        "width": rng.randrange(64, 113, 8), "height": rng.randrange(64, 113, 8), "seed": str(rng.randrange(2**32)),
    }  # fmt: skip
    if rng.random() < 0.3:
        values |= {"seed_extra": True, "subseed": str(rng.randrange(2**32))}
        values["subseed_strength"] = rng.randint(1, 99) / 100
        values |= rng.choice([{}, {"seed_resize_from_w": 256, "seed_resize_from_h": 384}])
    if rng.random() < 0.4:
        size = rng.choice([
            {"hires.hr_scale": rng.randint(21, 60) / 20}, {"hires.hr_resize_x": 96, "hires.hr_resize_y": 128},
            {"hires.hr_resize_x": 144},
        ])  # fmt: skip
        values |= size | {
            "hires": True, "hires.denoising_strength": rng.randint(1, 99) / 100,
            "hires.hr_upscaler": rng.choice(forms.CHOICES["hires.hr_upscaler"]),
            "hires.hr_second_pass_steps": rng.choice([0, 0, 7]), "hires.hr_prompt": rng.choice(["", prompt()]),
            "hires.hr_negative_prompt": rng.choice(["", prompt()]),
            "hires.hr_sampler_name": rng.choice([forms.SAME_SAMPLER, *SAMPLER_NAMES]),
            "hires.hr_scheduler": rng.choice([forms.SAME_SCHEDULER, *SCHEDULE_LABELS[1:]]),
        }  # fmt: skip
    if rng.random() < 0.3:
        values["cfg_rescale"] = rng.randint(1, 20) / 20
    values["override_settings"] = rng.sample(OVERRIDES, rng.choice([0, 0, 1, 2]))
    return values


def planned(request: GenerationRequest, catalogue: Catalogue) -> Plan:
    return make_plan(request, Settings(), catalogue, {}, lambda name: None)


def again(text: str, catalogue: Catalogue) -> GenerationRequest:
    """As PNG Info's Send to txt2img and Generate do, over a form that somebody left in another state."""
    left = forms.untouched("txt2img") | {
        "prompt": "something else", "negative_prompt": "other", "hires": True, "hires.hr_scale": 3, "seed_extra": True,
        "hires.hr_prompt": "left over", "hires.hr_resize_x": 640, "hires.hr_second_pass_steps": 3, "cfg_rescale": 0.5,
        "hires.hr_sampler_name": "Heun", "override_settings": ["Clip skip: 3"], "subseed": "5", "subseed_strength": 0.5,
    }  # fmt: skip
    views = catalogue.checkpoints()
    told = forms.values_from_infotext(text, "txt2img", Settings(), views, views[0].name)
    return forms.request_from_form(left | told, views[0].name)


def test_forms_come_back_from_their_pictures(studio: Studio, test_seed: int) -> None:
    rng, catalogue = random.Random(test_seed), studio.engine.catalogue
    name = catalogue.checkpoints()[0].name
    drawn = 0
    for number in range(COUNT):
        request = forms.request_from_form(form_of(rng), name)
        plan = planned(request, catalogue)
        text = infotext_of(plan, 0)
        repeated = again(text, catalogue)
        other = planned(repeated, catalogue)
        assert infotext_of(other, 0) == text, number
        # Everything that drawing reads.
        for field in ("prompts", "negative_prompts", "seeds", "sampler", "scheduler", "second"):
            assert getattr(other, field) == getattr(plan, field), (number, field, text)
        if drawn < DRAWN:
            drawn += 1
            one, two = (pixels(studio, each) for each in (request, repeated))
            assert np.array_equal(one, two), (number, text)


def pixels(studio: Studio, request: GenerationRequest) -> np.ndarray:
    (made,) = studio.draw(**{name: getattr(request, name) for name in GenerationRequest.model_fields})
    return np.asarray(Image.open(studio.folders.data / str(made.record.path)))
