"""The sound of a finished job: the owner's notification.mp3, or two soft notes that are made here."""

from __future__ import annotations

import array
import io
import math
import wave
from functools import lru_cache
from pathlib import Path

from modules.schema.settings import Settings

RATE = 22050  # samples per second
NOTES = ((0.0, 659.26), (0.14, 987.77))  # (begins after so many seconds, Hz): E5, B5
SECONDS = 0.9
LARGEST = 8 * 2**20


def sound(settings: Settings, own: Path) -> tuple[bytes, str] | None:
    """(bytes, media type); None where silence is wanted. `own`: where the owner's file may lie."""
    if not settings.page.notification_audio:
        return None
    try:
        if own.is_file() and own.stat().st_size <= LARGEST:
            return own.read_bytes(), "audio/mpeg"
    except OSError:
        pass
    return (chime(), "audio/wav") if settings.page.notification_own else None


@lru_cache(maxsize=1)
def chime() -> bytes:
    """A WAV file: two notes with an overtone each, fading."""
    samples = array.array("h")
    for k in range(int(RATE * SECONDS)):
        time, level = k / RATE, 0.0
        for begins, pitch in NOTES:
            since = time - begins
            if since >= 0:
                fade = min(1.0, since / 0.01) * math.exp(-5 * since)
                tone = math.sin(2 * math.pi * pitch * since) + 0.25 * math.sin(4 * math.pi * pitch * since)
                level += 0.25 * fade * tone
        samples.append(int(32767 * max(-1.0, min(1.0, level))))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return out.getvalue()
