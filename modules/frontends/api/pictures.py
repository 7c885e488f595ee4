"""Pictures as the API's clients send and get them: base64 in JSON, or an address where the owner allows that."""

from __future__ import annotations

import base64
import binascii

from modules.frontends.api.fetch import fetch
from modules.schema.errors import BadRequest
from modules.schema.settings import Settings


def from_text(text: str, field: str, settings: Settings) -> bytes:
    """The bytes of a picture file: plain base64, a data: URI, or what lies at a http(s) address.

    BadRequest names the field. Whether the bytes are a picture is for whoever opens them to say.
    """
    if text.startswith(("http://", "https://")):
        if not settings.api.api_enable_requests:
            raise BadRequest(
                f"{field} is an address, and this server fetches none; send the picture itself in base64.", field=field
            )
        try:
            return fetch(
                text,
                forbid_local=settings.api.api_forbid_local_requests,
                agent=settings.api.api_useragent,
            )
        except BadRequest as error:
            raise BadRequest(error.message, field=field) from None
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode("".join(text.split()).encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise BadRequest(f"{field} is not a picture in base64; send the bytes of a picture file so.", field=field)
    return data


def to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
