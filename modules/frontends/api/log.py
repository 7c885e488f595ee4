"""ASGI middleware: X-Process-Time on every answer, and with --api-log a line per call of the API."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Timed:
    """`say` gets `API <time> <status> <protocol> <method> <path> <client> <seconds>`; None says nothing."""

    def __init__(self, app: ASGIApp, say: Callable[[str], None] | None = None) -> None:
        self.app = app
        self.say = say

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                taken = f"{time.perf_counter() - started:.4f}".encode()
                message = {**message, "headers": [*message["headers"], (b"x-process-time", taken)]}
            await send(message)

        try:
            await self.app(scope, receive, timed)
        finally:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if self.say is not None and path.startswith("/sdapi"):
                shown = path.encode("ascii", "backslashreplace").decode()
                client = (scope.get("client") or ("unknown",))[0]
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                protocol = f"http/{scope.get('http_version', '1.1')}"
                seconds = f"{time.perf_counter() - started:.4f}"
                self.say(f"API {now} {status} {protocol} {scope['method']} {shown} {client} {seconds}")
