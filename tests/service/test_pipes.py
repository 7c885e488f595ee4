"""Pipes where files are looked for: passed over in words, never waited for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.frontends.ui import notify
from modules.imaging.metadata import open_bounded, peek
from modules.pipeline import batch
from modules.prompt import styles
from modules.schema.errors import BadFile
from modules.schema.settings import Settings
from modules.service import importing
from modules.service.settings_store import SettingsStore
from modules.service.tag_files import TagFiles
from modules.weights import notes

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def settings_of(folder: Path) -> Any:
    store = SettingsStore(folder / "pipe.json", folder / "copies")
    assert store.warnings == ["pipe.json cannot be read (it is no file); the settings are the defaults."]
    return store.settings


# (what is read, what comes of it): a class of exceptions where it is refused.
READERS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "pipe.json": (lambda folder: notes.read_raw(folder / "pipe.safetensors"), {}),
    "pipe.txt": (lambda folder: notes.read_notes(folder / "pipe.safetensors").description, ""),
    "tags/pipe.csv": (lambda folder: TagFiles(folder).find("a"), []),
    "pipe.png": (lambda folder: open_bounded(folder / "pipe.png"), BadFile),
    "head.png": (lambda folder: peek(folder / "head.png"), BadFile),
    "job.png": (lambda folder: batch._keep(folder / "job.png", folder), BadFile),
    "styles.csv": (lambda folder: styles.read_file(folder / "styles.csv").styles, {}),
    "picture.txt": (lambda folder: importing._text_beside(folder / "picture.png"), ""),
    "notification.mp3": (lambda folder: notify.sound(Settings(), folder / "notification.mp3"), None),
}


def within_seconds(act: Callable[[], Any]) -> Any:
    """What comes of it; the class of an exception."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(type(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert found, "it waits for the pipe"
    return found[0]


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_passed_over(tmp_path: Path, name: str) -> None:
    read, wanted = READERS[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    assert within_seconds(lambda: read(tmp_path)) == wanted


def test_settings_are_the_defaults_where_their_file_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert within_seconds(lambda: settings_of(tmp_path)) == Settings()
