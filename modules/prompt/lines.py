"""Lines of a list of prompts: each a prompt, or options as on a command line.

    options("--prompt \\"a red house\\" --steps 30") == {"prompt": "a red house", "steps": "30"}

A prompt option swallows words until the next `--`; a line that cannot be read that way is a prompt as a whole (A1111's
"Prompts from file or textbox").
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

TEXTS = frozenset({"prompt_for_display", "prompt", "negative_prompt", "styles"})
OPTIONS: Mapping[str, type] = {
    "sd_model": str, "outpath_samples": str, "outpath_grids": str, "prompt_for_display": str, "prompt": str,
    "negative_prompt": str, "styles": str, "seed": int, "subseed_strength": float, "subseed": int,
    "seed_resize_from_h": int, "seed_resize_from_w": int, "sampler_index": int, "sampler_name": str,
    "batch_size": int, "n_iter": int, "steps": int, "cfg_scale": float, "width": int, "height": int,
    "restore_faces": bool, "tiling": bool, "do_not_save_samples": bool, "do_not_save_grid": bool,
}  # fmt: skip


def lines(text: str) -> list[str]:
    """The lines that are not empty, trimmed."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def options(line: str) -> dict[str, str | int | float | bool]:
    """What a line says; a line without options, or one that is odd, is its prompt."""
    if "--" not in line:
        return {"prompt": line}
    try:
        return _read(shlex.split(line))
    except ValueError:
        return {"prompt": line}


def _read(words: list[str]) -> dict[str, str | int | float | bool]:
    """ValueError for an unknown option, one without a value, or a value of another kind."""
    found: dict[str, str | int | float | bool] = {}
    at = 0
    while at < len(words):
        name = words[at].removeprefix("--")
        if not words[at].startswith("--") or name not in OPTIONS:
            raise ValueError(words[at])
        at += 1
        if name in TEXTS:
            start = at
            while at < len(words) and not words[at].startswith("--"):
                at += 1
            found[name] = " ".join(words[start:at])
            continue
        if at == len(words):
            raise ValueError(name)
        kind = OPTIONS[name]
        found[name] = words[at] == "true" if kind is bool else kind(words[at])
        at += 1
    return found
