"""Infotext: the text under a picture that says how it was drawn, written and read as A1111 does.

    a lighthouse, oil painting
    Negative prompt: lowres
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1234567, Size: 512x512, Version: v1.10.1

`format` and `read` are the text itself; `parse` is `read` plus what pasting needs: sizes in two fields, defaults for
what is not written, rules for older versions. Prompts are not escaped in this format, so a line of a prompt that begins
with "Negative prompt:", and blank space around lines, do not survive.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from modules.prompt.parse import parse_emphasis
from modules.prompt.styles import Style, extract_styles

NEGATIVE = "Negative prompt:"
STYLES = "Styles array"  # field of the styles found in the prompts

Value = str | int | float | bool | list[str]


@dataclass(frozen=True)
class Infotext:
    """A prompt, its negative, and the fields in the order written. Values that were read are strings."""

    prompt: str = ""
    negative_prompt: str = ""
    fields: Mapping[str, Value] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------ values


def quote(value: Value | None) -> Value | None:
    """A value as it is written: text with a comma, colon or line end as a JSON string, anything else as it is."""
    text = str(value)
    if value is None or not any(c in text for c in ",:\n"):
        return value
    return json.dumps(text, ensure_ascii=False)


def unquote(text: str) -> str:
    """The value meant by a written one; text that only looks like a JSON string stays as it is."""
    if not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


# ----------------------------------------------------------------------------------------------------------- writing


def format(prompt: str, negative_prompt: str, fields: Mapping[str, Value | None]) -> str:
    """The infotext. Fields that are None are left out; one whose value is its own name is written as the name alone."""
    parts = [
        name if value == name else f"{name}: {quote(value)}" for name, value in fields.items() if value is not None
    ]
    negative = f"\n{NEGATIVE} {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{', '.join(parts)}".strip()


# ----------------------------------------------------------------------------------------------------------- reading

_KEY = re.compile(r"\w[\w \-/]+\Z")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=,|\Z)')


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The `key: value` pairs of a line, values as written. A key has two or more letters, spaces, `-` or `/`."""
    position = 0
    while (colon := line.find(":", position)) >= 0:
        run = colon
        while run > position and (line[run - 1] in " -/_" or line[run - 1].isalnum()):
            run -= 1
        while run < colon and line[run] in " -/":
            run += 1
        if colon - run < 2:
            position = colon + 1
            continue
        start = colon + 1
        while start < len(line) and line[start].isspace():
            start += 1
        quoted = _QUOTED.match(line, start)
        comma = line.find(",", start)
        end = quoted.end() if quoted else comma if comma >= 0 else len(line)
        yield line[run:colon], line[start:end]
        position = end + 1


def read(text: str) -> Infotext:
    """An infotext as written: prompts and fields as strings. Never raises; text without a parameter line is a prompt.

    The last line holds the fields if it has three or more. Repeated fields have their last value; empty ones drop out.
    """
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < 3:
        lines.append(last)
        pairs = []
    prompts: tuple[list[str], list[str]] = ([], [])
    negative = False
    for line in lines:
        line = line.strip()
        if line.startswith(NEGATIVE):
            negative = True
            line = line[len(NEGATIVE) :].strip()
        into = prompts[negative]
        if line or into:  # blank lines before the first are dropped
            into.append(line)
    fields: dict[str, Value] = {key: unquote(value) for key, value in pairs if value}
    return Infotext("\n".join(prompts[0]), "\n".join(prompts[1]), fields)


# ----------------------------------------------------------------------------------------------------------- pasting

_DEFAULTS: dict[str, Value] = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "Refiner switch by sampling steps": False,
}
"""What a field means when it is not written."""


def meaning_unwritten(name: str) -> Value | None:
    """What it means that a field is not written; None where that says nothing."""
    return _DEFAULTS.get(name)


_SIZE = re.compile(r"(\d+)x(\d+)\Z")

StyleRule = Literal["Ignore", "Apply", "Discard", "Apply if any"]
"""What to do with styles found in a pasted prompt: leave them; take them out and name them (always, or if there are
any); take them out and forget them."""


def parse(
    text: str,
    *,
    styles: Mapping[str, Style] | None = None,
    style_rule: StyleRule = "Apply if any",
    backcompat: bool = True,
    skip: frozenset[str] = frozenset(),
) -> Infotext:
    """An infotext ready for pasting: every field that a form asks for is there.

    `Size: 512x768` is `Size-1`, `Size-2`. Fields not written get their defaults; old spellings (Hypernet, First pass
    size) become today's; with `backcompat`, pictures of older versions get the settings that repeat what those did.
    styles: the known ones, looked for in the prompts. skip: fields to leave out.
    """
    written = read(text)
    prompt, negative = written.prompt, written.negative_prompt
    fields: dict[str, Value] = {}
    for key, value in written.fields.items():
        size = _SIZE.match(str(value))
        fields |= {f"{key}-1": size.group(1), f"{key}-2": size.group(2)} if size else {key: value}
    version = _version(str(fields.get("Version", "")))

    if styles and style_rule != "Ignore":
        prompt, negative = _take_out_styles(styles, style_rule, prompt, negative, fields, version)
    if "Hypernet" in fields:
        prompt += f"<hypernet:{fields['Hypernet']}:{fields.get('Hypernet strength', '1.0')}>"
    prompt += _additional_networks(fields)
    _old_first_pass(fields)
    for key, default in _DEFAULTS.items():
        fields.setdefault(key, default)
    if fields["FP8 weight"] != "Disable":
        fields.setdefault("Cache FP16 weight for LoRA", False)
    if _weighted(prompt) or _weighted(negative):
        fields.setdefault("Emphasis", "Original")
    if backcompat and version is not None:
        _as_in_version(version, prompt, fields)
    return Infotext(prompt, negative, {key: value for key, value in fields.items() if key not in skip})


def _additional_networks(fields: dict[str, Value]) -> str:
    """The tags of the LoRAs that an extension older than tags wrote down: "AddNet Model 1: name(hash)" and so on."""
    tags = ""
    for key in fields:
        number = key.removeprefix("AddNet Model ")
        if number != key and fields.get(f"AddNet Module {number}") == "LoRA":
            name = re.sub(r"\s*\([0-9a-fA-F]+\)$", "", str(fields[key]))
            tags += f"<lora:{name}:{fields.get(f'AddNet Weight A {number}', '1.0')}>"
    return f"\n{tags}" if tags else ""


def _weighted(prompt: str) -> bool:
    return any(weight != 1.0 and text != "BREAK" for text, weight in parse_emphasis(prompt))


def _take_out_styles(
    styles: Mapping[str, Style],
    rule: StyleRule,
    prompt: str,
    negative: str,
    fields: dict[str, Value],
    version: _Version | None,
) -> tuple[str, str]:
    """The prompts without the styles in them; the hires prompts in `fields` too, if they hold the same ones.

    Hires prompts have been written with styles merged in since 1.8.0-139.
    """
    found, bare, bare_negative = extract_styles(styles, prompt, negative)
    has_hires = "Hires prompt" in fields or "Hires negative prompt" in fields
    if has_hires and (version is None or version > _HIRES_STYLES):
        hires = extract_styles(
            styles, str(fields.get("Hires prompt", prompt)), str(fields.get("Hires negative prompt", negative))
        )
        if hires[0] != found:
            return prompt, negative
        fields["Hires prompt"] = "" if hires[1] == bare else hires[1]
        fields["Hires negative prompt"] = "" if hires[2] == bare_negative else hires[2]
    if rule == "Apply" or (rule == "Apply if any" and found):
        fields[STYLES] = list(found)
    return bare, bare_negative


def _old_first_pass(fields: dict[str, Value]) -> None:
    """`First pass size` (before hires had its own size): Size was then the target. 0x0 meant about 512x512 pixels."""
    try:
        first = int(str(fields["First pass size-1"])), int(str(fields["First pass size-2"]))
        target = int(str(fields.get("Size-1", 512))), int(str(fields.get("Size-2", 512)))
    except (KeyError, ValueError):
        return
    if 0 in first:
        scale = math.sqrt(512 * 512 / max(1, target[0] * target[1]))
        first = math.ceil(scale * target[0] / 64) * 64, math.ceil(scale * target[1] / 64) * 64
    fields |= {"Size-1": first[0], "Size-2": first[1], "Hires resize-1": target[0], "Hires resize-2": target[1]}


_Version = tuple[tuple[int, ...], int, int]
"""Release numbers; 0 for a release candidate, 1 for the release; commits since."""

_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)(?:[-._]?(rc)[-._]?(\d*))?(?:-(\d+))?\Z", re.IGNORECASE)


def _version(text: str) -> _Version | None:
    """`v1.7.0-225-gabcdef0`, cut after its second part; None for anything that is not a version of A1111."""
    match = _VERSION.match("-".join(text.strip().split("-")[:2]))
    if match is None or len(text) > 100:
        return None
    numbers = [int(part) for part in match.group(1).split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), 0 if match.group(2) else 1, int(match.group(4) or 0)


_OWN_TIMELINES: _Version = ((1, 6), 1, 0)
_ALPHAS: _Version = ((1, 7), 1, 225)
_REFINER: _Version = ((1, 8), 1, 0)
_HIRES_STYLES: _Version = ((1, 8), 1, 139)


def _as_in_version(version: _Version, prompt: str, fields: dict[str, Value]) -> None:
    """Settings under which a picture of an older A1111 comes out the same."""
    if version < _OWN_TIMELINES:
        if "[" in prompt:
            fields["Old prompt editing timelines"] = True
        if fields.get("Sampler") in ("DDIM", "PLMS"):
            fields["Pad conds v0"] = True
    if version < _ALPHAS:
        fields["Downcast alphas_cumprod"] = True
    if version < _REFINER and fields.get("Refiner"):
        fields["Refiner switch by sampling steps"] = True
