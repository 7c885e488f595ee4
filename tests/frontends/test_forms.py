"""From what stands in the form to a request, and what a page opens with."""

from __future__ import annotations

import json
import random

import pytest

from modules.frontends.requests import make_request
from modules.frontends.ui import forms
from modules.frontends.ui.examples import EXAMPLES, examples_html
from modules.schema.errors import BadRequest
from modules.schema.prompts import StyleList, StyleView
from modules.schema.request import MAX_SEED, GenerationRequest
from tests.frontends.stand_in import CHECKPOINTS

POSTCARDS, DREAM = CHECKPOINTS
UNTOUCHED = {name: forms.known(name).default for name in forms.FIELDS} | {"seed": "-1"}

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
    values = {
        "prompt": "a cat", "negative_prompt": "dog", "sampler": "Euler a", "scheduler": "Karras", "steps": 7.0,
        "width": 640.0, "height": 384, "n_iter": 2, "batch_size": 3, "cfg_scale": 4.5, "seed": str(MAX_SEED),
        "styles": ["photo", forms.style_choices(TWO_FILES)[0], "ink"], "filmstrip": 5.0,
    }  # fmt: skip
    request = forms.request_from_form(values, "dream")
    assert request == GenerationRequest(
        prompt="a cat", negative_prompt="dog", sampler="Euler a", scheduler="Karras", steps=7, width=640, height=384,
        n_iter=2, batch_size=3, cfg_scale=4.5, seed=MAX_SEED, checkpoint="dream",
        styles=("photo", "ink"), filmstrip=5,
    )  # fmt: skip


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
    assert list(values) == list(forms.FIELDS)


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
