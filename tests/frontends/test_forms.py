"""From what stands in the form to a request, and what a page opens with."""

from __future__ import annotations

import json
import random

import pytest

from modules.frontends.requests import make_request
from modules.frontends.ui import forms
from modules.frontends.ui.examples import EXAMPLES, examples_html
from modules.schema.control import ControlUnit
from modules.schema.errors import BadRequest
from modules.schema.prompts import StyleList, StyleView
from modules.schema.request import MAX_SEED, GenerationRequest, Hires, Mask, Refiner, Source
from modules.schema.scripts import XyzPlot
from modules.schema.settings import Settings
from tests.frontends.stand_in import CHECKPOINTS

POSTCARDS, DREAM = CHECKPOINTS
UNTOUCHED = forms.untouched("txt2img")

TWO_FILES = StyleList(styles=(StyleView(name="photo", file="styles.csv"), StyleView(name="ink", file="more.csv")))


def test_styles_of_several_files_are_parted_by_a_line():
    line = forms.style_choices(TWO_FILES)
    assert line == [
        "---------------- STYLES ----------------",
        "photo",
        "----------------- MORE -----------------",
        "ink",
    ]
    assert forms.style_choices(StyleList(styles=TWO_FILES.styles[:1])) == ["photo"]


def test_an_untouched_form_asks_for_the_defaults():
    assert forms.request_from_form(UNTOUCHED, None) == GenerationRequest()


def test_every_field_reaches_the_request():
    values = UNTOUCHED | {
        "prompt": "a cat", "negative_prompt": "dog", "sampler": "Euler a", "scheduler": "Karras", "steps": 7.0,
        "width": 640.0, "height": 384, "n_iter": 2, "batch_size": 3, "cfg_scale": 4.5, "seed": str(MAX_SEED),
        "styles": ["photo", forms.style_choices(TWO_FILES)[0], "ink"], "filmstrip": 5.0, "cfg_rescale": 0.7,
        "seed_extra": True, "subseed": "9", "subseed_strength": 0.25, "seed_resize_from_w": 512,
        "hires": True, "hires.hr_scale": 1.5, "hires.hr_upscaler": "Lanczos", "hires.hr_prompt": "sharp",
        "refiner": True, "refiner.refiner_checkpoint": "postcards", "refiner.refiner_switch_at": 0.5,
        "override_settings": ["Clip skip: 2", "Nothing: 3"],
    }  # fmt: skip
    request = forms.request_from_form(values, "dream")
    hires = Hires(
        hr_scale=1.5, hr_upscaler="Lanczos", hr_prompt="sharp", hr_checkpoint_name="Use same checkpoint",
        hr_sampler_name="Use same sampler", hr_scheduler="Use same scheduler",
    )  # fmt: skip
    assert request == GenerationRequest(
        prompt="a cat", negative_prompt="dog", sampler="Euler a", scheduler="Karras", steps=7, width=640, height=384,
        n_iter=2, batch_size=3, cfg_scale=4.5, seed=MAX_SEED, checkpoint="dream", cfg_rescale=0.7,
        styles=("photo", "ink"), filmstrip=5, subseed=9, subseed_strength=0.25, seed_resize_from_w=512, hires=hires,
        refiner=Refiner(refiner_checkpoint="postcards", refiner_switch_at=0.5),
        override_settings={"CLIP_stop_at_last_layers": "2"},
    )  # fmt: skip


def test_what_is_switched_off_does_not_reach_the_request():
    values = UNTOUCHED | {
        "subseed": "9",
        "subseed_strength": 0.25,
        "hires.hr_scale": 3,
        "refiner.refiner_switch_at": 0.1,
    }
    assert forms.request_from_form(values, None) == GenerationRequest()


def told(mode: str, mask: str | None = "b" * 64) -> str:
    return json.dumps({"mode": mode, "image": "a" * 64, "mask": mask, "width": 500, "height": 300})


def test_img2img_takes_its_pictures_by_name():
    values = forms.untouched("img2img") | {
        "source.denoising_strength": 0.4, "source.resize_mode": 1, "source.mask.mask_blur_x": 9,
        "source.mask.inpaint_full_res": 1, "source.mask.inpainting_fill": 2, "source.mask.inpainting_mask_invert": 1,
    }  # fmt: skip
    request = forms.request_from_form(values, None, "img2img", told("img2img"))
    assert request.source == Source(images=("a" * 64,), denoising_strength=0.4, resize_mode=1, image_cfg_scale=1.5)
    request = forms.request_from_form(values, None, "img2img", told("inpaint"))
    assert request.source is not None
    assert request.source.mask == Mask(
        image="b" * 64, mask_blur_x=9, mask_blur_y=9, inpaint_full_res=True, inpainting_fill=2,
        inpainting_mask_invert=True,
    )  # fmt: skip
    assert (request.width, request.height) == (512, 512)
    scaled = forms.request_from_form(values | {"resize_by": 1, "scale": 0.5}, None, "img2img", told("img2img"))
    assert (scaled.width, scaled.height) == (248, 144)


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        (None, "There is no picture to start from yet"), ("", "There is no picture"), ("[1]", "There is no picture"),
        (told("inpaint", None), "Nothing is masked yet"), (json.dumps({"image": "../x"}), "Source pictures cannot be"),
    ],
)  # fmt: skip
def test_img2img_without_its_pictures_is_refused_in_words(pictures, sentence):
    with pytest.raises(BadRequest, match=sentence):
        forms.request_from_form(forms.untouched("img2img"), None, "img2img", pictures)


INFOTEXT = """a (red) house, night
Negative prompt: fog
Steps: 12, Sampler: DPM++ 2M SDE Karras, CFG scale: 6.5, Seed: 77, Size: 640x384, \
Model hash: 0123456789, Model: postcards, Denoising strength: 0.5, Clip skip: 2, Variation seed: 5, \
Variation seed strength: 0.3, Hires upscale: 1.5, Hires steps: 4, \
Hires upscaler: Latent (nearest), Refiner: dream [0000000000], Refiner switch at: 0.7, Version: v1.10.1"""


def test_an_infotext_fills_the_form():
    values = forms.values_from_infotext(INFOTEXT, "txt2img", Settings(), CHECKPOINTS, "dream")
    expected = {
        "prompt": "a (red) house, night", "negative_prompt": "fog", "steps": 12, "sampler": "DPM++ 2M SDE",
        "scheduler": "Karras", "cfg_scale": 6.5, "seed": "77", "width": 640, "height": 384, "hires": True,
        "hires.denoising_strength": 0.5, "hires.hr_scale": 1.5, "hires.hr_second_pass_steps": 4, "refiner": True,
        "hires.hr_upscaler": "Latent (nearest)", "refiner.refiner_checkpoint": "dream", "seed_extra": True,
        "refiner.refiner_switch_at": 0.7, "subseed": "5", "subseed_strength": 0.3,
        "override_settings": ["Model: postcards", "Clip skip: 2"],
    }  # fmt: skip
    assert {path: values[path] for path in expected} == expected
    assert not {"n_iter", "batch_size", "filmstrip"} & set(values)
    request = forms.request_from_form(UNTOUCHED | values, "dream")
    assert request.checkpoint == "postcards"


def test_an_infotext_of_inpainting_fills_the_other_form():
    text = "Steps: 3, Seed: 1, Size: 64x64, Denoising strength: 0.3, Masked content: latent noise, "
    text += "Inpaint area: Only masked, Mask mode: Inpaint not masked, Mask blur: 7"
    values = forms.values_from_infotext(text, "img2img", Settings())
    expected = {
        "source.denoising_strength": 0.3, "source.mask.inpainting_fill": 2, "source.mask.inpaint_full_res": 1,
        "source.mask.inpainting_mask_invert": 1, "source.mask.mask_blur_x": 7,
    }  # fmt: skip
    assert {path: values[path] for path in expected} == expected


def test_a_plain_prompt_and_a_strange_infotext_change_only_what_they_tell(test_seed):
    assert forms.values_from_infotext("a (red) house", "txt2img", Settings())["prompt"] == "a (red) house"
    assert set(forms.values_from_infotext("a", "txt2img", Settings())) == {"prompt", "negative_prompt"}
    assert forms.values_from_infotext("", "txt2img", Settings()) == {}
    strange = "x\nSteps: 1e99, Sampler: gone, Seed: abc, Size: 9x9, CFG scale: nan, Hires upscale: 77, Clip skip: many"
    values = forms.values_from_infotext(strange, "txt2img", Settings())
    assert not {"steps", "sampler", "seed", "width", "cfg_scale", "hires.hr_scale"} & set(values)
    assert "Clip skip: many" not in values["override_settings"]
    rng = random.Random(test_seed)
    for _ in range(100):
        spoiled = list(INFOTEXT)
        for _ in range(4):
            spoiled[rng.randrange(len(spoiled))] = chr(rng.randrange(32, 127))
        values = forms.values_from_infotext("".join(spoiled), "txt2img", Settings(), CHECKPOINTS)
        forms.request_from_form(UNTOUCHED | values, None)  # never refused


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("seed", "abc", "Seed cannot be 'abc'; give a whole number, or -1 to draw a new one."),
        ("seed", str(2**64), "Seed cannot be 18446744073709551616; give a whole number from -1 to"),
        ("seed", "-2", "Seed cannot be -2"),
        ("width", 9000, "Width cannot be 9000 here; give a number from 64 to 2048."),
        ("width", 8, "Width cannot be 8; give a whole number from 64 to 16384."),
        ("steps", 0, "Sampling steps cannot be 0; give a whole number from 1 to 150."),
        ("steps", 2.5, "Sampling steps cannot be 2.5; give a whole number from 1 to 150."),
        ("steps", None, "Sampling steps is empty; give a whole number from 1 to 150."),
        ("height", "tall", "Height cannot be 'tall'"),
        ("cfg_scale", float("nan"), "CFG Scale cannot be nan"),
        ("styles", "photo", "Styles cannot be 'photo'; give a list of names."),
        ("styles", [3], "Styles cannot be"),
        ("prompt", "x" * 100_001, "Prompt is 100,001 characters long; 100,000 is the most."),
    ],
)
def test_wrong_input_gives_one_sentence_and_names_the_field(field, value, sentence):
    with pytest.raises(BadRequest) as caught:
        forms.request_from_form(UNTOUCHED | {field: value}, None)
    assert caught.value.message.startswith(sentence)
    assert caught.value.field == field


def test_strange_texts_survive_or_are_mended():
    request = make_request({"prompt": "half \ud83d an emoji, a zero \0, whole 😀"})
    assert request.prompt == "half � an emoji, a zero , whole 😀"
    request.prompt.encode("utf-8")
    assert forms.request_from_form(UNTOUCHED | {"seed": "  "}, None).seed == -1


def test_unknown_fields_of_a_request_are_named():
    with pytest.raises(BadRequest, match="no field called 'promt'"):
        make_request({"promt": "a typo"})


def test_an_untouched_size_follows_the_checkpoint_and_a_chosen_one_stays():
    plain = forms.defaults_of(None)
    assert forms.follow_checkpoint(plain, None, POSTCARDS) == {"width": 128, "height": 128, "cfg_scale": 5.0}
    touched = {"width": 640, "height": 128, "cfg_scale": 5.0}
    assert forms.follow_checkpoint(touched, POSTCARDS, DREAM) == {"width": 640, "height": 512, "cfg_scale": 7.0}


def test_a_page_opens_with_the_checkpoints_defaults():
    chosen, values = forms.opening_values({}, CHECKPOINTS, "postcards.safetensors [0123456789]")
    assert chosen == POSTCARDS
    assert (values["width"], values["cfg_scale"], values["seed"]) == (128, 5.0, "-1")
    assert list(values) == list(forms.TXT2IMG)


def test_a_page_opens_without_any_checkpoint():
    chosen, values = forms.opening_values({}, (), None)
    assert chosen is None
    assert values["width"] == 512


def test_a_draft_comes_back_as_it_was():
    draft = UNTOUCHED | {"prompt": "kept", "width": 384, "seed": "77", "followed": "postcards"}
    _, values = forms.opening_values(forms.read_draft(json.dumps(draft)), CHECKPOINTS, "postcards")
    assert (values["prompt"], values["width"], values["height"], values["seed"]) == ("kept", 384, 512, "77")


def test_a_spoiled_draft_loses_only_what_makes_no_sense(test_seed):
    draft = UNTOUCHED | {"prompt": "kept", "steps": 1e9, "sampler": "gone", "seed": "abc", "width": {"a": 1}}
    assert set(draft) - set(forms.read_draft(json.dumps(draft))) == {"steps", "sampler", "seed", "width"}
    assert forms.read_draft("[]") == forms.read_draft("{") == forms.read_draft(None) == {}
    rng = random.Random(test_seed)
    text = json.dumps(draft)
    for _ in range(200):
        spoiled = list(text)
        for _ in range(rng.randint(1, 4)):
            spoiled[rng.randrange(len(spoiled))] = chr(rng.randrange(32, 127))
        found = forms.read_draft("".join(spoiled))
        forms.opening_values(found, CHECKPOINTS, None)  # never raises


def test_examples_are_shown_for_their_checkpoint_only_and_escaped():
    assert examples_html("postcards").count("<button") == len(EXAMPLES["postcards"])
    assert "a red house on green hills, night, moon" in examples_html("postcards")
    assert examples_html("dream") == examples_html(None) == ""


def test_loras_of_an_infotext_are_called_as_they_are_here():
    text = 'a <lora:ink:0.5>\nSteps: 3, Sampler: Euler, Seed: 1, Lora hashes: "ink: 0123456789ab"'
    values = forms.values_from_infotext(text, "txt2img", Settings(), loras={"0123456789ab": "My Ink"})
    assert values["prompt"] == "a <lora:My Ink:0.5>"


def test_the_chosen_script_reaches_the_request():
    plot = json.dumps({"name": "x/y/z plot", "args": {"x_type": "Steps", "x_values": "1-3", "margin_size": 4}})
    made = forms.request_from_form(UNTOUCHED | {"script": plot}, None)
    assert made.script == XyzPlot(x_type="Steps", x_values="1-3", margin_size=4)
    picture = json.dumps({"mode": "img2img", "image": "0" * 64})
    for name, args, part in (
        ("loopback", {"loops": 3, "denoising_curve": "Lazy"}, "loopback"),
        ("sd upscale", {"overlap": 16, "upscaler": "Lanczos"}, "tiles"),
    ):
        values = forms.untouched("img2img") | {"script": json.dumps({"name": name, "args": args})}
        source = forms.request_from_form(values, None, "img2img", picture).source
        assert source is not None
        assert {key: getattr(getattr(source, part), key) for key in args} == args


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"name": "custom code"}', "no such script"),
        ('{"name": "prompt matrix", "args": {"margin_size": -1}}', "Grid margins"),
        ('{"name": "prompt matrix", "args": {"nonsense": 1}}', "no field called 'nonsense'"),
        ('{"name": "loopback", "args": {"loops": 0}}', "picture to start from|Loops"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused_in_words(text: str, match: str):
    with pytest.raises(BadRequest, match=match):
        forms.request_from_form(UNTOUCHED | {"script": text}, None)


def test_an_infotext_chooses_its_script():
    plot = (
        "a\nSteps: 4, Sampler: Euler, Schedule type: Automatic, Seed: 1, Size: 64x64, Script: X/Y/Z plot, "
        'X Type: Seed, X Values: -1, Fixed X Values: "7, 8", Y Type: Sampler, Y Values: "Euler,DDIM", '
        "Z Type: Size, Z Values: 64x72"
    )
    told = json.loads(forms.values_from_infotext(plot, "txt2img", Settings())["script"])
    assert told["name"] == "x/y/z plot"
    assert (told["args"]["x_type"], told["args"]["x_values"]) == ("Seed", "7, 8")
    assert (told["args"]["y_type"], told["args"]["y_values_dropdown"]) == ("Sampler", ["Euler", "DDIM"])
    assert (told["args"]["z_type"], told["args"]["z_values"]) == ("Size", "64x72")
    plain = "a\nSteps: 4, Sampler: Euler, Seed: 1, Size: 64x64"
    assert json.loads(forms.values_from_infotext(plain, "txt2img", Settings())["script"])["name"] == ""
    loops = plain + ", Final denoising strength: 0.3, Denoising curve: Lazy"
    told = json.loads(forms.values_from_infotext(loops, "img2img", Settings())["script"])
    assert (told["name"], told["args"]) == ("loopback", {"final_denoising_strength": 0.3, "denoising_curve": "Lazy"})
    assert json.loads(forms.values_from_infotext(loops, "txt2img", Settings())["script"])["name"] == ""


def test_units_of_controlnet_come_from_the_page_and_from_an_infotext():
    unit = {"module": "canny", "model": "lines [0123abcd]", "weight": 0.5, "threshold_a": 90, "image": "a" * 64}
    made = forms.request_from_form(UNTOUCHED | {"controlnet": json.dumps([unit])}, None)
    assert made.controlnet == (ControlUnit(**unit),)
    assert forms.request_from_form(UNTOUCHED, None).controlnet == ()
    for wrong in ("[0]", "{}", "x", "3"):
        with pytest.raises(BadRequest) as refused:
            forms.request_from_form(UNTOUCHED | {"controlnet": wrong}, None)
        assert refused.value.field == "controlnet"
    with pytest.raises(BadRequest, match="Control Weight of ControlNet unit 0 cannot be 90"):
        forms.request_from_form(UNTOUCHED | {"controlnet": json.dumps([{**unit, "weight": 90}])}, None)
    text = (
        "a house\nSteps: 5, Sampler: Euler, CFG scale: 5, Seed: 1, Size: 64x64, ControlNet 1: "
        '"Module: invert, Model: other, Weight: 1, Guidance End: 0.5", ControlNet 0: "Module: canny, Model: lines '
        '[0123abcd], Weight: 0.5, Resize Mode: Resize and Fill, Threshold A: 90, Pixel Perfect: True, Nonsense: 3", '
        'ControlNet 2: "Module: canny, Model: None"'
    )
    told = json.loads(forms.values_from_infotext(text, "txt2img", Settings())["controlnet"])
    assert told["units"] == [
        {"module": "canny", "model": "lines [0123abcd]", "weight": 0.5, "resize_mode": "Resize and Fill",
         "threshold_a": 90, "pixel_perfect": True},
        {"module": "invert", "model": "other", "weight": 1, "guidance_end": 0.5},
    ]  # fmt: skip
    plain = "a house\nSteps: 5, Sampler: Euler, CFG scale: 5, Seed: 1"
    again = json.loads(forms.values_from_infotext(plain, "txt2img", Settings())["controlnet"])
    assert again["units"] == []
    assert again["paste"] > told["paste"]
    kept = json.dumps({"controlnet": json.dumps(told), "steps": 7})
    assert forms.read_draft(kept, "txt2img") == {"steps": 7, "controlnet": ""}
