"""Networks named in a prompt: what they do to pictures, what is told, and that nothing of them stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from modules.prompt.infotext import parse
from modules.schema.errors import Cancelled
from modules.schema.events import ImageReady, Progress, Warned
from modules.schema.settings import Settings
from tests.pipeline.conftest import Hand, Studio
from tests.weights.adapters.nets import Dice, Small, write_adapter
from tests.weights.adapters.test_apply import lora_for
from tests.weights.adapters.test_hypernetworks import write as write_hypernetwork
from tests.weights.test_embeddings import pixel_coded

Pixels = Callable[[Studio, ImageReady], bytes]


@pytest.fixture(scope="module", autouse=True)
def files(studio: Studio, test_seed: int) -> None:
    folders, dice = studio.folders, Dice(test_seed)
    hypernetworks = folders.models / "hypernetworks"
    for folder in (folders.lora, folders.embeddings, hypernetworks):
        folder.mkdir(parents=True)
    small, xl = Small.of("SD 1.x", test_seed), Small.of("SDXL", test_seed)
    ink = lora_for(small, dice)
    write_adapter(folders.lora / "ink.safetensors", small, ink, metadata={"ss_output_name": "Ink Style"})
    text = {target: parts for target, parts in ink.items() if target.is_text}
    write_adapter(folders.lora / "words.safetensors", small, text)
    write_adapter(folders.lora / "big.safetensors", xl, lora_for(xl, dice), "kohya ldm")
    save_file(
        {
            "bundle_emb.gadgetword.emb_params": dice(2, 32, scale=2),
            "lora_unet_conv_in.diff": dice(32, 4, 3, 3, scale=0),
        },
        folders.lora / "bundle.safetensors",
    )
    write_hypernetwork(hypernetworks / "haze.pt", (32,), dice)
    save_file({"emb_params": dice(2, 32, scale=2)}, folders.embeddings / "wonderword.safetensors")
    save_file({"emb_params": dice(2, 48)}, folders.embeddings / "strangeword.safetensors")


def draw(studio: Studio, pixels: Pixels, prompt: str, **request: Any) -> bytes:
    (picture,) = studio.draw(prompt=prompt, **request)
    return pixels(studio, picture)


def warnings(studio: Studio) -> list[str]:
    return [event.message for event in studio.events if isinstance(event, Warned)]


def field(studio: Studio, key: str) -> object:
    return parse(studio.pictures[0].record.infotext).fields.get(key)


def test_a_lora_draws_and_leaves_nothing_behind(studio: Studio, pixels: Pixels) -> None:
    plain = draw(studio, pixels, "a house")
    inked = draw(studio, pixels, "a house<lora:ink:1>")
    assert inked != plain
    assert warnings(studio) == []
    assert draw(studio, pixels, "a house<lora:Ink Style:1>") == inked
    assert draw(studio, pixels, "a house<lora:ink:0>") == plain
    assert draw(studio, pixels, "a house<lora:ink:0:1>") not in (plain, inked)
    assert draw(studio, pixels, "a house") == plain


def test_after_a_job_that_was_stopped_nothing_is_left(studio: Studio, pixels: Pixels) -> None:
    plain = draw(studio, pixels, "a house")
    with pytest.raises(Cancelled):
        studio.draw(
            Hand(cancel_at=lambda event: isinstance(event, Progress) and event.step == 2),
            prompt="a house<lora:ink:1><hypernet:haze:1>", steps=6,
        )  # fmt: skip
    assert draw(studio, pixels, "a house") == plain


def test_every_picture_of_a_batch_is_that_seed_alone(studio: Studio, pixels: Pixels) -> None:
    batch = studio.draw(prompt="a house<lora:ink:0.8>", batch_size=3)
    batch_pixels = [pixels(studio, picture) for picture in batch]
    assert draw(studio, pixels, "a house<lora:ink:0.8>", seed=3) == batch_pixels[2]


def test_an_unknown_name_is_told_with_the_nearest_and_the_picture_drawn(studio: Studio, pixels: Pixels) -> None:
    plain = draw(studio, pixels, "a house")
    assert draw(studio, pixels, "a house<lora:inc:1>") == plain
    (warning,) = warnings(studio)
    assert warning.startswith("No LoRA is called 'inc'. Nearest: ink")
    assert field(studio, "Lora hashes") is None


def test_a_lora_for_another_family_is_refused_and_the_picture_says_so(studio: Studio, pixels: Pixels) -> None:
    plain = draw(studio, pixels, "a house")
    assert draw(studio, pixels, "a house<lora:big:1>") == plain
    (warning,) = warnings(studio)
    assert warning.startswith("big was not applied: it is made for SDXL")
    assert field(studio, "Not applied") == "big"
    assert field(studio, "Lora hashes") is None


def test_strengths_follow_the_steps(studio: Studio, pixels: Pixels) -> None:
    def at(strength: str) -> bytes:
        return draw(studio, pixels, f"a house<lora:ink:{strength}>", steps=4)

    none, full = at("0"), at("1")
    assert at("[1:0:9]") == full
    assert at("[0:1:9]") == none
    assert at("[0.5|0.5]") == at("0.5")
    late, early = at("[0:1:2]"), at("[1:0:2]")
    assert len({none, full, late, early}) == 4
    assert at("0:[0:1:2]") != late  # here the text encoder stays as it is
    assert at("1:start=9") == at("1:0")


def test_a_text_encoder_that_changes_half_way_reads_the_prompt_twice(studio: Studio, pixels: Pixels) -> None:
    none, full = (draw(studio, pixels, f"a house<lora:words:{n}>", steps=4) for n in (0, 1))
    half = draw(studio, pixels, "a house<lora:words:[0:1:2]>", steps=4)
    assert len({none, full, half}) == 3


def test_block_weights_in_a_tag(studio: Studio, pixels: Pixels) -> None:
    full = draw(studio, pixels, "a house<lora:ink:1>")
    assert draw(studio, pixels, "a house<lora:ink:1:lbw=ALL>") == full
    assert draw(studio, pixels, "a house<lora:ink:1:lbw=NONE>") == draw(studio, pixels, "a house")
    assert draw(studio, pixels, "a house<lora:ink:1:lbw=OUTALL>") != full


def test_a_hypernetwork_draws(studio: Studio, pixels: Pixels) -> None:
    plain = draw(studio, pixels, "a house")
    hazed = draw(studio, pixels, "a house<hypernet:haze:0.5>")
    assert len({plain, hazed, draw(studio, pixels, "a house<hypernet:haze:1>")}) == 3
    assert draw(studio, pixels, "a house<hypernet:haze:0>") == plain


def test_embeddings_are_words_of_either_prompt(studio: Studio, pixels: Pixels) -> None:
    digest = hashlib.sha256((studio.folders.embeddings / "wonderword.safetensors").read_bytes()).hexdigest()[:12]
    plain = draw(studio, pixels, "a house")
    positive = draw(studio, pixels, "a Wonderword house")
    assert field(studio, "TI hashes") == f"wonderword: {digest}"
    negative = draw(studio, pixels, "a house", negative_prompt="wonderword")
    assert field(studio, "TI hashes") == f"wonderword: {digest}"
    assert len({plain, positive, negative}) == 3
    draw(studio, pixels, "a house")
    assert field(studio, "TI hashes") is None


def test_an_embedding_in_a_picture_is_a_word_by_the_name_written_there(
    studio: Studio, pixels: Pixels, test_seed: int
) -> None:
    words = draw(studio, pixels, "a written house")
    folder = studio.folders.embeddings
    pixel_coded(Dice(test_seed)(2, 32, scale=2), 32, test_seed).save(folder / "card.png")
    Image.new("RGB", (32, 32), "red").save(folder / "house.png")
    studio.engine.catalogue.networks.files("embedding", refresh=True)
    assert draw(studio, pixels, "a written house") != words
    assert str(field(studio, "TI hashes")).startswith("written: ")
    assert warnings(studio) == []
    (folder / "card.png").unlink()
    assert draw(studio, pixels, "a written house") == words


def test_an_embedding_of_another_width_is_told_and_read_as_words(studio: Studio, pixels: Pixels) -> None:
    draw(studio, pixels, "a strangeword house")
    (warning,) = warnings(studio)
    assert warning.startswith("The embedding strangeword is made for another family (48 wide, SD 1.x has 32)")
    assert field(studio, "TI hashes") is None


def test_a_bundled_embedding_is_a_word_while_its_lora_is_named(studio: Studio, pixels: Pixels) -> None:
    words = draw(studio, pixels, "a gadgetword house")
    assert draw(studio, pixels, "a gadgetword house<lora:bundle:1>") != words
    assert field(studio, "TI hashes") == "gadgetword: bundle"
    assert draw(studio, pixels, "a gadgetword house") == words


def test_hashes_stand_in_the_infotext_in_the_order_of_the_tags(studio: Studio) -> None:
    def tensors_hash(name: str) -> str:
        raw = (studio.folders.lora / f"{name}.safetensors").read_bytes()
        return hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()[:12]

    studio.draw(prompt="a house<lora:words:0.5><lora:Ink Style:0.5>")
    wanted = f"words: {tensors_hash('words')}, Ink Style: {tensors_hash('ink')}"
    assert field(studio, "Lora hashes") == wanted
    assert f'Lora hashes: "{wanted}"' in studio.pictures[0].record.infotext
    silent = Settings().with_options({"lora_add_hashes_to_infotext": False})
    studio.draw(prompt="a house<lora:ink>", settings=silent)
    assert field(studio, "Lora hashes") is None


def test_a_network_of_the_settings_joins_every_prompt(studio: Studio, pixels: Pixels) -> None:
    inked = draw(studio, pixels, "a house<lora:ink:1.0>")
    assert draw(studio, pixels, "a house", override_settings={"sd_lora": "ink"}) == inked
    assert studio.pictures[0].record.infotext.startswith("a house<lora:ink:1.0>\n")


def test_a_file_that_was_replaced_is_read_again(studio: Studio, pixels: Pixels, test_seed: int) -> None:
    small = Small.of("SD 1.x", test_seed)
    path: Path = studio.folders.lora / "new.safetensors"
    write_adapter(path, small, lora_for(small, Dice(test_seed + 1)))
    first = draw(studio, pixels, "a house<lora:new:1>")
    write_adapter(path, small, lora_for(small, Dice(test_seed + 2)), metadata={"version": "2"})
    assert draw(studio, pixels, "a house<lora:new:1>") != first
