"""What differs between two pictures' settings, in words.

    in_words(difference(one, other))   # "steps 20 → 30; sampler Euler → DPM++ 2M; prompt: + 'night', − 'day'"

Prompts are compared phrase by phrase (what stands between commas, outside brackets), other fields by value. What only
follows from something else that is told (the hash of another model, a size that is written twice) is not told again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modules.prompt.infotext import Value, meaning_unwritten, read
from modules.prompt.parse import parse_emphasis

Kind = Literal["changed", "added", "removed", "order"]
PROMPT, NEGATIVE = "Prompt", "Negative prompt"
PROMPTS = ("Hires prompt", "Hires negative prompt", "Template", "Negative Template")
"""Fields that are prompts themselves."""
FOLLOWS = {
    "Model hash": "Model", "VAE hash": "VAE", "Lora hashes": PROMPT, "TI hashes": PROMPT, "Hashes": "Model",
    "Hypernet hash": PROMPT,
}  # fmt: skip
"""Fields that change with another one, and are only worth a word where they change alone."""
LAST = ("Version",)


@dataclass(frozen=True)
class Change:
    """One difference. For phrases of a prompt `name` is the prompt's, and one side of an added or removed one is "".

    "order": the same phrases stand in another order; both sides are "".
    """

    name: str
    kind: Kind
    before: str = ""
    after: str = ""
    phrase: bool = False


def difference(before: str, after: str) -> tuple[Change, ...]:
    """How the second infotext differs from the first: prompts first, then fields in the order written."""
    one, other = read(before), read(after)
    changes = [
        *_prompts(PROMPT, one.prompt, other.prompt),
        *_prompts(NEGATIVE, one.negative_prompt, other.negative_prompt),
    ]
    names = dict.fromkeys([*one.fields, *other.fields])
    fields: list[Change] = []
    for name in sorted(names, key=lambda name: name in LAST):
        old, new = _value(one.fields, name), _value(other.fields, name)
        if _same(old, new):
            continue
        if name in PROMPTS:
            fields += _prompts(name, old or "", new or "")
        elif old is None:
            fields.append(Change(name, "added", after=_shown(name, new)))
        elif new is None:
            fields.append(Change(name, "removed", before=_shown(name, old)))
        else:
            fields.append(Change(name, "changed", _shown(name, old), _shown(name, new)))
    told = {change.name for change in (*changes, *fields)}
    return (*changes, *(change for change in fields if FOLLOWS.get(change.name) not in told))


def surroundings(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs of what two pictures were drawn by and on; what is not known of both is no difference."""
    return tuple(
        Change(f"Drawn with {name}", "changed", before[name], after[name])
        for name in before
        if name in after and before[name] != after[name]
    )


def in_words(changes: tuple[Change, ...]) -> str:
    """One line; empty where there is no difference. "; " stands between fields, ", " between phrases of a prompt."""
    parts: dict[str, list[str]] = {}
    for change in changes:
        parts.setdefault(change.name, []).append(_word(change))
    colon = {change.name for change in changes if change.phrase or change.kind == "order"}
    return "; ".join(
        f"{_lower(name)}{':' if name in colon else ''} {', '.join(words)}" for name, words in parts.items()
    )


def _word(change: Change) -> str:
    if change.kind == "order":
        return "in another order"
    if change.phrase:
        if change.kind == "changed":
            return f"'{change.before}' → '{change.after}'"
        return f"+ '{change.after}'" if change.kind == "added" else f"− '{change.before}'"
    if change.kind == "added":
        return f"nothing → {change.after}"
    return f"{change.before} → {change.after or 'nothing'}"


def _lower(name: str) -> str:
    """As within a sentence: "Steps" becomes "steps", "CFG scale" stays."""
    return name[:1].lower() + name[1:] if name[1:2].islower() or name[1:2] == " " else name


# ------------------------------------------------------------------------------------------------------------ prompts


def phrases(prompt: str) -> list[str]:
    """What stands between commas and line ends outside brackets; network tags stand alone. Spaces are evened out."""
    found, depth, start, tag = [], 0, 0, False
    for at, letter in enumerate(prompt):
        escaped = at > 0 and prompt[at - 1] == "\\"
        if letter == "<" and not tag and not escaped:
            found.append(prompt[start:at])
            start, tag = at, True
        elif letter == ">" and tag:
            found.append(prompt[start : at + 1])
            start, tag = at + 1, False
        elif tag or escaped:
            continue
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth = max(0, depth - 1)
        elif letter in ",\n" and depth == 0:
            found.append(prompt[start:at])
            start = at + 1
    found.append(prompt[start:])
    return [evened for phrase in found if (evened := " ".join(phrase.split()))]


def _prompts(name: str, before: str, after: str) -> list[Change]:
    old, new = phrases(before), phrases(after)
    if old == new:
        return []
    gone, come = list((Counter(old) - Counter(new)).elements()), list((Counter(new) - Counter(old)).elements())
    if not gone and not come:
        return [Change(name, "order", phrase=True)]
    changes = []
    for phrase in list(come):
        # The same words with another weight, the same network with another strength: one change, not two.
        twin = next((one for one in gone if _bare(one) == _bare(phrase)), None)
        if twin is not None:
            gone.remove(twin)
            come.remove(phrase)
            changes.append(Change(name, "changed", twin, phrase, phrase=True))
    return [
        *changes,
        *(Change(name, "added", after=phrase, phrase=True) for phrase in come),
        *(Change(name, "removed", before=phrase, phrase=True) for phrase in gone),
    ]


def _bare(phrase: str) -> str:
    """A phrase without its weights; of a network tag the kind and the name."""
    if phrase.startswith("<") and phrase.endswith(">"):
        return ":".join(phrase[1:-1].split(":")[:2])
    return " ".join("".join(text for text, _ in parse_emphasis(phrase)).split())


# ------------------------------------------------------------------------------------------------------------- fields


def _value(fields: Mapping[str, Value], name: str) -> str | None:
    value = fields.get(name, meaning_unwritten(name))
    return None if value is None else str(value)


def _same(one: str | None, other: str | None) -> bool:
    if one == other:
        return True
    try:
        return one is not None and other is not None and float(one) == float(other)
    except ValueError:
        return False


def _shown(name: str, value: str | None) -> str:
    value = value or ""
    width, cross, height = value.partition("x")
    return f"{width}×{height}" if cross and width.isdigit() and height.isdigit() else value
