"""The settings on disk: A1111's flat config.json, read without ever failing and written without ever losing.

A file that cannot be read is kept beside itself as config.json.bad-<time>; what it can no longer tell comes from the
last good copy, of which there are five. A value that cannot be is left at its default, alone. Keys that are not ours
stay in the file.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from modules.imaging.save import DISK, Disk, safe_write
from modules.schema.errors import BadRequest, DiskTrouble
from modules.schema.settings import SECTION_OF, Settings
from modules.service.copies import Copies

MAX_BYTES = 16 * 2**20


class SettingsStore:
    """The one place that knows the current settings. Thread-safe. Good copies lie in the folder `copies`."""

    def __init__(self, path: Path, copies: Path, disk: Disk = DISK) -> None:
        self.path = path
        self.copies = Copies(copies, path.name, disk)
        self.warnings: list[str] = []
        self._disk = disk
        self._lock = threading.Lock()
        self._raw = self._read()
        self._settings = self._understand()

    @property
    def settings(self) -> Settings:
        return self._settings

    def change(self, changes: dict[str, Any]) -> Settings:
        """Changes options by their flat names and writes the file.

        BadRequest, and nothing changed, for an unknown name or a refused value. DiskTrouble where the file cannot be
        written; the change then holds until the program ends.
        """
        with self._lock:
            changed = self._settings.with_options(changes)
            self._settings = changed
            self._raw = {**self._raw, **{key: changed.option(key) for key in changes}}
            text = _to_text(self._raw)
            try:
                safe_write(self.path, text, overwrite=True, disk=self._disk)
            except DiskTrouble as error:
                raise DiskTrouble(f"{error.message} The change holds until Easel is closed.") from error
            self.copies.keep(text)
            return changed

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.warnings.append(f"{self.path.name} cannot be read ({error.strerror}); the settings are the defaults.")
            return {}
        found = _parse(data)
        if found is not None:
            self.copies.keep(data)
            return found
        good = next(filter(None, map(_parse, self.copies.newest_first())), {})
        rescued = {key: value for key, value in _rescue(data).items() if key not in SECTION_OF or _fits(key, value)}
        self._keep_bad(data)
        return {**good, **rescued}

    def _understand(self) -> Settings:
        """Settings from what was read; a value that cannot be costs itself only."""
        ours = {key: value for key, value in self._raw.items() if key in SECTION_OF}
        settings, refused = Settings(), []
        while ours:
            try:
                settings = settings.with_options(ours)
                break
            except BadRequest as error:
                key = error.field if error.field in ours else next(iter(ours))
                refused.append(key)
                del ours[key]
        if refused:
            with contextlib.suppress(OSError):
                self._keep_bad(self.path.read_bytes(), told=False)
            names = ", ".join(refused)
            self.warnings.append(f"{self.path.name}: no use could be made of {names}; there the defaults hold.")
            self._raw = {key: value for key, value in self._raw.items() if key not in refused}
        return settings

    def _keep_bad(self, data: bytes, told: bool = True) -> None:
        kept = self.path.with_name(f"{self.path.name}.bad-{time.strftime('%Y%m%d-%H%M%S')}")
        where = f"was kept as {kept.name}"
        try:
            if len(data) > MAX_BYTES:
                # Not read to its end; a second name keeps it, since writing replaces the file and not what is in it.
                self._disk.link(self.path, kept)
            elif not any(_holds(old, data) for old in self.path.parent.glob(f"{self.path.name}.bad-*")):
                safe_write(kept, data, overwrite=True, disk=self._disk)
        except (OSError, DiskTrouble):
            where = "could not be copied"
        if told:
            self.warnings.append(
                f"{self.path.name} is damaged and {where}; what it can no longer tell comes from the last good copy."
            )


def _holds(path: Path, data: bytes) -> bool:
    return path.stat().st_size == len(data) and path.read_bytes() == data


def _fits(key: str, value: Any) -> bool:
    try:
        Settings().with_options({key: value})
    except (BadRequest, RecursionError):
        return False
    return True


def _to_text(raw: dict[str, Any]) -> bytes:
    text = json.dumps(raw, indent=4, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate goes back to the escape it came from


def _parse(data: bytes) -> dict[str, Any] | None:
    """The object in the file, or None where it is not one."""
    if len(data) > MAX_BYTES:
        return None
    try:
        found = json.loads(_decode(data))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _decode(data: bytes, errors: str = "strict") -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors)
    return data.decode("utf-8-sig", errors)


def _rescue(data: bytes) -> dict[str, Any]:
    """The `"key": value` pairs that a damaged file still tells, read one after the other.

    After a pair that cannot be read it goes on at the next line, since A1111 writes one pair to a line.
    """
    try:
        text = _decode(data[:MAX_BYTES], "replace")
    except ValueError:
        return {}
    decoder, found = json.JSONDecoder(), {}
    at = text.find("{") + 1
    while at < len(text):
        at = _skip(text, at)
        try:
            key, after = decoder.raw_decode(text, at)
            after = _skip(text, after, "")
            if not isinstance(key, str) or text[after] != ":":
                raise ValueError
            value, end = decoder.raw_decode(text, _skip(text, after + 1, ""))
            # A value that the end of the file cut short may still read as one ("steps": 15 of 150).
            if end >= len(text.rstrip()) or text[_skip(text, end, "")] not in ",}":
                raise ValueError
            found[key] = value
            at = end
        except (ValueError, IndexError, RecursionError):
            line = text.find("\n", at)
            at = line + 1 if line >= 0 else len(text)
    return found


def _skip(text: str, at: int, also: str = ",") -> int:
    while at < len(text) and (text[at].isspace() or text[at] in also):
        at += 1
    return at
