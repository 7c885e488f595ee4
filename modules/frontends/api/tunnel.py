"""--share: a public address through Gradio's tunnel: the one thing that reaches out to the Internet, when asked to.

The relay sees what passes through it in plain text, and its addresses can be found; so a login is always asked for.
"""

from __future__ import annotations

import secrets


def open_tunnel(port: int) -> str:
    """The public address that leads to this port of this machine. Raises whatever Gradio raises where there is none.

    The first time Gradio fetches its tunnel program. The tunnel ends with this process.
    """
    from gradio.networking import setup_tunnel  # most of a second; needed by few

    return setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
