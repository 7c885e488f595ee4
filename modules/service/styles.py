"""The styles on disk: A1111's styles.csv, one or several, read anew at each question and edited row by row.

A file that cannot be understood costs its styles and one sentence; it is never written over. Before a file changes, it
is copied to `<name>.bak` as A1111 does; five good copies lie in our own folder besides.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.imaging.save import DISK, Disk, safe_write
from modules.prompt.styles import Sheet, Style, apply_styles, load_styles, read_file
from modules.schema.errors import BadRequest, DiskTrouble, NotFound
from modules.schema.prompts import StyleList, StyleView
from modules.service.copies import Copies

LONGEST_NAME = 200
LONGEST_TEXT = 100_000


class StyleStore:
    """The one place that changes styles files. Thread-safe. New styles go into the first file."""

    def __init__(self, paths: Sequence[Path], copies: Path, disk: Disk = DISK) -> None:
        self.paths, self.copies, self._disk = tuple(paths), copies, disk
        self._lock = threading.Lock()

    def known(self) -> dict[str, Style]:
        """By name; of equal names the last file's."""
        return load_styles(self.paths)[0]

    def listed(self) -> StyleList:
        """All styles in order of their files, and what is wrong with files."""
        found: dict[str, StyleView] = {}
        sheets = [(path, read_file(path)) for path in self.paths]
        for path, sheet in sheets:
            for style in sheet.styles.values():
                found[style.name] = StyleView(
                    name=style.name, prompt=style.prompt, negative_prompt=style.negative_prompt, file=path.name
                )
        return StyleList(
            styles=tuple(found.values()), warnings=tuple(sheet.problem for _, sheet in sheets if sheet.problem)
        )

    def apply(self, names: Iterable[str], prompt: str, negative_prompt: str) -> tuple[str, str]:
        """Both prompts with the styles merged in; names that are not known do nothing."""
        return apply_styles(self.known(), names, prompt, negative_prompt)

    def save(self, name: str, prompt: str, negative_prompt: str) -> None:
        """Adds a style, or changes the one of this name where it stands.

        BadRequest for a name or text that the file cannot hold; DiskTrouble where the file cannot be written or holds
        something else.
        """
        style = Style(_checked(name), _plain(prompt, "prompt"), _plain(negative_prompt, "negative_prompt"))
        with self._lock:
            sheets = [(path, read_file(path)) for path in self.paths]
            holding = [pair for pair in sheets if style.name in pair[1].styles]
            path, sheet = (holding or sheets[:1])[-1]
            self._write(path, sheet, sheet.with_style(style))

    def delete(self, name: str) -> None:
        """Takes a style out of every file. NotFound where none has it."""
        with self._lock:
            holding = [(path, sheet) for path in self.paths if name in (sheet := read_file(path)).styles]
            if not holding:
                raise NotFound(f"No style is called {name!r:.200}; the list shows those that are.")
            for path, sheet in holding:
                self._write(path, sheet, sheet.without(name))

    def _write(self, path: Path, before: Sheet, after: Sheet) -> None:
        if before.problem:
            raise DiskTrouble(f"{before.problem} Nothing was saved, so that nothing of it is lost.")
        path = path.resolve()  # a link stays one
        copies = Copies(self.copies, f"{hashlib.sha256(str(path).encode()).hexdigest()[:8]}-{path.name}", self._disk)
        try:
            old = path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DiskTrouble(f"{path.name} cannot be read ({error.strerror}); nothing was saved.") from error
        else:
            copies.keep(old)
            safe_write(path.with_name(f"{path.name}.bak"), old, overwrite=True, disk=self._disk)
        data = after.to_bytes()
        safe_write(path, data, overwrite=True, disk=self._disk)
        copies.keep(data)


def _checked(name: str) -> str:
    name = " ".join(_plain(name, "name").splitlines())
    if not name.strip() or name.startswith("#") or len(name) > LONGEST_NAME:
        raise BadRequest(
            f"A style's name is a line of 1 to {LONGEST_NAME} characters that does not begin with #; give another.",
            field="name",
        )
    return name


def _plain(text: str, field: str) -> str:
    """Text that a file can hold."""
    if len(text) > LONGEST_TEXT:
        raise BadRequest(f"A style holds at most {LONGEST_TEXT:,} characters; shorten its {field}.", field=field)
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
