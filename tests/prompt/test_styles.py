"""Styles: A1111's file, merging into prompts, and finding them again."""

from __future__ import annotations

from hypothesis import strategies as st

from modules.prompt.styles import Style, apply_styles, extract_styles, read_styles, write_styles

from .texts import holds_for, prompts

FILE = (
    b"\xef\xbb\xbfname,prompt,negative_prompt\r\n"
    b'photo,"photo of {prompt}, 35mm",drawing\r\n'
    b"#old,x,y\r\n"
    b",,\r\n"
    b'oil,"oil painting\nthick strokes",\r\n'
    b"short\r\n"
)


def test_a_styles_file_is_read():
    assert read_styles(FILE) == {
        "photo": Style("photo", "photo of {prompt}, 35mm", "drawing"),
        "oil": Style("oil", "oil painting\nthick strokes", ""),
        "short": Style("short"),
    }


def test_very_old_files_call_the_column_text():
    assert read_styles(b"name,text\nink,ink drawing\n") == {"ink": Style("ink", "ink drawing")}


def test_a_styles_file_is_written_as_a1111_does():
    assert write_styles([Style("photo", "a, b", "c"), Style("ü")]) == (
        b'\xef\xbb\xbfname,prompt,negative_prompt\r\nphoto,"a, b",c\r\n\xc3\xbc,,\r\n'
    )


def test_styles_are_merged_in_order():
    styles = read_styles(FILE)
    assert apply_styles(styles, ["photo", "oil", "unknown"], "a cat", "blurry") == (
        "photo of a cat, 35mm, oil painting\nthick strokes",
        "blurry, drawing",
    )


def test_applied_styles_are_found_again():
    styles = read_styles(FILE)
    merged = apply_styles(styles, ["photo", "oil"], "a cat", "blurry")
    assert extract_styles(styles, *merged) == (("photo", "oil"), "a cat", "blurry")


def test_a_style_counts_only_if_both_its_parts_are_there():
    styles = {"photo": Style("photo", "35mm", "drawing")}
    assert extract_styles(styles, "a cat, 35mm", "blurry") == ((), "a cat, 35mm", "blurry")


text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


@holds_for(rows=st.lists(st.tuples(text.filter(lambda s: s and not s.startswith("#")), text, text)))
def test_a_file_keeps_every_style(rows):
    styles = {row[0]: Style(*row) for row in rows}
    assert read_styles(write_styles(styles.values())) == styles


@holds_for(data=st.binary(max_size=200) | prompts.map(lambda s: ("name,prompt\n" + s).encode("utf-8", "replace")))
def test_any_file_is_read_without_an_error(data):
    assert all(name == style.name for name, style in read_styles(data).items())


@holds_for(fragment=prompts, prompt=prompts)
def test_extraction_never_invents_text(fragment, prompt):
    styles = {"s": Style("s", fragment, "")}
    found, rest, negative = extract_styles(styles, prompt, "")
    assert rest in prompt
    assert negative == ""
    assert found in ((), ("s",))
