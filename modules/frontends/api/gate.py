"""The one gate in front of everything: size, Host, Origin, and the headers every answer carries.

A page on the web can send requests to 127.0.0.1 from the user's own browser; loopback alone is no boundary.
- Host names that are not ours are refused (DNS rebinding).
- Requests that change something are refused when the browser says they come from another site (CSRF). Programs such as
  curl send neither Origin nor Sec-Fetch-Site and are let through.
- A body is refused beyond `max_body` bytes, announced or not.
- Where names and passwords are set, nothing is answered without one of them (HTTP Basic, RFC 7617).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY = 64 * 2**20
AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[\w.-]+))(?::(?P<port>\d{1,5}))?")
PURE = frozenset({"GET", "HEAD", "OPTIONS"})

# Gradio routes that fetch foreign addresses, run code in development, or show its inner state.
CLOSED = ("/gradio_api/proxy=", "/gradio_api/file=http", "/gradio_api/dev", "/gradio_api/vibe", "/monitoring")

# Nothing but this server may be asked for anything. Gradio's own scripts need inline and eval.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Gate:
    """ASGI middleware. `hosts`: names that may stand in Host (None = any, for a server that listens to the network).

    `users`: (name, password) pairs, one of which every request must carry; none = no login.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str] | None = LOOPBACK,
        max_body: int = MAX_BODY,
        users: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.app = app
        self.users = tuple(f"{name}:{password}".encode() for name, password in users)
        self.hosts = None if hosts is None else frozenset(name.lower() for name in hosts)
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await _refuse(scope, receive, send, *refusal)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        await self._pass(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        named = {name: [v for n, v in headers if n == name] for name in ("host", "origin", "sec-fetch-site")}
        if len(named["host"]) != 1 or not self._knows(named["host"][0]):
            return 421, "This server does not answer to that Host name; open it by the address it printed at start."
        if self.users and not self._has_login(headers):
            return 401, "This server asks for a name and a password."
        length = next((value for name, value in headers if name == "content-length"), "0")
        if not length.isdigit() or int(length) > self.max_body:
            return 413, f"The request is larger than {self.max_body // 2**20} MB."
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if any(path.startswith(closed) for closed in CLOSED):
            return 404, "There is nothing here."
        if scope["type"] == "http" and scope["method"] in PURE:
            return None
        if any(site.lower() not in ("same-origin", "none") for site in named["sec-fetch-site"]):
            return 403, "The request comes from another site."
        if any(_authority_of_origin(origin) != _authority(named["host"][0]) for origin in named["origin"]):
            return 403, "The request comes from another origin."
        return None

    def _has_login(self, headers: list[tuple[str, str]]) -> bool:
        given = [value for name, value in headers if name == "authorization"]
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        try:
            login = base64.b64decode(token.strip(), validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            return False
        # All are compared, each in constant time, so that the answer's delay tells nothing.
        return True in [hmac.compare_digest(login, user) for user in self.users]

    def _knows(self, host: str) -> bool:
        authority = _authority(host)
        return authority is not None and (self.hosts is None or authority[0] in self.hosts)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.max_body:
                    raise _TooLarge
            return message

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            await self.app(scope, counted, marked)
        except _TooLarge:
            if not started:
                await _refuse(scope, receive, send, 413, f"The request is larger than {self.max_body // 2**20} MB.")


class SubPath:
    """ASGI middleware: the app lives below `root` ("/paint"), whether a proxy in front strips that prefix or not."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        self.app = app
        self.root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            path = scope["path"]
            inside = path == self.root or path.startswith(self.root + "/")
            scope = {**scope, "root_path": self.root, "path": path if inside else self.root + path}
        await self.app(scope, receive, send)


class _TooLarge(Exception):
    pass


def _authority(text: str) -> tuple[str, str] | None:
    """(host, port) of `host:port` in lower case, default ports left out; None where it is anything else."""
    found = AUTHORITY.fullmatch(text.strip().lower())
    if not found:
        return None
    return found["v6"] or found["name"], "" if found["port"] in (None, "80", "443") else found["port"]


def _authority_of_origin(origin: str) -> tuple[str, str] | None:
    scheme, found, rest = origin.partition("://")
    return _authority(rest) if found and scheme.lower() in ("http", "https") else None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"code": "refused", "message": message, "field": None}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Easel", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
