"""Block weights, `lbw=`: one factor for each block of the model, as the widely used extension for A1111 writes them.

A list has a number for every block that the layers of a plain LoRA lie in, or for all blocks; BASE is the text
encoders. Blocks a short list leaves out get 0. Layers outside all blocks (time embedding, last convolution) are not
scaled.

| numbers | model | blocks |
|---|---|---|
| 17 | SD 1, 2 | BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 … OUT11 |
| 26 | SD 1, 2 | BASE IN00 … IN11 M00 OUT00 … OUT11 |
| 12 | SDXL | BASE IN04 IN05 IN07 IN08 M00 OUT00 … OUT05 |
| 20 | SDXL | BASE IN00 … IN08 M00 OUT00 … OUT08 |

Instead of a list: a preset's name, or the names of the blocks that get 1 (`IN04+M00`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping


def _numbered(way: str, numbers: range | tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{way}{number:02d}" for number in numbers)


_SD = ("BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "M00", *_numbered("OUT", range(3, 12)))
_SD_ALL = ("BASE", *_numbered("IN", range(12)), "M00", *_numbered("OUT", range(12)))
_XL = ("BASE", *_numbered("IN", (4, 5, 7, 8)), "M00", *_numbered("OUT", range(6)))
_XL_ALL = ("BASE", *_numbered("IN", range(9)), "M00", *_numbered("OUT", range(9)))
LAYOUTS: Mapping[int, tuple[str, ...]] = {len(names): names for names in (_SD, _SD_ALL, _XL, _XL_ALL)}

_SHALLOW_IN = {False: ("IN00", "IN01", "IN02", "IN03", "IN04"), True: ("IN00", "IN01", "IN02", "IN03", "IN04", "IN05")}
_SHALLOW_OUT = {False: _numbered("OUT", range(7, 12)), True: _numbered("OUT", range(3, 9))}


def block_weights(text: str, blocks: frozenset[str]) -> dict[str, float] | None:
    """The factor of every block of a model (`blocks`: those it has). None where the text cannot be read so.

    >>> block_weights("OUTALL", frozenset({"BASE", "IN00", "M00", "OUT00"}))
    {'BASE': 1.0, 'IN00': 0.0, 'M00': 0.0, 'OUT00': 1.0}
    """
    text = text.strip()
    if "," in text:
        return _listed(text, blocks)
    chosen = _preset(text, is_xl="OUT09" not in blocks)
    if chosen is None:
        names = [re.sub(r"^MID$", "M00", name.strip().upper()) for name in text.split("+")]
        if not all(name in _SD_ALL for name in names):
            return None
        chosen = set(names)
    return {name: float(name in chosen) for name in sorted(blocks)}


def _listed(text: str, blocks: frozenset[str]) -> dict[str, float] | None:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        return None
    names = LAYOUTS.get(len(numbers))
    if names is None or not all(map(math.isfinite, numbers)):
        return None
    given = dict(zip(names, numbers))
    return {name: given.get(name, 0.0) for name in sorted(blocks)}


def _preset(name: str, is_xl: bool) -> set[str] | None:
    """The blocks a preset switches on. "S" is shallow, near the picture; "D" is deep, near the middle."""
    inputs, outputs = _numbered("IN", range(12)), _numbered("OUT", range(12))
    shallow_in, shallow_out = _SHALLOW_IN[is_xl], _SHALLOW_OUT[is_xl]
    deep_in = [block for block in inputs if block not in shallow_in] + ([] if is_xl else ["IN04"])
    deep_out = [block for block in outputs if block not in shallow_out]
    presets: dict[str, set[str]] = {
        "NONE": set(),
        "ALL": {"BASE", "M00", *inputs, *outputs},
        "INS": {"BASE", *shallow_in},
        "IND": {"BASE", *deep_in},
        "INALL": {"BASE", *inputs},
        "MIDD": {"BASE", *deep_in, "M00", *deep_out},
        "OUTD": {"BASE", *deep_out},
        "OUTS": {"BASE", *shallow_out},
        "OUTALL": {"BASE", *outputs},
    }
    return presets.get(name.upper())
