"""Small extensions for tests, written into a folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

from modules.schema.settings import Extensions, Settings

IMPORTS = """
from modules.pipeline.hooks import hookimpl

"""
DARKER = """
@hookimpl
def after_decode(image, own):
    return image.point(lambda v: int(v * (1 - own.values.get("strength", 0.5))))
"""
SECTION = """
[section]

[[section.fields]]
name = "strength"
label = "Strength"
kind = "slider"
default = 0.5
minimum = 0
maximum = 1
step = 0.05
"""


def write_extension(
    folder: Path, key: str, code: str | None = None, toml: str = "", name: str = "", **files: str
) -> Path:
    """An extension in `folder`: its declaration, named as its folder unless `name` says so, its code, and more files
    by their stems."""
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    head = "" if toml.lstrip().startswith("name") else f'name = "{name or key}"\nversion = "1.2"\n'
    (place / "extension.toml").write_text(head + textwrap.dedent(toml), "utf-8")
    if code is not None:
        (place / "extension.py").write_text(IMPORTS + textwrap.dedent(code), "utf-8")
    for stem, text in files.items():
        (place / f"{stem}.py").write_text(textwrap.dedent(text), "utf-8")
    return place


def switched_on(*keys: str, needs: tuple[str, ...] = (), **options: object) -> Settings:
    """The settings with these extensions on."""
    return Settings(extensions=Extensions(enabled_extensions=dict.fromkeys(keys, needs), **options))  # type: ignore[arg-type]
