"""Wildcards and styles on the way to a picture."""

from __future__ import annotations

from modules.prompt import infotext
from modules.schema.settings import Settings

CHOICES = Settings().with_options({"prompt_wildcards": "Files and choices"})


def test_every_picture_draws_its_own_words_and_pasting_them_repeats_it(studio, pixels):
    folder = studio.folders.wildcards
    folder.mkdir(exist_ok=True)
    (folder / "kind.txt").write_text("house\ncat\nboat\ncar\ntree\n")
    drawn = studio.draw(
        settings=CHOICES, prompt="a {red|blue} __kind__", negative_prompt="{dark|bright}", n_iter=6, seed=5
    )
    texts = [infotext.read(picture.record.infotext) for picture in drawn]
    assert len({text.prompt for text in texts}) >= 3
    for picture, text in zip(drawn, texts):
        assert text.fields["Template"] == "a {red|blue} __kind__"
        assert text.fields["Negative Template"] == "{dark|bright}"
        _, color, kind = text.prompt.split()
        assert text.fields["Wildcards"] == (
            f"{{red|blue}} = {color}; __kind__ = {kind}; {{dark|bright}} = {text.negative_prompt}"
        )
        (again,) = studio.draw(
            settings=CHOICES,
            prompt=text.prompt,
            negative_prompt=text.negative_prompt,
            seed=int(str(text.fields["Seed"])),
        )
        assert pixels(studio, again) == pixels(studio, picture)
        assert "Template" not in again.record.infotext
    (alone,) = studio.draw(settings=CHOICES, prompt="a {red|blue} __kind__", negative_prompt="{dark|bright}", seed=8)
    assert alone.record.infotext == drawn[3].record.infotext


def test_braces_are_words_unless_asked_for_and_unknown_names_are_told(studio):
    (picture,) = studio.draw(prompt="a {red|blue} __beast__")
    assert infotext.read(picture.record.infotext).prompt == "a {red|blue} __beast__"
    assert "Wildcards" not in picture.record.infotext
    assert any("beast.txt" in getattr(event, "message", "") for event in studio.events)
    off = Settings().with_options({"prompt_wildcards": "Off"})
    studio.draw(settings=off, prompt="__beast__")
    assert not any("beast" in getattr(event, "message", "") for event in studio.events)


def test_a_style_file_that_cannot_be_read_costs_a_sentence(studio):
    studio.folders.styles_files[0].write_bytes(b"\xff\xfe")
    (picture,) = studio.draw(prompt="a cat", styles=("photo",))
    messages = [getattr(event, "message", "") for event in studio.events]
    assert sum("styles.csv is not UTF-8" in message for message in messages) == 1
    assert any("'photo'" in message for message in messages)
    assert picture.record.infotext.startswith("a cat\n")
    studio.draw(prompt="a cat")
    assert not any("styles.csv" in getattr(event, "message", "") for event in studio.events)
