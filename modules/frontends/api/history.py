"""Native routes for the history: every picture made or imported, found by words, marked, traced, thrown away and back.

GET  /history?q=red model:dream&sort=newest → pictures, and a cursor for those behind them (?after=, or ?offset=)
GET  /history/groups?q=…                     → days (or ratings) and counts of all that is found
GET  /history/{id} · /history/{id}/lineage · /history/compare?one=…&other=…
POST /history/mark · delete · restore {"ids": […]} · /history/empty
GET, POST /history/import · POST /history/import/cancel
GET  /history/sources/{sha256} · thumbnail   → what a picture was drawn from
The pictures themselves are at /pictures/{id}.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel

from modules.frontends.api.errors import Refused
from modules.frontends.api.native import MEDIA_TYPES, PICTURE_HEADERS, Mine
from modules.schema.history import (
    Comparison,
    Groups,
    ImportView,
    Lineage,
    Page,
    PictureDetail,
    Shelf,
    Sort,
)
from modules.service.history import MOST_AT_ONCE, MOST_CHANGED

Search = Annotated[str, Query(max_length=1000, description="As in the box of the History tab")]
Ids = Annotated[list[str], Body(max_length=MOST_CHANGED, min_length=1)]
OnlyIds = Annotated[list[str], Body(max_length=MOST_CHANGED, min_length=1, embed=True)]
Sha = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


class Changed(BaseModel):
    """Ids of the pictures that were changed."""

    ids: list[str]


class Removed(BaseModel):
    count: int


def make_router(may_import: bool = True) -> APIRouter:
    """Everything below /history. `may_import`: folders of this computer may be read, as nobody may over a network."""
    router = APIRouter()

    @router.get("/history")
    def pictures(
        mine: Mine,
        q: Search = "",
        sort: Sort = "newest",
        shelf: Shelf = "here",
        after: Annotated[str | None, Query(max_length=100, description="`next` of the page before")] = None,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> Page:
        return mine.history.page(q, sort, shelf, after, offset, limit)

    @router.get("/history/groups")
    def groups(mine: Mine, q: Search = "", sort: Sort = "newest", shelf: Shelf = "here") -> Groups:
        return mine.history.groups(q, sort, shelf)

    @router.get("/history/compare")
    def compare(mine: Mine, one: str, other: str) -> Comparison:
        """What differs in the settings of two pictures, in words."""
        return mine.history.compare(one, other)

    @router.post("/history/mark")
    def mark(
        mine: Mine,
        ids: Ids,
        rating: Annotated[int | None, Body()] = None,
        favourite: Annotated[bool | None, Body()] = None,
    ) -> Changed:
        mine.history.rate(ids, rating, favourite)
        return Changed(ids=ids)

    @router.post("/history/delete")
    def delete(mine: Mine, ids: OnlyIds) -> Changed:
        """Pictures made here go to the trash, imported ones out of sight; both come back with restore."""
        return Changed(ids=mine.history.delete(ids))

    @router.post("/history/restore")
    def restore(mine: Mine, ids: OnlyIds) -> Changed:
        return Changed(ids=mine.history.restore(ids))

    @router.post("/history/empty")
    def empty(mine: Mine) -> Removed:
        """What is in the trash is gone for good."""
        return Removed(count=mine.history.empty_trash())

    @router.get("/history/import")
    def import_view(mine: Mine) -> ImportView:
        """The import that runs, or the last one."""
        return mine.importer.view() if may_import else ImportView()

    @router.post("/history/import", status_code=202)
    def start_import(mine: Mine, folder: Annotated[str, Body(embed=True, max_length=4096)]) -> ImportView:
        """Lists the pictures of a folder and all below it; the files are only read."""
        if not may_import:
            raise Refused(403, "Folders are not imported over the network; do it on the machine Easel runs on.")
        return mine.importer.start(folder, mine.history.owner or "")

    @router.post("/history/import/cancel", status_code=202)
    def cancel_import(mine: Mine) -> ImportView:
        return mine.importer.cancel() if may_import else ImportView()

    @router.get("/history/sources/{name}")
    def source(mine: Mine, name: Sha) -> Response:
        """The picture or mask that one of the own pictures was drawn from."""
        data = mine.history.source(name).read_bytes()
        return Response(data, media_type=MEDIA_TYPES[f".{kind_of(data[:16])}"], headers=PICTURE_HEADERS)

    @router.get("/history/sources/{name}/thumbnail")
    def source_thumbnail(mine: Mine, name: Sha) -> Response:
        return Response(mine.history.source_thumbnail(name), media_type="image/webp", headers=PICTURE_HEADERS)

    @router.get("/history/{id}")
    def picture(mine: Mine, id: str) -> PictureDetail:
        return mine.history.get(id)

    @router.get("/history/{id}/lineage")
    def lineage(mine: Mine, id: str) -> Lineage:
        """What it came from and led to, as far as is known."""
        return mine.history.lineage(id)

    return router


def kind_of(head: bytes) -> str:
    """The suffix that fits the first bytes of a picture file; sources are kept without a name."""
    if head.startswith(b"\x89PNG"):
        return "png"
    if head.startswith(b"\xff\xd8"):
        return "jpg"
    if head[:4] == b"RIFF":
        return "webp"
    return "gif" if head.startswith(b"GIF") else "avif"
