"""How much memory a picture will take, judged before it is drawn."""

from __future__ import annotations

from modules.memory.devices import DeviceFacts
from modules.schema.errors import BadRequest

GIB = 1024**3
# At full resolution the decoder holds its widest feature map three times (input, normalised copy, output).
FULL_RESOLUTION_MAPS = 3
# What the system and the rest of the program keep.
USABLE = 0.9


def decode_peak(ch: int, width: int, height: int, itemsize: int) -> int:
    """Bytes the autoencoder's decoder holds at its widest point, for base width `ch` at width × height pixels."""
    return FULL_RESOLUTION_MAPS * ch * width * height * itemsize


def check_decode(facts: DeviceFacts, ch: int, width: int, height: int, itemsize: int) -> None:
    """Raises BadRequest if a picture of this size cannot be decoded in this machine's memory."""
    needed = decode_peak(ch, width, height, itemsize)
    if needed <= facts.memory * USABLE:
        return
    largest = int((facts.memory * USABLE / decode_peak(ch, 1, 1, itemsize)) ** 0.5) // 64 * 64
    raise BadRequest(
        f"A picture of {width}×{height} would need about {needed / GIB:.0f} GiB to decode and this machine has "
        f"{facts.memory / GIB:.0f}; up to about {largest}×{largest} fits.",
        field="width",
    )
