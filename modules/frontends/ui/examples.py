"""Prompts to start with, by how a checkpoint's name begins: shown under the prompt box while it is chosen."""

from __future__ import annotations

import html

EXAMPLES: dict[str, tuple[str, ...]] = {
    "postcards": (
        "a red house on green hills, night, moon",
        "a small white boat on the sea, sunset, sun",
        "a big orange balloon over mountains, day, clouds",
        "a black cat in the snow, night, stars",
        "a yellow car in the desert, day, birds",
        "a green cactus in the desert, sunset",
    ),
}


def examples_html(checkpoint: str | None) -> str:
    """A row of buttons, each saying its prompt; nothing where the checkpoint has no examples."""
    name = (checkpoint or "").lower()
    prompts = next((prompts for start, prompts in EXAMPLES.items() if name.startswith(start)), ())
    if not prompts:
        return ""
    chips = "".join(f'<button type="button" class="easel-example">{html.escape(prompt)}</button>' for prompt in prompts)
    return f'<div class="easel-examples" role="group" aria-label="Example prompts">{chips}</div>'
