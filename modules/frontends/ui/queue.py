"""The Queue tab: what is drawn, what waits and what is over, told as it changes. All in the page's script
(static/queue.js)."""

from __future__ import annotations

from modules.frontends.ui.panel import plain

FRAME = '<div id="queue_page" class="easel-queue-page"></div>'


def build() -> None:
    """Place the tab's frame (inside an open gr.Tab)."""
    plain(FRAME, "queue_panel")
