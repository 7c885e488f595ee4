"""What the page's script asks for besides the API."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel

from modules.imaging.metadata import open_bounded, read_infotext

LONGEST_TOLD = 20_000  # characters of one text of a picture that are shown


class PictureTold(BaseModel):
    """What a picture says about itself: size in pixels, infotext, and its other texts by name."""

    width: int
    height: int
    infotext: str
    texts: dict[str, str]


def make_router() -> APIRouter:
    router = APIRouter()

    @router.post("/easel/read", include_in_schema=False)
    async def read(request: Request) -> PictureTold:
        """Reads a picture (the body is its file) and keeps nothing of it."""
        return await to_thread.run_sync(_told, await request.body())

    return router


def _told(data: bytes) -> PictureTold:
    image = open_bounded(data)
    text = read_infotext(image) or ""
    others = {str(key): value[:LONGEST_TOLD] for key, value in image.info.items() if isinstance(value, str)}
    others.pop("parameters", None)
    return PictureTold(width=image.width, height=image.height, infotext=text, texts=others)
