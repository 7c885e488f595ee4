"""Texts for the property tests: pieces of the prompt language in any order, mixed with any characters at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("PROMPT_EXAMPLES") or (20_000 if os.environ.get("TEST_FULL") else 300))
SEED = int(os.environ.get("TEST_SEED", "20261120"))

_SIGNS = list("()[]:|\\,#<>{}_=&\"'\n\t \0")
_FORMS = ["0.5", "1.2", ":3]", ":1.2)", "1e999", ".", "-1", "BREAK", " AND ", "::"]
_WORDS = ["cat", "<lora:x:0.5>", "[a:b:0.5]", "[a|b]", "(red:1.3)", "{a|b}", "__x__", "Negative prompt:", "Steps: 20, "]
_STRANGE = [
    "\ud800",
    "\udfff",
    "שלום",
    "\u202e",
    "１．２",
    "　",
    "👩‍🚀",
    "e\u0301",
    "’s",
    "&amp;",
    "<|endoftext|>",
    "\x1b[0m",
]

# Lone surrogates and NUL are characters too; by default the strategy leaves surrogates out.
characters = st.text(st.characters(exclude_categories=()), max_size=40)
prompts = st.lists(st.sampled_from(_SIGNS + _FORMS + _WORDS + _STRANGE) | characters, max_size=40).map("".join)


def holds_for(examples: int = EXAMPLES, **strategies: Any) -> Callable[[Callable], Callable]:
    """@given with this project's seed and number of examples ($TEST_SEED, $PROMPT_EXAMPLES)."""

    def decorate(test: Callable) -> Callable:
        quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
        limits = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet)
        return seed(SEED)(limits(given(**strategies)(test)))

    return decorate


def is_subsequence(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(character in rest for character in part)
