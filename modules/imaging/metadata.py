"""What a picture file says about itself, and the one door for picture files from outside.

Infotext lies in the PNG text chunk `parameters`, in JPEG, WebP and AVIF in the EXIF UserComment ("UNICODE", UTF-16
big-endian), in GIF in the comment block: where A1111 and its friends look for it.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from modules.schema.errors import BadFile

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
MAX_PIXELS = 64 * 1024 * 1024  # 8192 × 8192; 256 MB once decoded to RGBA
MAX_BYTES = 64 * 1024 * 1024
_UNICODE = b"UNICODE\0"
_ASCII = b"ASCII\0\0\0"


def well_formed(text: str) -> str:
    """The text without lone surrogates and NULs, which no file format can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")


def encode(
    image: Image.Image, infotext: str | None, format: str = "png", quality: int = 80, lossless: bool = False
) -> bytes:
    """The file of a picture, infotext inside. `format`: png, jpg, jpeg, webp or avif; `quality` is for lossy ones,
    `lossless` for webp."""
    kind = {"jpg": "jpeg"}.get(format.lower(), format.lower())
    if kind not in {"png", "jpeg", "webp", "avif"}:
        raise BadFile(f"Pictures cannot be saved as {format!r}; choose png, jpg, webp or avif.")
    out = io.BytesIO()
    if kind == "png":
        chunks = PngImagePlugin.PngInfo()
        if infotext:
            chunks.add_text("parameters", well_formed(infotext))
        image.save(out, "PNG", pnginfo=chunks)
        return out.getvalue()
    if image.mode not in {"RGB", "L"} and not (kind != "jpeg" and image.mode == "RGBA"):
        image = image.convert("RGB")
    how = {"lossless": True} if lossless and kind == "webp" else {"quality": quality}
    image.save(out, kind.upper(), **how, **({"exif": _exif(infotext)} if infotext else {}))
    return out.getvalue()


def _exif(infotext: str) -> bytes:
    exif = Image.Exif()
    comment = _UNICODE + well_formed(infotext).encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif.tobytes()


def read_infotext(image: Image.Image) -> str | None:
    """The infotext of an opened picture, or None. A comment in the EXIF counts more than a text chunk."""
    text = image.info.get("parameters")
    try:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except Exception:
        comment = None  # a damaged EXIF block is no reason to refuse the picture
    if found := _user_comment(comment):
        return found
    if isinstance(text, str) and text:
        return text
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "ignore")
    return comment if isinstance(comment, str) and comment else None


def _user_comment(raw: object) -> str | None:
    if isinstance(raw, str):
        return raw or None
    if not isinstance(raw, bytes):
        return None
    if raw.startswith(_UNICODE):
        body = raw[len(_UNICODE) :]
        # Written big-endian by A1111; other tools follow the byte order of the EXIF block. Zeros of Latin text tell.
        little = body[1::2].count(0) > body[0::2].count(0)
        text = body.decode("utf-16-le" if little else "utf-16-be", "ignore")
    else:
        text = raw.removeprefix(_ASCII).decode("utf-8", "ignore")
    return text.strip("\0") or None


def peek(path: Path, max_bytes: int = MAX_BYTES) -> tuple[int, int, str | None]:
    """Width, height and infotext of a picture file, from its head: no pixel is decoded. BadFile where it is none."""
    try:
        if path.stat().st_size > max_bytes:
            raise BadFile(f"{path.name} is larger than {max_bytes // 2**20} MB.")
        _check_is_file(path)
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadFile(f"{path.name} is {image.width}x{image.height}; that is too large.")
            return image.width, image.height, read_infotext(image)
    except (BadFile, MemoryError):
        raise
    except Exception:
        raise BadFile(f"{path.name} is no picture that this program reads, or damaged.") from None


def _check_is_file(path: Path) -> None:
    """BadFile for a pipe or device, whose reading may never end."""
    if path.exists() and not path.is_file():
        raise BadFile(f"{path.name} is no file.")


def open_bounded(
    source: bytes | Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, name: str = ""
) -> Image.Image:
    """A picture from outside, fully decoded (first frame), or BadFile in one sentence.

    File size and the header's width × height are checked before anything is decoded; only the formats in FORMATS are
    tried.
    """
    name = name or (source.name if isinstance(source, Path) else "The picture")
    if isinstance(source, Path):
        try:
            _check_is_file(source)
            with source.open("rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise BadFile(f"{name} cannot be read ({error.strerror or error}).") from None
    else:
        data = source
    if len(data) > max_bytes:
        raise BadFile(f"{name} is larger than {max_bytes // 2**20} MB; make it smaller.")
    known = ", ".join(FORMATS)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadFile(f"{name} has more than {max_pixels / 1e6:.0f} million pixels; make it smaller.") from None
    except UnidentifiedImageError:
        raise BadFile(f"{name} is not a picture this program reads ({known}).") from None
    except Exception:
        raise BadFile(f"{name} is damaged; save it again from a picture editor.") from None
    if image.width * image.height > max_pixels:
        raise BadFile(
            f"{name} is {image.width}x{image.height}; at most {max_pixels / 1e6:.0f} million pixels are accepted."
        )
    try:
        image.load()
    except Exception:
        raise BadFile(f"{name} is damaged or cut off; save it again from a picture editor.") from None
    return image
