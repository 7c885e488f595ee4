"""Files made of the pictures in a results panel: a zip of them, one picture of all, and their folder on the screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from PIL import Image

from modules.frontends.desk import FrontDesk
from modules.imaging.grid import sheet
from modules.imaging.metadata import encode, open_bounded
from modules.imaging.naming import NameFields, clean_component, expand
from modules.prompt import infotext
from modules.schema.errors import BadRequest
from modules.schema.record import SavedRecord

CHUNK = 1 << 20
IN_MEMORY = 32 << 20
NO_FOLDERS = "Folders of this machine are open only to who sits at it."
MOST_PIXELS = 200e6
"""Of a grid, as A1111's img_max_size_mp."""


def bytes_of(service: FrontDesk, id: str) -> tuple[bytes, SavedRecord]:
    """A picture's file. NotFound."""
    found, record = service.picture(id)
    return found if isinstance(found, bytes) else found.read_bytes(), record


def name_fields(record: SavedRecord) -> NameFields:
    """What patterns can name of a picture, as its infotext tells it."""
    told = infotext.read(record.infotext)

    def number(name: str) -> float:
        try:
            return float(str(told.fields.get(name, 0)))
        except ValueError:
            return 0.0

    return NameFields(
        prompt=told.prompt, negative_prompt=told.negative_prompt, seed=record.seed, seeds=(record.seed,),
        steps=int(number("Steps")), cfg_scale=number("CFG scale"), width=record.width, height=record.height,
        sampler=str(told.fields.get("Sampler", "")), scheduler=str(told.fields.get("Schedule type", "")),
        model_name=str(told.fields.get("Model", "")), model_hash=str(told.fields.get("Model hash", "")),
    )  # fmt: skip


def zip_name(service: FrontDesk, ids: Sequence[str]) -> str:
    """What a zip of these is called by the owner's pattern; "" where there is none."""
    pattern = service.settings.saving.grid_zip_filename_pattern
    if not pattern:
        return ""
    _, record = service.picture(ids[0])
    return clean_component(expand(pattern, name_fields(record), zipped=True), 200)


def zipped(service: FrontDesk, ids: Sequence[str]) -> Iterator[bytes]:
    """The pieces of a zip with every picture under its own file name, a number added where two are called the same."""
    place: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - read while it is sent
    taken: set[str] = set()
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        for id in ids:
            data, record = bytes_of(service, id)
            name = Path(record.path or f"{record.index:05}-{record.seed}.png").name
            stem, number = Path(name), 1
            while name in taken:
                name, number = f"{stem.stem}-{number}{stem.suffix}", number + 1
            taken.add(name)
            archive.writestr(name, data)
    place.seek(0)
    return iter(lambda: place.read(CHUNK), b"")


def grid(service: FrontDesk, ids: Sequence[str], rows: int) -> bytes:
    """A PNG file of all these pictures, with the first one's infotext. BadRequest where it would be too large."""
    pictures: list[Image.Image] = []
    infotext = ""
    for id in ids:
        data, record = bytes_of(service, id)
        infotext = infotext or record.infotext
        pictures.append(open_bounded(data).convert("RGB"))
    whole = sheet(pictures, rows, MOST_PIXELS)
    if whole is None:
        raise BadRequest(f"A grid of these would have more than {MOST_PIXELS / 1e6:.0f} million pixels.", field="ids")
    return encode(whole, infotext, "png")


def opener() -> list[str] | None:
    """The command that shows a folder on this machine's screen; None where there is none."""
    if sys.platform == "win32":
        return ["explorer"]
    if sys.platform == "darwin":
        return ["open"]
    command = shutil.which("xdg-open")
    return [command] if command and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) else None


def no_folders(shared: bool) -> str:
    """Why no folder can be shown; "" where one can."""
    if shared:
        return NO_FOLDERS
    return "" if opener() else "This machine has no program that shows folders."


def show_folder(folder: Path) -> None:
    """Show it, without waiting. BadRequest where this machine has no screen to show it on."""
    command = opener()
    if command is None:
        raise BadRequest(f"This machine has no program that shows folders; the pictures are in {folder}.")
    subprocess.Popen(
        [*command, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def folder_of(service: FrontDesk, id: str) -> Path:
    """Where a picture is saved. BadRequest where it is not."""
    found, _ = service.picture(id)
    if isinstance(found, bytes):
        raise BadRequest("This picture is not saved yet, so it lies in no folder.")
    return found.parent
