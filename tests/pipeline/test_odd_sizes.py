"""Any size comes out exactly as asked; any mask gets a defined answer (spec/reliability.md, F15 and F16)."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.imaging import inputs
from modules.schema.errors import EaselError
from modules.schema.events import Warned
from modules.schema.request import Mask, Source
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array, keep, picture

FULL = bool(os.environ.get("TEST_FULL"))
MODES = ({}, {"inpaint_full_res": True, "inpaint_full_res_padding": 4}, {"inpainting_fill": 2})


def sizes(seed: int) -> list[tuple[int, int]]:
    """A diagonal of 71 sizes, then 300 at random: 371. Below 64 pixels a request is refused, so it begins there."""
    random = np.random.default_rng(seed)
    diagonal = [(side, 195 - side) for side in range(64, 132)] + [(64, 64), (65, 131), (131, 65)]
    anywhere = [(int(w), int(h)) for w, h in random.integers(64, 200, (300, 2))]
    return diagonal + anywhere if FULL else [diagonal[int(random.integers(60))], anywhere[0], (65, 131)]


def test_every_size_comes_out_exactly_as_asked(studio: Studio, test_seed: int) -> None:
    wrong = []
    for n, (width, height) in enumerate(sizes(test_seed)):
        source = None
        if n % 3 == 2:  # from a picture of yet another odd size
            source = Source(images=(keep(studio, picture(n, (height + 3, width - 1))),), resize_mode=n % 4)
        quiet = {"samples_save": True, "live_previews_enable": False}
        (ready,) = studio.draw(width=width, height=height, steps=1, source=source, override_settings=quiet)
        with Image.open(studio.folders.data / str(ready.record.path)) as image:
            if image.size != (width, height) or (ready.record.width, ready.record.height) != (width, height):
                wrong.append(((width, height), image.size))
        assert f"Size: {width}x{height}" in ready.record.infotext
    assert not wrong


def masks(seed: int) -> list[tuple[str, bytes]]:
    """60 masks as files: of any mode, size and content, some of them no picture at all."""
    random = np.random.default_rng(seed)
    found: list[tuple[str, bytes]] = []

    def add(name: str, image: Image.Image, format: str = "PNG") -> None:
        out = io.BytesIO()
        image.save(out, format)
        found.append((name, out.getvalue()))

    grey = Image.fromarray(random.integers(0, 256, (64, 64), dtype=np.uint8))
    boxed = Image.new("L", (64, 64))
    boxed.paste(255, (20, 20, 44, 44))
    for name, base in (("noise", grey), ("box", boxed), ("black", Image.new("L", (64, 64))),
                       ("white", Image.new("L", (64, 64), 255)), ("grey", Image.new("L", (64, 64), 128))):  # fmt: skip
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
            add(f"{name} {mode}", base.convert(mode))
        add(f"{name} CMYK", base.convert("CMYK"), "JPEG")
        clear = base.convert("RGBA")
        clear.putalpha(base)
        add(f"{name} alpha", clear)
    add("16 bit", Image.fromarray(random.integers(0, 65536, (64, 64), dtype=np.uint16)))
    add("16 bit black", Image.new("I;16", (64, 64)))
    add("webp", boxed.convert("RGBA"), "WEBP")
    add("gif", boxed.convert("P"), "GIF")
    for size in ((1, 1), (64, 1), (1, 64), (3, 200), (200, 3), (65, 63), (128, 32), (7, 7)):
        add(f"white {size}", Image.new("L", size, 255))
    for x, y in ((0, 0), (63, 63), (0, 63), (31, 32)):
        one = Image.new("L", (64, 64))
        one.putpixel((x, y), 255)
        add(f"one pixel {x},{y}", one)
    add("a line", Image.fromarray(np.repeat(np.eye(1, 64, 5, dtype=np.uint8) * 255, 64, 0)))
    add("a frame", Image.fromarray(np.pad(np.zeros((60, 60), np.uint8), 2, constant_values=255)))
    found += [("cut off", found[0][1][:60]), ("empty file", b"")]
    assert len(found) == 60
    return found


@pytest.mark.parametrize("mode", range(len(MODES)))
def test_every_mask_gets_a_defined_answer(mode: int, studio: Studio, test_seed: int) -> None:
    name = keep(studio, picture(test_seed))
    before = np.asarray(picture(test_seed)).astype(int)
    chosen = masks(test_seed)
    if not FULL:
        chosen = [chosen[k] for k in np.random.default_rng(test_seed + mode).choice(60, 8, replace=False)]
    drawn, refused = 0, []
    for what, data in chosen:
        try:
            white = inputs.keep(studio.folders.inputs, data)
        except EaselError:
            refused.append(what)
            continue
        asked: dict[str, Any] = {"mask_blur_x": 0, "mask_blur_y": 0, **MODES[mode]}
        source = Source(images=(name,), mask=Mask(image=white, **asked))
        quiet = {"live_previews_enable": False}
        (ready,) = studio.draw(source=source, steps=1, override_settings=quiet)
        after = array(studio, ready)
        assert after.shape == (64, 64, 3), what
        drawn += 1
        lossy = "CMYK" in what  # a JPEG, which is not quite black where it was
        empty = (what.endswith("black") or what.startswith("black")) and not lossy
        if empty and mode != 1:
            assert np.array_equal(after, before), f"{what}: nothing was masked"
        if what.startswith("box") and not lossy and "alpha" not in what:
            outside = np.ones((64, 64), bool)
            outside[18:46, 18:46] = False
            assert np.array_equal(after[outside], before[outside]), what
        if empty and mode == 1:
            assert any(isinstance(event, Warned) and "mask is empty" in event.message for event in studio.events), what
    assert set(refused) <= {"cut off", "empty file"}
    assert drawn + len(refused) == len(chosen)
