"""Native routes for cards of model files: lists, one card, and what is written beside a model."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Request
from fastapi.responses import Response

from modules.frontends.api.errors import Refused
from modules.frontends.api.native import PICTURE_HEADERS, Mine
from modules.frontends.desk import FrontDesk
from modules.schema.cards import Card, CardNotes
from modules.schema.errors import NotFound
from modules.schema.record import CheckpointView

REFRESH_SECONDS = 20.0


def make_cards_router(may_write: bool = True) -> APIRouter:
    """Everything below /cards. `may_write`: notes and previews may be written, as nobody may over a network."""
    router = APIRouter()

    def check_writable() -> None:
        if not may_write:
            raise Refused(403, "Notes and previews are not written over the network; edit them where Easel runs.")

    @router.get("/cards")
    def cards(mine: Mine, request: Request, kind: str = "lora", checkpoint: str | None = None) -> Response:
        """Every card of a kind: lora, embedding, hypernetwork or checkpoint. `checkpoint`: the one that is drawn with,
        for `fits`; files that came within the last seconds follow with the next question."""
        chosen = _checkpoint(mine, checkpoint)
        mark = f'"{mine.cards.stamp(kind, chosen)}"'
        headers = {"ETag": mark, "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == mark:
            return Response(status_code=304, headers=headers)
        return Response(mine.cards.listing(kind, chosen), media_type="application/json", headers=headers)

    @router.post("/cards/refresh", status_code=204)
    def refresh(mine: Mine) -> None:
        """Answers once the folders have been looked through anew."""
        mine.library.wait(REFRESH_SECONDS)

    @router.get("/cards/card")
    def card(mine: Mine, path: str, checkpoint: str | None = None) -> Card:
        """All about one file of the lists."""
        return mine.cards.card(path, _checkpoint(mine, checkpoint)).model_copy(update={"writable": may_write})

    @router.get("/cards/picture")
    def picture(mine: Mine, path: str) -> Response:
        """A card's picture, small."""
        return Response(mine.cards.thumbnail(path), media_type="image/webp", headers=PICTURE_HEADERS)

    @router.post("/cards/notes")
    def notes(mine: Mine, path: str, notes: Annotated[CardNotes, Body()]) -> Card:
        """Write down what a user says of a model: the JSON beside it, under A1111's keys."""
        check_writable()
        return mine.cards.write_notes(path, notes)

    @router.post("/cards/preview")
    async def preview(mine: Mine, request: Request, path: str) -> Card:
        """Another picture for a card; the body is its file."""
        check_writable()
        return await to_thread.run_sync(mine.cards.write_preview, path, await request.body())

    return router


def _checkpoint(desk: FrontDesk, name: str | None) -> CheckpointView | None:
    try:
        return desk.checkpoint(name) if name else None
    except NotFound:
        return None
