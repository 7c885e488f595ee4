"""Styles: named prompt fragments, in A1111's styles.csv, merged into prompts and found again in them.

A file is CSV in UTF-8 with the columns name, prompt, negative_prompt (very old ones: name, text). Rows without a name
or whose name begins with # are comments. `{prompt}` in a fragment marks where the user's text goes; a fragment without
it is appended after a comma.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PLACE = "{prompt}"
_COLUMNS = ("name", "prompt", "negative_prompt")


@dataclass(frozen=True)
class Style:
    """A named fragment for the prompt and one for the negative prompt; either may be empty."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def read_styles(data: bytes) -> dict[str, Style]:
    """The styles of a styles.csv, in the file's order; a later row of the same name wins. Never raises.

    UTF-8 with or without byte order mark; bytes that are none become the replacement character.
    """
    text = data.decode("utf-8-sig", "replace").replace("\0", "")
    previous = csv.field_size_limit()
    try:
        csv.field_size_limit(max(previous, len(text) + 1))
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return {}
    finally:
        csv.field_size_limit(previous)
    if not rows:
        return {}
    place = {name.strip(): i for i, name in enumerate(rows[0])}

    def cell(row: Sequence[str], *names: str) -> str:
        places = [place[name] for name in names if name in place]
        return row[places[0]] if places and places[0] < len(row) else ""

    styles: dict[str, Style] = {}
    for row in rows[1:]:
        name = cell(row, "name")
        if name and not name.startswith("#"):
            styles[name] = Style(name, cell(row, "prompt", "text"), cell(row, "negative_prompt"))
    return styles


def write_styles(styles: Iterable[Style]) -> bytes:
    """A styles.csv as A1111 writes it: UTF-8 with byte order mark, CRLF line ends. Keep the old file as .bak."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    writer.writerows((style.name, style.prompt, style.negative_prompt) for style in styles)
    return out.getvalue().encode("utf-8-sig", "replace")


def apply_fragment(fragment: str, prompt: str) -> str:
    """One fragment merged into a prompt.

    >>> apply_fragment("photo of {prompt}, 35mm", "a cat"), apply_fragment("oil painting", "a cat")
    ('photo of a cat, 35mm', 'a cat, oil painting')
    """
    if PLACE in fragment:
        return fragment.replace(PLACE, prompt)
    return ", ".join(part for part in (prompt.strip(), fragment.strip()) if part)


def apply_styles(
    styles: Mapping[str, Style], names: Iterable[str], prompt: str, negative_prompt: str
) -> tuple[str, str]:
    """Both prompts with the named styles merged in, each on the result of the one before; unknown names do nothing."""
    for name in names:
        if style := styles.get(name):
            prompt = apply_fragment(style.prompt, prompt)
            negative_prompt = apply_fragment(style.negative_prompt, negative_prompt)
    return prompt, negative_prompt


def extract_fragment(fragment: str, prompt: str) -> tuple[bool, str]:
    """Whether the prompt looks like this fragment was merged into it, and the prompt without it."""
    whole, fragment = prompt.strip(), fragment.strip()
    if PLACE in fragment:
        before, _, after = fragment.partition(PLACE)
        if whole.startswith(before) and whole.endswith(after):
            return True, whole[len(before) : len(whole) - len(after)]
    elif whole.endswith(fragment):
        return True, whole[: len(whole) - len(fragment)].removesuffix(", ")
    return False, prompt


def extract_styles(styles: Mapping[str, Style], prompt: str, negative_prompt: str) -> tuple[tuple[str, ...], str, str]:
    """Names of the styles found in both prompts, in the order they were applied, and the prompts without them.

    Each style is taken out once at most; the last one applied is the outermost, so it is found first.
    """
    left = [style for style in styles.values() if style.prompt or style.negative_prompt]
    found: list[str] = []
    while True:
        for style in left:
            in_prompt, new_prompt = extract_fragment(style.prompt, prompt)
            in_negative, new_negative = extract_fragment(style.negative_prompt, negative_prompt)
            if in_prompt and in_negative:
                prompt, negative_prompt = new_prompt, new_negative
                found.append(style.name)
                left.remove(style)
                break
        else:
            return tuple(reversed(found)), prompt, negative_prompt
