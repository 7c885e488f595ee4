"""What network tags mean: which network, how strong, and how its strength changes over the steps.

    <lora:name>                    strength 1
    <lora:name:0.8>                text encoder and denoiser
    <lora:name:0.5:0.9:16>         text encoder, denoiser, ranks to use
    <lora:name:te=0.5:unet=0.9:dyn=16>
    <lora:name:[0:1:0.4]>          a prompt edit of numbers: 0 at first, 1 after 40 % of the steps; [1::8], [0.5|1] too
    <lora:name:1:lbw=OUTALL>       block weights (weights.adapters.blocks)
    <lora:name:1:start=5:stop=12>  only from one step to another; step=5-12 is the same
    <hypernet:name:0.7>

The first four are A1111's. `lyco` is another word for `lora`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modules.prompt.parse import Tag, extract_tags, schedule
from modules.schema.networks import NetworkUse

KINDS = {"lora": "lora", "lyco": "lora", "hypernet": "hypernet"}


def read_networks(prompt: str) -> tuple[tuple[NetworkUse, ...], tuple[str, ...]]:
    """The networks a prompt names, in order, and sentences on tags that name none."""
    uses: list[NetworkUse] = []
    problems: list[str] = []
    for tag in extract_tags(prompt)[1]:
        if tag.kind not in KINDS:
            problems.append(f"{tag} was left out: known are <lora:name:strength> and <hypernet:name:strength>.")
            continue
        try:
            uses.append(_use(tag))
        except ValueError as error:
            problems.append(f"{tag} was left out: {error}.")
    return tuple(uses), tuple(problems)


def renamed(prompt: str, hashes: str, here: Mapping[str, str]) -> str:
    """A prompt from elsewhere with its LoRAs called as the same files are here.

    `hashes`: the infotext's "Lora hashes" ("name: 12 digits, …"); `here`: 12 digits -> name. Tags of files that are
    not known here stay as they are.
    """
    digits = {name.strip(): told.strip() for name, _, told in (pair.partition(":") for pair in hashes.split(","))}

    def call(match: re.Match[str]) -> str:
        bare = match[2].strip().replace(",", "")
        return f"<{match[1]}:{here.get(digits.get(bare, ''), match[2])}{match[3]}"

    return re.sub(r"<(lora|lyco):([^:>]+)([:>])", call, prompt)


def problem_of(tag: Tag) -> str | None:
    """Why a tag of a known kind switches nothing on, as the rest of a sentence; None where it does."""
    try:
        _use(tag)
    except ValueError as error:
        return str(error)
    return None


def _use(tag: Tag) -> NetworkUse:
    """Raises ValueError with what is wrong."""
    items = list(_rejoined(tag.items))
    positional = [item for item in items if item.count("=") != 1]
    named = dict(item.split("=") for item in items if item.count("=") == 1)
    if not positional or not positional[0].strip():
        raise ValueError("it has no name")
    name = positional[0].strip()

    def strength(place: int, key: str, default: str) -> str:
        text = named.get(key, positional[place] if len(positional) > place else default).strip()
        for word in re.split(r"[\[\]:|]", text):
            if _value(word) is None or not text:
                raise ValueError(f"{word.strip()!r} is no strength; give a number, or numbers in [from:to:when]")
        return text

    if KINDS[tag.kind] == "hypernet":
        return NetworkUse(kind="hypernet", name=name, unet=strength(1, "", "1.0"))
    text_encoder = strength(1, "te", "1.0")
    ranks = named.get("dyn", positional[3] if len(positional) > 3 else None)
    start, stop = named.get("start"), named.get("stop")
    if "step" in named:
        start, _, stop = named["step"].partition("-")
    return NetworkUse(
        kind="lora",
        name=name,
        text_encoder=text_encoder,
        unet=strength(2, "unet", text_encoder),
        ranks=None if ranks is None else _whole(ranks, "dyn"),
        blocks=named.get("lbw", "").strip(),
        start=_whole(start, "start") if start else 1,
        stop=_whole(stop, "stop") if stop else None,
    )


def _rejoined(items: Sequence[str]) -> Iterator[str]:
    """Items as they are, but those inside one [ ] put together again, as a tag is split at every colon."""
    pending: list[str] = []
    for item in items:
        pending.append(item)
        joined = ":".join(pending)
        if joined.count("[") <= joined.count("]"):
            yield joined
            pending = []
    yield from pending


def _whole(text: str, key: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,6}\s*", text) or int(text) < 1:
        raise ValueError(f"{key} is a whole number from 1, not {text.strip()!r}")
    return int(text)


def _value(word: str) -> float | None:
    """A strength; nothing written is 0, None is no number."""
    try:
        value = float(word) if word.strip() else 0.0
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _numbers(text: str, calls: int, first_calls: int | None) -> tuple[tuple[int, float], ...]:
    """(last call, strength) of each stretch; where pieces side by side make no number, 0."""
    entries = schedule(text, calls) if first_calls is None else schedule(text, first_calls, calls)
    return tuple((until, _value(word) or 0.0) for until, word in entries)


@dataclass(frozen=True)
class Strength:
    """How strong one network is: multipliers of text encoder and denoiser."""

    text_encoder: float
    unet: float


def strengths(
    uses: Sequence[NetworkUse], calls: int, calls_per_step: int = 1, first_calls: int | None = None
) -> tuple[tuple[int, tuple[Strength, ...]], ...]:
    """The strengths of all networks over a pass of `calls` denoiser calls: ((last call, one for each network), ...).

    A stretch lasts exactly as long as a prompt edit with the same `when` (see `parse.Subprompt.at`). `first_calls`: in
    a second pass, the calls of the first; steps count on from there.
    """
    tables = [
        (_numbers(use.text_encoder, calls, first_calls), _denoiser(use, calls, calls_per_step, first_calls))
        for use in uses
    ]
    ends = sorted({until for table in tables for stretches in table for until, _ in stretches} | {calls})
    entries: list[tuple[int, tuple[Strength, ...]]] = []
    for end in ends:
        now = tuple(Strength(_at(te, end), _at(unet, end)) for te, unet in tables)
        if entries and entries[-1][1] == now:
            entries.pop()
        entries.append((end, now))
    return tuple(entries)


def _denoiser(
    use: NetworkUse, calls: int, calls_per_step: int, first_calls: int | None
) -> tuple[tuple[int, float], ...]:
    """The denoiser's multiplier, nothing before `start` and after `stop`."""
    table = _numbers(use.unet, calls, first_calls)
    before = first_calls or 0
    # A stretch that ends at n covers the calls up to and with n, counted from 0.
    first = (use.start - 1) * calls_per_step - before
    last = calls if use.stop is None else use.stop * calls_per_step - 1 - before
    ends = {until for until, _ in table} | {end for end in (first - 1, last) if 0 <= end < calls} | {calls}
    return tuple((end, _at(table, end) if first <= end <= last else 0.0) for end in sorted(ends))


def _at(table: Sequence[tuple[int, float]], call: int) -> float:
    return next((value for until, value in table if until >= call), table[-1][1])
