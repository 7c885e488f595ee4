"""What the front desk says of prompts while they are being typed, and of styles."""

from __future__ import annotations

from modules.schema.fields import Frozen


class Problem(Frozen):
    """A place in the text, `[start, end)` in characters, one sentence on what is odd about it, and what to write there
    instead, where that can be guessed."""

    start: int
    end: int
    message: str
    fix: str | None = None


class TextCheck(Frozen):
    """Tokens of a prompt (of its longest reading), the room in its chunks, the places in the typed text where chunks
    2, 3, … begin, and what does not do what it looks like."""

    tokens: int
    limit: int
    boundaries: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()


class PromptCheck(Frozen):
    """Both prompts. `counted` is False where the user turned the counters off."""

    prompt: TextCheck
    negative_prompt: TextCheck
    counted: bool = True


class PromptNames(Frozen):
    """What a prompt may name, for completing: sorted names, without folders and endings."""

    lora: tuple[str, ...] = ()
    hypernet: tuple[str, ...] = ()
    embedding: tuple[str, ...] = ()
    wildcard: tuple[str, ...] = ()
    style: tuple[str, ...] = ()


class TagView(Frozen):
    """A tag of a tag list: `alias` is how it was asked for, empty where that is its own name."""

    name: str
    category: str = ""
    count: int = 0
    alias: str = ""


class StyleView(Frozen):
    """One style and the name of the file it stands in."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""
    file: str = ""


class StyleList(Frozen):
    """All styles in order, and a sentence for each file that cannot be used."""

    styles: tuple[StyleView, ...] = ()
    warnings: tuple[str, ...] = ()
