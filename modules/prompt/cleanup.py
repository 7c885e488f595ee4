"""Text as CLIP's tokenizers see it: copy-and-paste damage repaired before the words are cut into tokens.

The original tokenizers first pass the text through ftfy's `fix_text` (github.com/rspeer/python-ftfy), so a prompt only
gives the same tokens if its rules are kept: HTML entities decoded (in a text without `<`), curly quotes straightened,
Latin ligatures and full-width forms spelled out, control characters and terminal colours removed, lone surrogates
replaced, Unicode composed (NFC). Of its mojibake repair only the common case is kept: a line that as a whole is UTF-8
read as Windows-1252.
"""

from __future__ import annotations

import html
import html.entities
import re
import unicodedata
from functools import lru_cache

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_QUOTES = str.maketrans(
    dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)
_LIGATURES = str.maketrans(
    {c: unicodedata.normalize("NFKC", c) for c in "ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ"} | {"ŉ": "ʼn", "ﬅ": "ſt"}
)
_WIDTHS = str.maketrans(
    {chr(c): unicodedata.normalize("NFKC", chr(c)) for c in range(0xFF01, 0xFFF0)} | {"\u3000": " "}
)
_LINE_ENDS = re.compile("\r\n|[\r\u2028\u2029\x85]")
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TERMINAL = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_CONTROLS = dict.fromkeys(
    [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), *range(0xFFF9, 0xFFFD), 0xFEFF]
)


def _windows_1252(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)  # five bytes have no meaning there


_C1 = {byte: _windows_1252(byte) for byte in range(0x80, 0xA0)}
_TO_BYTE = {ord(_windows_1252(byte)): byte for byte in range(0x80, 0x100)} | {byte: byte for byte in range(0x80)}
_MOJIBAKE = re.compile("[\xc2-\xf4][\x80-\xbf" + "".join(map(re.escape, _C1.values())) + "]")


@lru_cache(1)
def _entities() -> dict[str, str]:
    """HTML entities that end in a semicolon, and the all-capitals spelling of those that have none of their own."""
    table: dict[str, str] = {}
    for name, character in html.entities.html5.items():
        if name.endswith(";"):
            table[f"&{name}"] = character
            shout = f"&{name.upper()}"
            if name == name.lower() and html.unescape(shout) == shout:
                table[shout] = character.upper()
    return table


def _entity(match: re.Match[str]) -> str:
    text = match.group()
    if text.startswith("&#"):
        character = html.unescape(text)
        return text if ";" in character else character
    return _entities().get(text, text)


def _mojibake_repaired(text: str) -> str:
    if not _MOJIBAKE.search(text):
        return text
    try:
        return bytes(_TO_BYTE[ord(c)] for c in text).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return text


def _surrogates_repaired(text: str) -> str:
    if not _SURROGATE.search(text):
        return text
    joined = _SURROGATE_PAIR.sub(lambda m: m.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _SURROGATE.sub("\ufffd", joined)


def _fix_line(line: str, entities: bool) -> str:
    # Repeated until nothing changes ("&amp;amp;"); each round that changes something shortens or settles the text.
    while True:
        before = line
        if entities:
            line = _ENTITY.sub(_entity, line)
        line = _mojibake_repaired(line)
        line = line.translate(_C1).translate(_LIGATURES).translate(_WIDTHS).translate(_QUOTES)
        line = _surrogates_repaired(_LINE_ENDS.sub("\n", line))
        line = _TERMINAL.sub("", line).translate(_CONTROLS)
        line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def fix_text(text: str) -> str:
    """The text with copy-and-paste damage repaired, line by line; never raises, also for lone surrogates."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    out: list[str] = []
    entities = True
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        entities = entities and "<" not in line  # a text that holds markup is not itself escaped
        out.append(_fix_line(line, entities))
    return "".join(out)
