"""What the front desk says of prompts while they are being typed, and of styles."""

from __future__ import annotations

from modules.schema.fields import Frozen


class Problem(Frozen):
    """A place in the text, `[start, end)` in characters, and one sentence on what is odd about it."""

    start: int
    end: int
    message: str


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
