"""What the page's script asks for besides the API."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Body, Request
from pydantic import BaseModel

from modules.frontends.api.native import Mine
from modules.frontends.ui.settings import SECTIONS_ELSEWHERE, Section, sections
from modules.imaging.metadata import open_bounded, read_infotext
from modules.schema.errors import BadRequest
from modules.schema.settings import SECTION_OF

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

    @router.get("/easel/settings", include_in_schema=False)
    def settings(mine: Mine) -> list[Section]:
        """Every option that the page shows."""
        return sections(mine.settings)

    @router.post("/easel/settings", include_in_schema=False)
    def change(mine: Mine, changes: Annotated[dict[str, Any], Body()]) -> list[Section]:
        """Change options by key; all of them, or none where one is refused."""
        for key in changes:
            if SECTION_OF.get(key) in SECTIONS_ELSEWHERE:
                raise BadRequest(f"{key} is changed in config.json, not here.", field=key)
        mine.change_settings(changes)
        return sections(mine.settings)

    return router


def _told(data: bytes) -> PictureTold:
    image = open_bounded(data)
    text = read_infotext(image) or ""
    others = {str(key): value[:LONGEST_TOLD] for key, value in image.info.items() if isinstance(value, str)}
    others.pop("parameters", None)
    return PictureTold(width=image.width, height=image.height, infotext=text, texts=others)
