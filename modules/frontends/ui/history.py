"""The History tab: every picture, searched, rated, compared, traced and sent on. All in the page's script, so that a
hundred thousand pictures cost a start nothing (static/history.js)."""

from __future__ import annotations

from modules.frontends.ui.panel import plain

FRAME = '<div id="history" class="easel-history"></div>'


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    plain(FRAME, "history_panel")
