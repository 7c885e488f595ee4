"""A picture's infotext brings back the form it was drawn from: what is drawn again is the same, bit for bit."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.frontends.ui import forms, panel
from modules.imaging.metadata import read_infotext
from modules.pipeline.infotext import infotext_of
from modules.pipeline.plan import make_plan
from modules.pipeline.run import Engine
from modules.prompt.styles import load_styles
from modules.sampling.table import SAMPLER_NAMES, SCHEDULE_LABELS
from modules.schema.errors import BadRequest
from modules.schema.fields import Facts, all_facts
from modules.schema.folders import Folders
from modules.schema.plan import Plan
from modules.schema.request import GenerationRequest
from modules.schema.settings import Settings
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from modules.weights.catalogue import Catalogue
from tests.pipeline.test_img2img import disc, picture
from tests.weights.tiny import write_tiny_sd15

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("TEST_FULL"))
PLANNED = 2_000 if FULL else 40
DRAWN = int(os.environ.get("ROUND_TRIPS", 200 if FULL else 4))
"""So many are drawn twice."""
WORDS = ("a red house", "(small:1.3) boat", "[cat:dog:0.5]", "sea, calm", 'said "hello"', "x: y", "night [stars|moon]",
         "<not a tag>", "green hills AND (clouds:0.8)", "BREAK", "ünïcödé 猫", "a\\(b\\)", "Steps: 5", "two\nlines",
         '"Quoted", colon: and comma', "picnic", "<lora:silhouettes:0.7>", "<hypernet:moonlight:0.5>",
         "Size: 3x4, Seed: 5, Model: none", "{a|b} tree")  # fmt: skip
STYLES = {
    "ink": ("ink drawing of {prompt}, sharp", "colour"), "dusk": (", at dusk", ""), "plain": ("", "busy, \"loud\""),
}  # fmt: skip
CHANGES = (("tiny", "small"), ("small", "tiny"), ("tiny", "tiny"), ("tiny", "postcards"), ("postcards", "tiny"))
"""The checkpoint drawn with first, and the one chosen when the infotext comes back. Random weights for the most part:
they take a tenth of the time."""
# Settings that an infotext names but that another file is needed for.
NEED_A_FILE = ("face_restoration_model", "sd_vae_decode_method")


@dataclass
class Page:
    """The page's forms over a service whose engine draws here, with what comes with the program."""

    service: GenerationService

    def generate(self, tab: str, values: Mapping[str, Any], checkpoint: str, pictures: str | None) -> tuple[str, str]:
        """Press Generate and wait. The picture's id, and its file."""
        told = json.loads(panel.on_generate(self.service, tab, dict(values), checkpoint, pictures))
        assert "id" in told, told
        list(self.service.follow(told["id"]))
        view = self.service.job(told["id"])
        assert view.state == "done", (view.error, view.request)
        (made,) = view.images
        return made.id, str(self.service.folders.data / str(made.path))

    def paste(self, tab: str, left: dict[str, Any], text: str, checkpoint: str) -> dict[str, Any]:
        """The form after an infotext was sent to it."""
        updates = panel.on_paste(self.service, tab, text, checkpoint)
        assert len(updates) == len(forms.FORMS[tab])
        return left | {path: one["value"] for path, one in zip(forms.FORMS[tab], updates) if "value" in one}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Page]:
    folders = Folders.under(tmp_path_factory.mktemp("round"), ROOT / "models")
    own = folders.data / "more"
    write_tiny_sd15(own / "tiny.safetensors", test_seed)
    write_tiny_sd15(own / "small.safetensors", test_seed + 1)
    folders = dataclasses.replace(
        folders, embeddings=ROOT / "embeddings", checkpoint_dirs=(*folders.checkpoint_dirs, own)
    )
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    for name, (prompt, negative) in STYLES.items():
        service.styles.save(name, prompt, negative)
    service.change_settings({"live_previews_enable": False})
    for view in service.catalogue.checkpoints():
        service.catalogue.hash_of(view)  # an infotext tells it once it is known
    yield Page(service)
    service.close()


# ------------------------------------------------------------------------------------------------- what is asked for


def some_value(fact: Facts, rng: random.Random) -> Any:
    if fact.choices:
        return rng.choice(fact.choices)
    if isinstance(fact.default, bool):
        return rng.random() < 0.7
    least, most = fact.ge or 0, fact.soft_le or fact.le or 40_000
    if isinstance(fact.default, int) and fact.step in (None, 1):
        return rng.randint(int(least), int(min(most, 12 if fact.le else most)))
    return round(rng.uniform(least, min(most, max(2.0, least))), 3)


def overrides(rng: random.Random) -> list[str]:
    """Entries of "Override settings": any that an infotext may name."""
    known: dict[str, Facts] = {}
    for section in Settings.model_fields.values():
        known |= all_facts(section.annotation)  # type: ignore[arg-type]
    found = []
    for label, key in rng.sample(sorted(forms.SETTING_OF_LABEL.items()), rng.choice([0, 0, 1, 2, 4])):
        if key in NEED_A_FILE:
            continue
        value = some_value(known[key], rng)
        try:
            Settings().with_options({key: str(value)})
        except BadRequest:
            continue
        found.append(f"{label}: {value}")
    return found


def form_of(rng: random.Random, tab: str = "txt2img", refiner: str | None = None) -> dict[str, Any]:
    """What somebody may have put into a tab."""

    def prompt(least: int = 0) -> str:
        return ", ".join(rng.sample(WORDS, rng.randint(least, 4)))

    values = forms.untouched(tab) | {
        "prompt": prompt(1), "negative_prompt": prompt(), "sampler": rng.choice(SAMPLER_NAMES),
        "scheduler": rng.choice(SCHEDULE_LABELS), "steps": rng.randint(1, 10), "cfg_scale": rng.randint(2, 60) / 2,
        "width": rng.randrange(64, 97, 8), "height": rng.randrange(64, 97, 8), "seed": str(rng.randrange(2**32)),
        "styles": rng.sample(sorted(STYLES), rng.choice([0, 0, 1, 2])),
    }  # fmt: skip
    if rng.random() < 0.3:
        values |= {"seed_extra": True, "subseed": str(rng.randrange(2**32))}
        values["subseed_strength"] = rng.randint(0, 100) / 100
        values |= rng.choice([{}, {"seed_resize_from_w": 256, "seed_resize_from_h": 384}])
    if refiner and rng.random() < 0.2:
        values |= {"refiner": True, "refiner.refiner_checkpoint": refiner}
        values["refiner.refiner_switch_at"] = rng.randint(0, 20) / 20
    if tab == "txt2img" and rng.random() < 0.4:
        size = rng.choice([
            {"hires.hr_scale": rng.randint(20, 32) / 20}, {"hires.hr_resize_x": 96, "hires.hr_resize_y": 128},
            {"hires.hr_resize_x": 104}, {"hires.hr_resize_y": 112},
        ])  # fmt: skip
        values |= size | {
            "hires": True, "hires.denoising_strength": rng.randint(0, 100) / 100,
            "hires.hr_upscaler": rng.choice(forms.CHOICES["hires.hr_upscaler"]),
            "hires.hr_second_pass_steps": rng.choice([0, 0, 7]), "hires.hr_prompt": rng.choice(["", prompt()]),
            "hires.hr_negative_prompt": rng.choice(["", prompt()]),
            "hires.hr_sampler_name": rng.choice([forms.SAME_SAMPLER, *SAMPLER_NAMES]),
            "hires.hr_scheduler": rng.choice([forms.SAME_SCHEDULER, *SCHEDULE_LABELS]),
            "hires.hr_checkpoint_name": rng.choice([forms.SAME_CHECKPOINT] * 3 + [refiner or forms.SAME_CHECKPOINT]),
        }  # fmt: skip
    if rng.random() < 0.3:
        values["cfg_rescale"] = rng.randint(1, 20) / 20
    if tab == "img2img":
        values |= {
            "source.resize_mode": rng.randrange(4), "source.denoising_strength": rng.randint(0, 100) / 100,
            "source.mask.mask_blur_x": rng.choice([0, 4, 9]), "source.mask.inpainting_mask_invert": rng.randrange(2),
            "source.mask.inpainting_fill": rng.randrange(4), "source.mask.inpaint_full_res": rng.randrange(2),
            "source.mask.inpaint_full_res_padding": rng.choice([0, 8, 32]), "source.mask.soft": rng.random() < 0.3,
            "source.mask.soft.schedule_bias": rng.choice([1, 2.5]), "resize_by": rng.randrange(2),
            "source.mask.soft.mask_influence": rng.choice([0, 0.5]), "scale": rng.choice([0.75, 1, 1.2]),
            "source.mask.soft.preservation_strength": rng.choice([0.5, 0, 4]),
            "source.mask.soft.transition_contrast_boost": rng.choice([4, 1, 20]),
            "source.mask.soft.difference_threshold": rng.choice([0.5, 3]),
            "source.mask.soft.difference_contrast": rng.choice([2, 0, 8]),
        }  # fmt: skip
    values["override_settings"] = overrides(rng)
    return values


def left_behind(tab: str) -> dict[str, Any]:
    """A form that somebody left in another state."""
    left = forms.untouched(tab) | {
        "prompt": "something else", "negative_prompt": "other", "seed_extra": True, "cfg_rescale": 0.5, "subseed": "5",
        "subseed_strength": 0.5, "override_settings": ["Clip skip: 3"], "styles": ["dusk"], "refiner": True,
        "refiner.refiner_checkpoint": "tiny", "seed_resize_from_w": 64, "seed_resize_from_h": 128,
    }  # fmt: skip
    if tab == "txt2img":
        return left | {
            "hires": True, "hires.hr_scale": 3, "hires.hr_prompt": "left over", "hires.hr_resize_x": 640,
            "hires.hr_second_pass_steps": 3, "hires.hr_sampler_name": "Heun", "hires.hr_checkpoint_name": "tiny",
        }  # fmt: skip
    return left | {
        "source.resize_mode": 2, "source.mask.mask_blur_x": 7, "source.mask.inpainting_mask_invert": 1,
        "source.mask.inpainting_fill": 2, "source.mask.inpaint_full_res": 1, "source.mask.soft": True,
        "source.mask.inpaint_full_res_padding": 100, "source.mask.soft.schedule_bias": 4, "resize_by": 1, "scale": 2,
        "source.denoising_strength": 0.1, "source.mask.soft.preservation_strength": 3,
        "source.mask.soft.difference_contrast": 5, "source.mask.soft.difference_threshold": 1,
        "source.mask.soft.transition_contrast_boost": 2,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- the trips


def test_forms_come_back_from_their_plans(page: Page, test_seed: int) -> None:
    rng, service = random.Random(test_seed), page.service
    catalogue = service.catalogue
    styles = load_styles(service.folders.styles_files)[0]
    for number in range(PLANNED):
        first, second = rng.choice([("postcards", "postcards"), ("postcards", "tiny"), ("tiny", "postcards")])
        request = forms.request_from_form(form_of(rng, refiner="tiny"), first)
        plan = planned(request, catalogue, styles)
        text = infotext_of(plan, 0)
        repeated = forms.request_from_form(page.paste("txt2img", left_behind("txt2img"), text, second), second)
        other = planned(repeated, catalogue, styles)
        assert infotext_of(other, 0) == text, number
        # Everything that drawing reads.
        for field in ("prompts", "negative_prompts", "seeds", "sampler", "scheduler", "second", "refiner"):
            assert getattr(other, field) == getattr(plan, field), (number, field, text)


def planned(request: GenerationRequest, catalogue: Catalogue, styles: Mapping[str, Any]) -> Plan:
    return make_plan(request, Settings(), catalogue, styles)


def sources(page: Page, rng: random.Random) -> dict[str, Any]:
    """What the page tells of a picture to draw from."""

    def keep(image: Image.Image) -> str:
        out = io.BytesIO()
        image.save(out, "PNG")
        return page.service.keep_input(out.getvalue())

    size = rng.choice([(64, 64), (96, 64), (80, 100)])
    sent = {"mode": rng.choice(["img2img", "inpaint", "upload"]), "width": size[0], "height": size[1]}
    sent["image"] = keep(picture(rng.randrange(1000), size))
    if sent["mode"] != "img2img":
        x, y = rng.randrange(40), rng.randrange(40)
        sent["mask"] = keep(disc(size, (x, y, x + rng.randint(9, 30), y + rng.randint(9, 30))))
    return sent


def restored(page: Page, id: str) -> dict[str, Any]:
    """What History's "Restore all settings" puts into the frame of img2img, once it is uploaded."""
    parents = {kind: name for name, kind in page.service.history.get(id).parents.items()}
    with Image.open(page.service.folders.inputs / parents["source"]) as image:
        sent = {"mode": "upload" if "mask" in parents else "img2img", "width": image.width, "height": image.height}
    return sent | {"image": parents["source"], "mask": parents.get("mask")}


def test_pictures_are_drawn_again_from_their_infotext(page: Page, test_seed: int) -> None:
    rng = random.Random(test_seed)
    different = []
    for number in range(DRAWN):
        tab = rng.choice(["txt2img", "txt2img", "img2img"])
        first, second = rng.choice(CHANGES)
        form = form_of(rng, tab, "small" if first == "tiny" else "tiny")
        pictures = json.dumps(sources(page, rng)) if tab == "img2img" else None
        id, one = page.generate(tab, form, first, pictures)
        with Image.open(one) as image:
            text = str(read_infotext(image))
        if tab == "img2img":
            pictures = json.dumps(restored(page, id))
        values = page.paste(tab, left_behind(tab), text, second)
        _, two = page.generate(tab, values, second, pictures)
        if not np.array_equal(pixels(one), pixels(two)):
            different.append((number, text, {k: (v, values[k]) for k, v in form.items() if v != values[k]}))
            print(*different[-1], sep="\n")
    assert different == []


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
