"""Styles: named prompt fragments, in A1111's styles.csv, merged into prompts and found again in them.

A file is CSV in UTF-8 with the columns name, prompt, negative_prompt (very old ones: name, text). Rows without a name
or whose name begins with # are comments. `{prompt}` in a fragment marks where the user's text goes; a fragment without
it is appended after a comma. Of several files the later ones win where names are equal.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

PLACE = "{prompt}"
MAX_BYTES = 16 * 2**20
_COLUMNS = ("name", "prompt", "negative_prompt")
_OLD_NAMES = {"prompt": "text"}


@dataclass(frozen=True)
class Style:
    """A named fragment for the prompt and one for the negative prompt; either may be empty."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


@dataclass(frozen=True)
class Sheet:
    """One styles.csv as rows, the first naming the columns, so that whatever else it holds survives an edit.

    problem: one sentence where the file cannot be understood; it then has no styles and must not be written over.
    """

    rows: tuple[tuple[str, ...], ...] = ()
    delimiter: str = ","
    problem: str | None = None

    @property
    def styles(self) -> dict[str, Style]:
        """In the file's order; a later row of the same name wins."""
        found: dict[str, Style] = {}
        for row in self.rows[1:]:
            name, prompt, negative = (self._cell(row, column) for column in _COLUMNS)
            if name and not name.startswith("#"):
                found[name] = Style(name, prompt, negative)
        return found

    def with_style(self, style: Style) -> Sheet:
        """The sheet with this style in the place of the one of its name, or at its end."""
        header = list(self.rows[0]) if self.rows else list(_COLUMNS)
        header += [column for column in _COLUMNS if self._place(column) is None and self.rows]
        sheet = replace(self, rows=(tuple(header), *self.rows[1:]))
        places = [k for k, row in enumerate(sheet.rows) if k and sheet._cell(row, "name") == style.name]
        row = list(sheet.rows[places[-1]]) if places else []
        row += [""] * (len(header) - len(row))
        for column, text in zip(_COLUMNS, (style.name, style.prompt, style.negative_prompt)):
            place = sheet._place(column)
            assert place is not None, "every column was added above"
            row[place] = text
        rows = [*sheet.rows] if places else [*sheet.rows, ()]
        rows[places[-1] if places else -1] = tuple(row)
        return replace(sheet, rows=tuple(rows))

    def without(self, name: str) -> Sheet:
        """The sheet without the rows of this name."""
        rows = (row for k, row in enumerate(self.rows) if not k or self._cell(row, "name") != name)
        return replace(self, rows=tuple(rows))

    def to_bytes(self) -> bytes:
        """The file as A1111 writes it: UTF-8 with byte order mark, CRLF line ends."""
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=self.delimiter).writerows(self.rows or (_COLUMNS,))
        return out.getvalue().encode("utf-8-sig", "replace")

    def _place(self, column: str) -> int | None:
        names = [name.strip() for name in self.rows[0]] if self.rows else []
        for name in (column, _OLD_NAMES.get(column)):
            if name in names:
                return names.index(name)
        return None

    def _cell(self, row: Sequence[str], column: str) -> str:
        place = self._place(column)
        return row[place] if place is not None and place < len(row) else ""


def read_sheet(data: bytes, name: str = "styles.csv") -> Sheet:
    """A styles.csv; spreadsheet programs' semicolons are understood too. Never raises: see `Sheet.problem`."""
    if len(data) > MAX_BYTES:
        return Sheet(problem=f"{name} is larger than {MAX_BYTES >> 20} MB, so its styles are left out; split it up.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Sheet(problem=f"{name} is not UTF-8 text, so its styles are left out; save it again as CSV UTF-8.")
    first = text.partition("\n")[0]
    delimiter = ";" if "," not in first and ";" in first else ","
    previous = csv.field_size_limit()
    try:
        csv.field_size_limit(max(previous, len(text) + 1))
        rows = list(csv.reader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=delimiter))
    except csv.Error as error:
        return Sheet(problem=f"{name} cannot be read as CSV ({error}), so its styles are left out; repair the file.")
    finally:
        csv.field_size_limit(previous)
    sheet = Sheet(tuple(map(tuple, rows)), delimiter)
    if rows and sheet._place("name") is None:
        wanted = ",".join(_COLUMNS)
        return Sheet(
            problem=f"{name} has no column called name, so its styles are left out; its first line is {wanted}."
        )
    return sheet


def read_file(path: Path) -> Sheet:
    """A styles file on disk; one that is not there is empty."""
    try:
        if path.exists() and not path.is_file():  # what is read of a pipe or device never ends
            return Sheet(problem=f"{path.name} is no file, so its styles are left out.")
        with path.open("rb") as file:
            return read_sheet(file.read(MAX_BYTES + 1), path.name)
    except FileNotFoundError:
        return Sheet()
    except OSError as error:
        reason = error.strerror or error
        return Sheet(problem=f"{path.name} cannot be read ({reason}), so its styles are left out.")


def read_styles(data: bytes) -> dict[str, Style]:
    """The styles of a styles.csv, in the file's order; none where it cannot be understood."""
    return read_sheet(data).styles


def load_styles(paths: Iterable[Path]) -> tuple[dict[str, Style], tuple[str, ...]]:
    """The styles of all files, in order of first appearance, and a sentence for each file that cannot be used."""
    found: dict[str, Style] = {}
    problems: list[str] = []
    for path in paths:
        sheet = read_file(path)
        found |= sheet.styles
        problems += [sheet.problem] if sheet.problem else []
    return found, tuple(problems)


def write_styles(styles: Iterable[Style]) -> bytes:
    """A new styles.csv as A1111 writes it."""
    rows = ((style.name, style.prompt, style.negative_prompt) for style in styles)
    return Sheet((_COLUMNS, *rows)).to_bytes()


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
