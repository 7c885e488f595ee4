"""Infotext in files, and pictures from strangers."""

from __future__ import annotations

import functools
import io
import random
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from modules.imaging.metadata import FORMATS, encode, open_bounded, read_infotext
from modules.schema.errors import BadFile

TEXTS = ["plain\nSteps: 20, Seed: 1", "ünï", "日本語 🏠\nNegative prompt: x", "a" * 5000, "x"]


def picture(mode: str = "RGB") -> Image.Image:
    return Image.radial_gradient("L").resize((32, 24)).convert(mode)


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "avif"])
@pytest.mark.parametrize("text", TEXTS)
def test_infotext_comes_back_from_every_format(format: str, text: str) -> None:
    image = open_bounded(encode(picture(), text, format))
    assert read_infotext(image) == text
    assert image.size == (32, 24)


def test_latin_text_is_a_text_chunk_and_other_text_an_international_one() -> None:
    assert b"tEXtparameters\0caf\xe9" in encode(picture(), "café", "png")
    assert b"iTXtparameters\0" in encode(picture(), "日本", "png")


def test_exif_is_big_endian_utf16_as_others_write_it() -> None:
    assert b"UNICODE\0\0h\0i" in encode(picture(), "hi", "jpg")


def test_little_endian_comments_are_read_too() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "hello there".encode("utf-16-le")
    out = io.BytesIO()
    picture().save(out, "JPEG", exif=exif)
    assert read_infotext(open_bounded(out.getvalue())) == "hello there"


def test_gif_comments_are_read() -> None:
    out = io.BytesIO()
    picture("P").save(out, "GIF", comment=b"from a gif")
    assert read_infotext(open_bounded(out.getvalue())) == "from a gif"


def test_no_infotext_is_none_and_odd_characters_do_not_cost_the_picture() -> None:
    assert read_infotext(open_bounded(encode(picture(), None))) is None
    assert read_infotext(open_bounded(encode(picture(), "a\ud800b\0c"))) == "a\ufffdbc"


def test_pixels_survive_png() -> None:
    image = picture("RGBA")
    assert open_bounded(encode(image, "x")).tobytes() == image.tobytes()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@functools.cache
def bombs() -> dict[str, bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * (100 * 2**20), zip=True)
    out = io.BytesIO()
    picture().save(out, "PNG", pnginfo=text)
    bmp, tiff = io.BytesIO(), io.BytesIO()
    picture().save(bmp, "BMP")
    picture().save(tiff, "TIFF")
    return {
        "64k-square": png_header(65535, 65535),
        "2g-square": png_header(2**31 - 1, 2**31 - 1),
        "just-over": png_header(8193, 8193),
        "zero": png_header(0, 0),
        "ztxt": out.getvalue(),
        "no-format-of-ours": bmp.getvalue(),
        "tiff": tiff.getvalue(),
        "empty": b"",
        "html": b"<html><script>alert(1)</script>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "cut": encode(picture(), "x")[:-200],
        "head-only": png_header(64, 64),
        "large-file": encode(picture(), None) + b"\0" * (65 * 2**20),
    }


@pytest.mark.parametrize("name", list(bombs()))
def test_bombs_are_refused_quickly_in_one_sentence(name: str) -> None:
    data = bombs()[name]
    began = time.process_time()
    with pytest.raises(BadFile) as caught:
        open_bounded(data, name="cat.png")
    assert time.process_time() - began < 20  # unpacked, they would take minutes
    assert caught.value.message.startswith("cat.png ")


def test_damaged_files_are_refused_or_read_but_never_crash(test_seed: int) -> None:
    rng = random.Random(test_seed)
    whole = [encode(picture(), "hello", f) for f in ("png", "jpg", "webp")]
    for _ in range(400):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            image = open_bounded(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        except BadFile:
            continue
        read_infotext(image)
        assert image.width * image.height <= 64 * 2**20


def test_files_are_read_by_path_and_missing_ones_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(picture(), "x"))
    assert open_bounded(tmp_path / "a.png").size == (32, 24)
    with pytest.raises(BadFile, match=r"b\.png cannot be read"):
        open_bounded(tmp_path / "b.png")


def test_the_limit_is_the_callers_to_set() -> None:
    data = encode(picture(), "x")
    with pytest.raises(BadFile, match="32x24"):
        open_bounded(data, max_pixels=32 * 24 - 1)
    assert open_bounded(data, max_pixels=32 * 24).size == (32, 24)
    assert set(FORMATS) == {"PNG", "JPEG", "WEBP", "GIF", "AVIF"}
