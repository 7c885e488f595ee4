"""Styles: A1111's file, merging into prompts, and finding them again."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from modules.prompt.styles import (
    Sheet,
    Style,
    apply_styles,
    extract_styles,
    load_styles,
    read_sheet,
    read_styles,
    write_styles,
)

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


def test_an_edit_leaves_everything_else_in_the_file():
    sheet = read_sheet(FILE).with_style(Style("oil", "oil", "photo")).with_style(Style("new", "n"))
    text = sheet.to_bytes().decode("utf-8-sig")
    assert text == (
        'name,prompt,negative_prompt\r\nphoto,"photo of {prompt}, 35mm",drawing\r\n#old,x,y\r\n,,\r\n'
        "oil,oil,photo\r\nshort\r\nnew,n,\r\n"
    )
    assert list(read_sheet(sheet.without("oil").to_bytes()).styles) == ["photo", "short", "new"]


def test_old_columns_and_semicolons_survive_an_edit():
    old = read_sheet(b"name,text\nink,ink drawing\n").with_style(Style("ink", "ink", "blur"))
    assert old.to_bytes() == b"\xef\xbb\xbfname,text,negative_prompt\r\nink,ink,blur\r\n"
    semicolons = read_sheet(b"name;prompt;negative_prompt\nink;a, b;c\n")
    assert semicolons.styles == {"ink": Style("ink", "a, b", "c")}
    assert semicolons.without("ink").to_bytes() == b"\xef\xbb\xbfname;prompt;negative_prompt\r\n"


@pytest.mark.parametrize("data", [b"name,prompt\n\xff\xfe,x\n", b"nom,prompt\nink,x\n", "name\n".encode("utf-16")])
def test_a_file_that_cannot_be_understood_costs_a_sentence(tmp_path, data):
    (tmp_path / "bad.csv").write_bytes(data)
    (tmp_path / "good.csv").write_bytes(FILE)
    (tmp_path / "folder.csv").mkdir()
    styles, problems = load_styles([tmp_path / n for n in ("bad.csv", "none.csv", "folder.csv", "good.csv")])
    assert list(styles) == ["photo", "oil", "short"]
    assert [problem.split()[0] for problem in problems] == ["bad.csv", "folder.csv"]


def test_of_equal_names_the_last_file_wins(tmp_path):
    (tmp_path / "a.csv").write_bytes(write_styles([Style("ink", "1"), Style("oil")]))
    (tmp_path / "b.csv").write_bytes(write_styles([Style("ink", "2")]))
    styles, _ = load_styles([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert styles == {"ink": Style("ink", "2"), "oil": Style("oil")}
    assert list(styles) == ["ink", "oil"]


@holds_for(rows=st.lists(st.lists(prompts, max_size=4), max_size=4), prompt=prompts)
def test_any_sheet_can_be_edited(rows, prompt):
    sheet = Sheet((("prompt", "name", "more"), *map(tuple, rows)))
    style = Style("ours", prompt.replace("\0", "").encode("utf-8", "replace").decode(), "n")
    again = read_sheet(sheet.with_style(style).to_bytes())
    assert again.styles["ours"] == style
    assert "ours" not in read_sheet(again.without("ours").to_bytes()).styles
