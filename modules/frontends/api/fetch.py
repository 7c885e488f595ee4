"""Pictures from the web, where the owner turned that on: the one place that connects to an address from outside.

A name is looked up once and that very address is connected to, so it cannot change between the check and the use (DNS
rebinding). Addresses of this machine and its network are refused unless allowed, also in the disguises of IPv6; so are
ports other than 80 and 443. Redirects are followed three times, each checked alike. Time and bytes are bounded.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Collection
from urllib.parse import urljoin, urlsplit

from modules.schema.errors import BadRequest

MAX_BYTES = 32 * 2**20
SECONDS = 10.0
REDIRECTS = 3
PORTS = frozenset({80, 443})
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. OSError where it has none."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def fetch(
    url: str,
    *,
    forbid_local: bool = True,
    agent: str = "",
    resolve: Resolve = resolve,
    ports: Collection[int] = PORTS,
) -> bytes:
    """What lies at a http(s) address. BadRequest, in one sentence, for everything that does not go well.

    `ports` may be connected to where `forbid_local`.
    """
    until = time.monotonic() + SECONDS
    try:
        for _ in range(REDIRECTS + 1):
            answer = _get(url, until, agent, resolve, ports if forbid_local else None)
            if isinstance(answer, bytes):
                return answer
            url = answer
    except (OSError, http.client.HTTPException, ValueError):
        raise BadRequest("That address did not answer in time with a picture; send the picture itself.") from None
    raise BadRequest("That address leads on and on; send the picture itself.")


def _get(url: str, until: float, agent: str, resolve: Resolve, ports: Collection[int] | None) -> bytes | str:
    """The body, or where it leads on to. With `ports`, these on public addresses only."""
    if not url.isascii() or any(ord(c) <= 32 for c in url):
        raise BadRequest("An address of a picture has only plain characters; others are written %xx.")
    parts = urlsplit(url)
    usual = {"http": 80, "https": 443}
    if parts.scheme not in usual or not parts.hostname or parts.username is not None or parts.password is not None:
        raise BadRequest("An address of a picture begins with http:// or https:// and holds no password.")
    port = parts.port or usual[parts.scheme]
    if ports is not None and port not in ports:
        raise BadRequest("Pictures are fetched from ports 80 and 443 only.")
    addresses = resolve(parts.hostname, port)
    if ports is not None and not (addresses and all(is_public(address) for address in addresses)):
        raise BadRequest("That address is on this machine or its network; pictures are fetched from the web only.")
    connection = _Connection(parts.hostname, port, addresses[0], until, parts.scheme == "https")
    try:
        headers = {"User-Agent": agent or "Easel", "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers)
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308):
            return urljoin(url, answer.headers.get("Location", ""))
        if answer.status != 200:
            raise BadRequest(f"That address answered {answer.status}; send the picture itself.")
        body = bytearray()
        while chunk := answer.read1(65536):
            body += chunk
            if len(body) > MAX_BYTES:
                raise BadRequest(f"What lies at that address is larger than {MAX_BYTES // 2**20} MB.")
            connection.still(until)
        return bytes(body)
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """To an address that was looked up before, under the name it was looked up by."""

    def __init__(self, host: str, port: int, address: str, until: float, secure: bool) -> None:
        super().__init__(host, port, timeout=max(0.1, until - time.monotonic()))
        self._address, self._secure = address, secure
        self.default_port = 443 if secure else 80

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def still(self, until: float) -> None:
        """TimeoutError when the time is over; else reads may take what is left of it."""
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self.sock is not None:
            self.sock.settimeout(left)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open Internet, also behind the forms that hide an IPv4 address in IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        hidden = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if found in ipaddress.ip_network("64:ff9b::/96"):
            hidden = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if hidden and not is_public(str(hidden)):
            return False
        if found in ipaddress.ip_network("::/96") or found in ipaddress.ip_network("64:ff9b:1::/48"):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved
