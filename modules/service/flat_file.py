"""A JSON object on disk that users and other programs edit too: read without ever failing, written without ever losing.

A file that cannot be read is kept beside itself as <name>.bad-<time>; what it can no longer tell comes from the last
good copy, of which there are five.
"""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.imaging.save import DISK, Disk, safe_write
from modules.schema.errors import DiskTrouble
from modules.service.copies import Copies

MAX_BYTES = 16 * 2**20


class FlatFile:
    """One object: keys and values. `fits(key, value)` says whether a value that was rescued from a damaged file makes
    sense. `warnings` has a sentence for what was wrong; `holds` says what the file holds. Good copies lie in `copies`.
    """

    def __init__(
        self, path: Path, copies: Path, holds: str, fits: Callable[[str, Any], bool] = lambda key, value: True,
        disk: Disk = DISK,
    ) -> None:  # fmt: skip
        self.path, self.holds = path, holds
        self.copies = Copies(copies, path.name, disk)
        self.warnings: list[str] = []
        self._fits, self._disk = fits, disk
        self.raw = self._read()

    def write(self, raw: dict[str, Any]) -> None:
        """DiskTrouble where the file cannot be written; `raw` holds all the same."""
        self.raw = raw
        text = _to_text(raw)
        safe_write(self.path, text, overwrite=True, disk=self._disk)
        self.copies.keep(text)

    def drop(self, keys: list[str]) -> None:
        """No use can be made of these; the file as it is is kept."""
        with contextlib.suppress(OSError):
            self._keep_bad(self.path.read_bytes(), told=False)
        self.warnings.append(f"{self.path.name}: no use could be made of {', '.join(keys)}; there the defaults hold.")
        self.raw = {key: value for key, value in self.raw.items() if key not in keys}

    def _read(self) -> dict[str, Any]:
        try:
            if self.path.exists() and not self.path.is_file():  # what is read of a pipe or device never ends
                raise OSError(errno.EINVAL, "it is no file")
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.warnings.append(f"{self.path.name} cannot be read ({error.strerror}); {self.holds} are the defaults.")
            return {}
        found = _parse(data)
        if found is not None:
            self.copies.keep(data)
            return found
        good = next(filter(None, map(_parse, self.copies.newest_first())), {})
        rescued = {key: value for key, value in _rescue(data).items() if self._fits(key, value)}
        self._keep_bad(data)
        return {**good, **rescued}

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
