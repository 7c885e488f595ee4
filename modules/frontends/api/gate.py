"""The one gate in front of everything: size, Host, Origin, login, rate, and the headers every answer carries.

A page on the web can send requests to 127.0.0.1 from the user's own browser; loopback alone is no boundary.
- Host names that are not ours are refused (DNS rebinding). Addresses in numbers cannot be rebound, so a shared server
  takes any.
- Requests that change something are refused when the browser says they come from another site (CSRF), unless the owner
  named it (--cors-allow-origins). Programs such as curl send neither Origin nor Sec-Fetch-Site and are let through.
- A body is refused beyond `max_body` bytes, announced or not, and when it comes too slowly.
- Where there are logins, nothing is answered without one (HTTP Basic, RFC 7617).
- Gradio's route for files gives out what was uploaded through it, nothing else.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.frontends.api.logins import Logins

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY = 64 * 2**20
MAX_HEADERS = 32 * 2**10
MAX_NAME = 255
"""Bytes between two slashes: longer names exist on no disk."""
BODY_SECONDS = 60.0
"""Between two pieces of a body."""
AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[\w.-]+))(?::(?P<port>\d{1,5}))?", re.ASCII)
PURE = frozenset({"GET", "HEAD", "OPTIONS"})
API = "/sdapi/", "/controlnet/"

# Gradio routes that fetch foreign addresses, run code in development, or show its inner state.
CLOSED = ("/gradio_api/proxy=", "/gradio_api/dev", "/gradio_api/vibe", "/monitoring", "/gradio_api/monitoring")
GRADIO_FILE = re.compile(r"/(?:gradio_api/)?file[=/](.*)", re.DOTALL)

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


@dataclass(frozen=True)
class Origins:
    """Other sites that may call us: exact origins, `*` for all, or a pattern for the whole of one."""

    named: frozenset[str] = frozenset()
    pattern: str | None = None

    def allow(self, origin: str) -> bool:
        if origin in self.named or "*" in self.named:
            return True
        return self.pattern is not None and re.fullmatch(self.pattern, origin) is not None

    def headers(self, origin: str) -> list[tuple[bytes, bytes]]:
        """What tells a browser that the site may read the answer. Logins are never sent along for `*`."""
        if not self.allow(origin):
            return []
        if "*" in self.named and origin not in self.named:
            return [(b"access-control-allow-origin", b"*")]
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"vary", b"Origin"),
        ]


@dataclass
class Rate:
    """At most `per_minute` requests that change something, for each user and address; None is no limit."""

    per_minute: int | None = None
    _left: dict[tuple[str | None, str], tuple[float, float]] = field(default_factory=dict)

    def seconds_to_wait(self, who: tuple[str | None, str]) -> float:
        """0 where the request may pass (and is counted)."""
        if self.per_minute is None:
            return 0.0
        now = time.monotonic()
        left, since = self._left.pop(who, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - since) * self.per_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self.per_minute
        self._left[who] = (left if wait else left - 1, now)
        while len(self._left) > 4096:
            del self._left[next(iter(self._left))]
        return wait


class Gate:
    """ASGI middleware. `hosts`: names that may stand in Host; `any_address`: numeric addresses too; `learned`: names
    that became known after the start.

    `logins`: who may come in; the name goes into the request's state as `user`. `uploads`: the folder of Gradio's
    upload cache.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str] = LOOPBACK,
        max_body: int = MAX_BODY,
        logins: Logins | None = None,
        *,
        any_address: bool = False,
        learned: Set[str] = frozenset(),
        origins: Origins | None = None,
        rate: Rate | None = None,
        uploads: Path | None = None,
    ) -> None:
        self.app = app
        self.hosts = frozenset(name.lower() for name in hosts)
        self.max_body = max_body
        self.logins = logins or Logins()
        self.any_address = any_address
        self.learned = learned
        self.origins = origins or Origins()
        self.rate = rate or Rate()
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        origin = [value for name, value in headers if name == "origin"]
        foreign = self.origins.headers(origin[0]) if len(origin) == 1 else []
        send = _with_headers(send, foreign)
        try:
            scope = self._let_in(scope, headers, bool(foreign))
        except _Refusal as refusal:
            await _refuse(scope, receive, send, refusal)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
        elif foreign and scope["method"] == "OPTIONS":
            await _answer_preflight(headers, send)
        else:
            await self._pass(scope, receive, send)

    def _let_in(self, scope: Scope, headers: list[tuple[str, str]], from_a_friend: bool) -> Scope:
        """The scope with who it is; _Refusal for everything that stays outside."""
        named = {name: [v for n, v in headers if n == name] for name in ("host", "origin", "sec-fetch-site")}
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
            raise _Refusal(431, "The request's headers are too large.")
        if len(named["host"]) != 1 or not self._knows(named["host"][0]):
            shown = named["host"][0][:80] if named["host"] else ""
            message = "This server does not answer to that Host name; open it by the address it printed at start"
            name = _authority(shown)
            more = f", or start it with --host-name {name[0]}." if name and name[0] == name[0].strip(".") else "."
            raise _Refusal(421, message + more)
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        changes = scope["type"] == "websocket" or scope["method"] not in PURE
        if not from_a_friend and (changes or scope["type"] == "websocket"):
            if any(site.lower() not in ("same-origin", "none") for site in named["sec-fetch-site"]):
                raise _Refusal(403, "The request comes from another site; --cors-allow-origins lets one in.")
            if any(_authority_of_origin(origin) != _authority(named["host"][0]) for origin in named["origin"]):
                raise _Refusal(403, "The request comes from another origin; --cors-allow-origins lets one in.")
        preflight = from_a_friend and scope["type"] == "http" and scope["method"] == "OPTIONS"
        user = None if preflight else self._login(scope, headers, path.startswith(API))
        length = next((value for name, value in headers if name == "content-length"), "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20) or int(length) > self.max_body:
            raise _Refusal(413, f"The request is larger than {self.max_body // 2**20} MB.")
        if "\0" in path or any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in path.split("/")):
            raise _Refusal(404, "Nothing here has so odd a name.")
        if any(path.startswith(closed) for closed in CLOSED) or self._is_foreign_file(path):
            raise _Refusal(404, "There is nothing here.")
        if changes:
            wait = self.rate.seconds_to_wait((user, _address(scope)))
            if wait:
                raise _Refusal(429, "Too many requests in a minute; wait a little.", int(wait) + 1)
        return {**scope, "state": {**scope.get("state", {}), "user": user}}

    def _login(self, scope: Scope, headers: list[tuple[str, str]], api: bool) -> str | None:
        if not self.logins.asks(api):
            return None
        given = [value for name, value in headers if name == "authorization"]
        try:
            user = self.logins.who(given[0], api, _address(scope)) if len(given) == 1 else None
        except PermissionError:
            raise _Refusal(429, "Too many wrong passwords came from this address; wait a minute.", 60) from None
        if user is None:
            raise _Refusal(401, "This server asks for a name and a password.")
        return user

    def _knows(self, host: str) -> bool:
        authority = _authority(host)
        if authority is None:
            return False
        if authority[0] in self.hosts or authority[0] in self.learned:
            return True
        try:
            ipaddress.ip_address(authority[0])
        except ValueError:
            return False
        return self.any_address

    def _is_foreign_file(self, path: str) -> bool:
        """Whether Gradio's file route is asked for anything but a file of its upload cache."""
        found = GRADIO_FILE.fullmatch(path)
        if found is None:
            return False
        if self.uploads is None or "\0" in found[1]:
            return True
        root = os.path.realpath(self.uploads)
        target = os.path.realpath(found[1])
        return not (os.path.isabs(found[1]) and target.startswith(root + os.sep) and os.path.isfile(target))

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started, whole = 0, False, False

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()  # waits for the end of the connection, however long that lasts
            try:
                with anyio.fail_after(BODY_SECONDS):
                    message = await receive()
            except TimeoutError:
                raise _Refusal(408, "The request came too slowly.") from None
            if message["type"] == "http.request":
                whole = not message.get("more_body", False)
                seen += len(message.get("body", b""))
                if seen > self.max_body:
                    raise _Refusal(413, f"The request is larger than {self.max_body // 2**20} MB.")
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
        except _Refusal as refusal:
            if not started:
                await _refuse(scope, receive, send, refusal)


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


class _Refusal(Exception):
    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


def _address(scope: Scope) -> str:
    return (scope.get("client") or ("",))[0]


def _authority(text: str) -> tuple[str, str] | None:
    """(host, port) of `host:port` in lower case, default ports left out; None where it is anything else."""
    found = AUTHORITY.fullmatch(text.strip().lower())
    if not found:
        return None
    return found["v6"] or found["name"], "" if found["port"] in (None, "80", "443") else found["port"]


def _authority_of_origin(origin: str) -> tuple[str, str] | None:
    scheme, found, rest = origin.partition("://")
    return _authority(rest) if found and scheme.lower() in ("http", "https") else None


def _with_headers(send: Send, extra: list[tuple[bytes, bytes]]) -> Send:
    """`send` that adds these headers to every answer, and takes out any such that the app gave by itself."""
    ours = {b"access-control-allow-origin", b"access-control-allow-credentials"}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            message = {**message, "headers": [*kept, *extra]}
        await send(message)

    return sending


async def _answer_preflight(headers: list[tuple[str, str]], send: Send) -> None:
    """A browser asks whether a friend's page may send what it is about to send."""
    wanted = next((value for name, value in headers if name == "access-control-request-headers"), "*")
    answer = [
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        (b"access-control-allow-headers", wanted.encode("latin-1")),
        (b"access-control-max-age", b"600"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": answer})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: _Refusal) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    shown = {
        "error": "Refused", "detail": refusal.message, "body": "", "errors": refusal.message, "code": "refused",
        "message": refusal.message, "field": None,
    }  # fmt: skip
    body = json.dumps(shown).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Easel", charset="UTF-8"'))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
