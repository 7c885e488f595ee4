"""Embeddings (textual inversion) inside pictures, as A1111 hides them: JSON in a PNG text chunk, or in the pixels.

Text chunk `sd-ti-embedding`: base64 of the JSON. Pixels: zlib of the JSON, as two blocks of (height, w, 3) numbers of 4
bits, low halves of the bytes left of the picture, high halves right of it, a black column between. Each block is XORed
with the generator s <- (1664525 s + 1013904223) mod 2^32, of which s mod 255 is taken.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules.schema.errors import BadFile

MAX_JSON = 64 * 2**20
MAX_PIXELS = 2**26


def read_picture(path: Path) -> dict[str, Any] | None:
    """What a picture carries: the dict A1111 puts into it, tensors as nested lists. None where it is just a picture.

    Raises:
        BadFile: it cannot be read as a picture, or what it carries is damaged.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadFile(f"{path.name} is too large a picture for an embedding ({image.width}×{image.height}).")
            text = getattr(image, "text", {}).get("sd-ti-embedding")
            pixels = None if text else np.asarray(image.convert("RGB"))
        data = base64.b64decode(text) if text else pixel_payload(pixels) if pixels is not None else None
        return None if data is None else _from_json(data)
    except (OSError, ValueError, zlib.error, Image.DecompressionBombError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise BadFile(f"{path.name} carries no readable embedding ({reason}); get it again from its source.") from None


def pixel_payload(pixels: np.ndarray, limit: int = MAX_JSON) -> bytes | None:
    """The bytes hidden in a picture's pixels [H, W, 3] uint8, at most `limit`; None where there are none.

    Raises:
        ValueError, zlib.error: there are some, and they are damaged.
    """
    pixels = _without_border(pixels)
    halves = pixels & 0x0F
    black = np.flatnonzero(halves.max(axis=(0, 2)) == 0) if halves.size else np.zeros(0, int)
    if len(black) < 2 or black[0] == 0 or black[-1] == halves.shape[1] - 1:
        return None
    low, high = halves[:, : black[0]], halves[:, black[-1] + 1 :]
    if low.shape != high.shape:
        return None
    numbers = (_scrambled(high) << 4) | _scrambled(low)
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(numbers.astype(np.uint8).tobytes(), limit)
    if not unpacker.eof:
        raise ValueError("it is cut short or too large")
    return data


def _without_border(pixels: np.ndarray) -> np.ndarray:
    shown = pixels.max(axis=2) > 0
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not len(rows):
        return pixels[:0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scrambled(block: np.ndarray) -> np.ndarray:
    """4-bit numbers XORed with the generator's, flat; twice is once."""
    return block.reshape(-1) ^ (_generator(block.size) & 0x0F)


def _generator(count: int) -> np.ndarray:
    """s_1 … s_count of s <- (a s + c) mod 2^32 from 0, each mod 255. Doubling: s_{i+n} = A_n s_i + C_n."""
    numbers = np.zeros(1, np.uint64)
    a, c, mask = 1664525, 1013904223, 0xFFFFFFFF
    while len(numbers) <= count:
        numbers = np.concatenate([numbers, (numbers * np.uint64(a) + np.uint64(c)) & np.uint64(mask)])
        a, c = (a * a) & mask, (a * c + c) & mask
    return (numbers[1 : count + 1] % 255).astype(np.uint8)


def _from_json(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_JSON:
        raise ValueError("it is too large")
    said = json.loads(data.decode("utf-8"))
    if not isinstance(said, dict):
        raise ValueError("it is not a dict")
    return said
