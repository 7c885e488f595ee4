"""Cards of extra networks and checkpoints, beside the pictures of a tab: only their places; the page's script fills
them (static/networks.js)."""

from __future__ import annotations

from modules.frontends.ui.panel import plain


def place(tab: str) -> None:
    """The strip of tabs (Pictures, Lora, …) and the pane that takes the place of the pictures."""
    plain("", f"{tab}_extra_tabs", elem_classes="easel-strip")
    plain("", f"{tab}_extra_pane", elem_classes="easel-networks")
