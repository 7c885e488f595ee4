"""How long the prompt language takes: `python -m tests.benchmarks.bench_prompt`. Prints CPU time, asserts nothing.

Aim: 10,000 characters in at most 50 ms, twice the text in at most 2.3 times that; the vocabulary loads in under 150 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from modules.prompt import tokens
from modules.prompt.counter import count
from modules.prompt.infotext import parse
from modules.prompt.parse import (
    extract_tags,
    parse_emphasis,
    parse_prompt,
    problems,
    schedule,
    split_and,
    strip_comments,
)
from modules.prompt.tokens import CLIP, chunk
from modules.prompt.wildcards import expand

SENTENCE = "a photo of a (red:1.3) house, [cat:dog:0.5], masterpiece, "
SHAPES: dict[str, Callable[[int], str]] = {
    "a real prompt": lambda n: SENTENCE * (n // len(SENTENCE)),
    "nested (a": lambda n: "(a" * (n // 3) + ")" * (n // 3),
    "nested edits": lambda n: "[a" * (n // 8) + ":b:0.5]" * (n // 8),
    "flat edits": lambda n: "[a:b:0.5] " * (n // 10),
    "alternations": lambda n: "[a|b] " * (n // 6),
    "open (": lambda n: "(" * n,
    "one word": lambda n: "a" * n,
    "spaces": lambda n: " " * n,
    "unclosed tags": lambda n: "<a:" * (n // 3),
}
PARTS: dict[str, Callable[[str], object]] = {
    "emphasis": parse_emphasis,
    "schedule": lambda text: schedule(text, 20),
    "AND": split_and,
    "tags": extract_tags,
    "comments": strip_comments,
    "problems": problems,
    "whole": lambda text: parse_prompt(text, 20),
    "chunks": lambda text: chunk(parse_emphasis(text), CLIP),
    "counter": lambda text: count(text, CLIP),
    "infotext": parse,
    "wildcards": lambda text: expand(text, 1, lambda name: ()),
}


def milliseconds(function: Callable[[], object], rounds: int = 5) -> float:
    """The best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best * 1000


def main() -> None:
    print(f"vocabulary: {milliseconds(tokens._vocabulary, rounds=1):.0f} ms")
    print(f"{'10,000 characters: ms (x for 20,000)':38}" + "".join(f"{part:>16}" for part in PARTS))
    for shape, text in SHAPES.items():
        row = f"{shape:38}"
        for part in PARTS.values():
            once = milliseconds(lambda: part(text(10_000)))  # noqa: B023
            twice = milliseconds(lambda: part(text(20_000)))  # noqa: B023
            row += f"{once:9.1f} ({twice / once:3.1f})"
        print(row)


if __name__ == "__main__":
    main()
