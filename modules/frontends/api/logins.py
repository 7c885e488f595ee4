"""Who may come in: names and passwords from the command line, or one that is made when a server is first shared.

Passwords given by the user are compared as they are, each in constant time; of the one that is made only a salted hash
is kept. It is 20 random characters (119 bits), so a fast hash is as good as a slow one: nobody tries them all.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import secrets
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modules.imaging.save import safe_write
from modules.schema.errors import DiskTrouble

MADE_NAME = "easel"
FILE = "login.json"
TRIES, WINDOW = 5, 60.0
"""Wrong passwords from one address within so many seconds; then none is looked at until they are over."""
REMEMBERED = 4096


@dataclass(frozen=True)
class Kept:
    """A name and the hash of its password."""

    name: str
    salt: str
    sha256: str

    def fits(self, name: str, password: str) -> bool:
        digest = hashlib.sha256((self.salt + password).encode()).hexdigest()
        return hmac.compare_digest(digest, self.sha256) and hmac.compare_digest(name.encode(), self.name.encode())


def made_login(folder: Path) -> tuple[Kept, str | None]:
    """The login of a shared server without one of its own; with the password if it was made just now.

    A folder that cannot be written costs its memory: the password is then made anew at each start.
    """
    path = folder / FILE
    try:
        told = json.loads(path.read_bytes())
        return Kept(str(told["name"]), str(told["salt"]), str(told["sha256"])), None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    password = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(20))
    salt = secrets.token_hex(16)
    kept = Kept(MADE_NAME, salt, hashlib.sha256((salt + password).encode()).hexdigest())
    with contextlib.suppress(DiskTrouble):
        safe_write(path, json.dumps(vars(kept)).encode(), overwrite=True)
    return kept, password


class Logins:
    """`users` may do everything, `api_users` only call the API; where `users` is empty the page is open.

    Where there are `api_users` the API asks for a login even if the page does not.
    """

    def __init__(
        self,
        users: Iterable[tuple[str, str]] = (),
        api_users: Iterable[tuple[str, str]] = (),
        kept: Kept | None = None,
        tries: int = TRIES,
    ) -> None:
        self._tries = tries
        self._users, self._api_users, self._kept = tuple(users), tuple(api_users), kept
        self._wrong: dict[str, list[float]] = {}
        self._known: dict[tuple[str, bytes], None] = {}

    def asks(self, api: bool) -> bool:
        """Whether a login is asked for."""
        return bool(self._users or self._kept or (api and self._api_users))

    def who(self, authorization: str, api: bool, address: str) -> str | None:
        """The name of a login (the Authorization header's value) that may pass; None for any other.

        PermissionError when too many wrong ones came from that address.
        """
        scheme, _, token = authorization.partition(" ")
        try:
            text = base64.b64decode(token.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
        except (binascii.Error, ValueError):
            text = ""
        name, colon, password = text.partition(":")
        if not colon:
            return None
        print_of = (address, hashlib.sha256(f"{api} {text}".encode()).digest())
        if print_of not in self._known and self._is_locked(address):
            raise PermissionError
        # All are compared, each in constant time, so that the answer's delay tells nothing.
        pairs = (*self._users, *(self._api_users if api else ()))
        fits = [
            hmac.compare_digest(name.encode(), user.encode()) & hmac.compare_digest(password.encode(), word.encode())
            for user, word in pairs
        ]
        if self._kept is not None:
            fits.append(self._kept.fits(name, password))
        if True in fits:
            self._known[print_of] = None
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
            return name
        self._wrong.setdefault(address, []).append(time.monotonic())
        if len(self._wrong) > REMEMBERED:
            del self._wrong[next(iter(self._wrong))]
        return None

    def _is_locked(self, address: str) -> bool:
        since = time.monotonic() - WINDOW
        recent = [moment for moment in self._wrong.get(address, ()) if moment > since]
        if recent:
            self._wrong[address] = recent
        else:
            self._wrong.pop(address, None)
        return len(recent) >= self._tries
