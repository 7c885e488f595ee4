"""The page in other languages: JSON files as A1111's, {"English sentence": "translation", …}.

Ours lie beside this file (`languages/`); a file of the user's folder `localizations/`, or of an extension's, adds to
the one of the same name or is a language of its own. `{name}` in a sentence stands for a value; "rtl": true turns the
page. What is written where: scripts look sentences up themselves (`t` in static/easel.js), the rest of the page is
translated as it comes (static/language.js).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = Path(__file__).parent / "languages"
NONE, AUTOMATIC = "None", "Automatic"
BROUGHT = "extensions"
BIGGEST = 8 * 2**20  # bytes of one file


@dataclass(frozen=True)
class Language:
    """`tag` as in HTML's lang ("zh-CN"); `words`: English sentence → translation."""

    tag: str
    words: Mapping[str, str]
    right_to_left: bool = False


ENGLISH = Language("en", {})


class Languages:
    """Looks anew each time, so a file that is added or changed needs a reload of the page only."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._folders = (OURS, *folders)

    @staticmethod
    def of(flags: Mapping[str, Any]) -> Languages:
        """By the folders that the command line names."""
        folders = [Path(flags["localizations_dir"])] if flags.get("localizations_dir") else []
        extensions = Path(flags["data_dir"]) / BROUGHT if flags.get("data_dir") else None
        disabled = flags.get("disable_all_extensions") or flags.get("disable_extra_extensions")
        if extensions is not None and extensions.is_dir() and not disabled:
            folders = [*sorted(extensions.glob("*/localizations")), *folders]
        return Languages(folders)

    def allowed(self, disables: Callable[[str], bool]) -> Languages:
        """Without those of extensions that are disabled, by the names of their folders."""
        kept = [
            each
            for each in self._folders[1:]
            if not (each.parent.parent.name == BROUGHT and disables(each.parent.name))
        ]
        return Languages(kept)

    def names(self) -> list[str]:
        """Of all files, without their ending."""
        return sorted({path.stem for folder in self._folders for path in _files(folder)}, key=str.lower)

    def find(self, setting: str, accepted: str = "") -> Language:
        """By the setting `localization`; `accepted` is what the browser asks for (Accept-Language)."""
        name = self._accepted(accepted) if setting == AUTOMATIC else setting
        if name in (NONE, None):
            return ENGLISH
        told: dict[str, Any] = {}
        for folder in self._folders:
            for path in _files(folder):
                if path.stem == name:
                    told |= _read(path)
        words = {key: value for key, value in told.items() if isinstance(value, str) and value}
        return Language(name.replace("_", "-"), words, told.get("rtl") is True)

    def _accepted(self, header: str) -> str | None:
        names = self.names()
        for wanted in re.findall(r"([A-Za-z]+(?:-[A-Za-z]+)*)", re.sub(r";[^,]*", "", header)):
            if wanted.lower().startswith("en"):
                return None
            both = [name for name in names if name.lower().replace("_", "-") == wanted.lower()]
            alike = [name for name in names if name.lower().split("_")[0] == wanted.lower().split("-")[0]]
            if both or alike:
                return (both or alike)[0]
        return None


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.is_file())
    except OSError:
        return []


def _read(path: Path) -> dict[str, Any]:
    """What a file says; nothing where it is not such a file, for the page must come all the same."""
    try:
        if path.stat().st_size > BIGGEST:
            return {}
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
