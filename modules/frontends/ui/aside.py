"""Pictures put aside: the Save button's copies in one folder, and log.csv beside them, in A1111's columns.

A copy is the picture's own file under its own name. What lies there already is not written twice, and what is called
the same but is another picture gets a number.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from modules.frontends.desk import FrontDesk
from modules.frontends.ui.results import bytes_of, name_fields
from modules.imaging.naming import clean_path, expand, resolve_under
from modules.imaging.save import NameTaken, kept_as, safe_write
from modules.prompt import infotext
from modules.schema.errors import DiskTrouble
from modules.schema.record import SavedRecord

LOG = "log.csv"
COLUMNS = (
    "prompt", "seed", "width", "height", "sampler", "cfgs", "steps", "filename", "negative_prompt", "sd_model_name",
    "sd_model_hash",
)  # fmt: skip


class PutAside(BaseModel):
    """Where the copies lie (as records hold paths), and what went wrong besides."""

    paths: list[str]
    problem: str = ""


class Aside:
    """The one hand that writes there, so that no two write the log at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def put(self, service: FrontDesk, ids: Sequence[str]) -> PutAside:
        """Copies of these pictures. DiskTrouble where one cannot be written; the log alone is only told of."""
        saving, data_dir = service.settings.saving, service.folders.data
        root = data_dir / saving.outdir_save
        with self._lock:
            paths, rows = [], []
            for id in ids:
                data, record = bytes_of(service, id)
                folder = root
                if saving.use_save_to_dirs_for_ui:
                    pattern, words = saving.directories_filename_pattern, saving.directories_max_prompt_words
                    below = clean_path(expand(pattern or "[prompt_words]", name_fields(record), max_words=words))
                    folder = resolve_under(root, below.as_posix()) if below.parts else root
                path, new = _copied(folder, Path(record.path or f"{record.index:05}-{record.seed}.png").name, data)
                paths.append(kept_as(path, data_dir))
                if new:
                    rows.append(_row(record, path.relative_to(root).as_posix()))
            problem = ""
            if rows and saving.save_write_log_csv:
                try:
                    _log(root / LOG, rows)
                except (DiskTrouble, OSError, UnicodeError, csv.Error) as error:
                    problem = f"{LOG} was not written: {getattr(error, 'message', '') or error}"
        return PutAside(paths=paths, problem=problem)


def _copied(folder: Path, name: str, data: bytes) -> tuple[Path, bool]:
    """Where the copy lies, and whether it was written now."""
    for path in _places(folder, name):
        try:
            return safe_write(path, data), True
        except NameTaken:
            if path.read_bytes() == data:
                return path, False
    raise DiskTrouble(f"{folder} holds too many pictures called {name}; move some away.")


def _places(folder: Path, name: str) -> Iterator[Path]:
    path = folder / name
    yield path
    for number in range(1, 10_000):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _row(record: SavedRecord, name: str) -> list[str]:
    told = infotext.read(record.infotext)
    values = {
        "prompt": told.prompt, "seed": record.seed, "width": record.width, "height": record.height,
        "sampler": told.fields.get("Sampler", ""), "cfgs": told.fields.get("CFG scale", ""),
        "steps": told.fields.get("Steps", ""), "filename": name, "negative_prompt": told.negative_prompt,
        "sd_model_name": told.fields.get("Model", ""), "sd_model_hash": told.fields.get("Model hash", ""),
    }  # fmt: skip
    return [str(values[column]) for column in COLUMNS]


def _log(path: Path, rows: list[list[str]]) -> None:
    """Rows added to the table; one of before A1111 1.3 gets the columns of the model."""
    before = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
    table = list(csv.reader(io.StringIO(before, newline="")))
    if not table:
        table = [list(COLUMNS)]
    elif tuple(table[0]) != COLUMNS:
        if tuple(table[0]) != COLUMNS[: len(table[0])]:
            raise DiskTrouble(f"{path.name} has other columns than A1111's; give that file another name.")
        table = [list(COLUMNS), *([*row, *[""] * (len(COLUMNS) - len(row))] for row in table[1:])]
    out = io.StringIO(newline="")
    csv.writer(out).writerows([*table, *rows])
    safe_write(path, out.getvalue().encode("utf-8", "replace"), overwrite=True)
