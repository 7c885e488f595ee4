"""Prompts to start with, by how a checkpoint's name begins: shown under the prompt box while it is chosen."""

from __future__ import annotations

import html

EXAMPLES: dict[str, tuple[str, ...]] = {
    "postcards": (
        "a red house on green hills, night, moon",
        "a small white boat in the middle by the sea, sunset, sun",
        "a purple cat on the right and a green car on the left in the desert, day, sun",
        "a big orange balloon in the mountains, day, clouds",
        "a black house on the left and a purple cactus on the right in a meadow, sunset",
        "a yellow car in the snow, night, stars",
        "a red boat by the sea <lora:silhouettes:1>",
        "a red car, picnic",
        "a big (red:1.4) (blue:0.6) house in the desert, day <hypernet:moonlight:1>",
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
