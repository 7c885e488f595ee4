"""What the scripts of Extras, the Checkpoint Merger and the results panel ask for."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from modules.frontends.api.errors import Refused
from modules.frontends.api.native import PICTURE_HEADERS, Mine
from modules.frontends.ui import defaults, extras, merger, notify, results
from modules.frontends.ui.aside import Aside, PutAside
from modules.frontends.ui.own_forms import Part
from modules.schema.errors import NotFound
from modules.schema.model_tasks import InterrogateTask, TaskView
from modules.service.presets import Preset

Ids = Annotated[list[str], Body(embed=True, min_length=1, max_length=1000)]


class Presets(BaseModel):
    """Presets by name, and the families of the checkpoints that are here by theirs."""

    presets: dict[str, Preset]
    families: dict[str, str]


class Names(BaseModel):
    names: list[str]


class ExtrasForm(BaseModel):
    """`local`: folders of this machine may be named."""

    parts: list[Part]
    local: bool


def make_tabs_router(shared: bool) -> APIRouter:
    """`shared`: others than the owner reach the page, so nothing may be told or done about this machine's folders."""
    router = APIRouter()
    aside = Aside()

    @router.get("/easel/extras", include_in_schema=False)
    def extras_form(mine: Mine, refresh: bool = False) -> ExtrasForm:
        if refresh:
            mine.library.scan()
        return ExtrasForm(parts=extras.parts(mine), local=not shared)

    @router.get("/easel/merger", include_in_schema=False)
    def merger_page(mine: Mine, refresh: bool = False) -> merger.MergerPage:
        return merger.page(mine, shared, refresh)

    @router.get("/easel/merger/metadata", include_in_schema=False)
    def merger_metadata(mine: Mine, names: Annotated[list[str], Query(max_length=3)] = []) -> dict[str, str]:  # noqa: B006
        return merger.metadata_of(mine, names)

    @router.get("/easel/inputs/{name}", include_in_schema=False)
    def source(mine: Mine, name: str) -> Response:
        """What one of the own pictures was drawn from; no content where it is no longer kept, which is no mistake."""
        try:
            data = mine.history.source(name).read_bytes()
        except (NotFound, OSError):
            return Response(status_code=204)
        # Browsers know a picture by its bytes; nothing in it may run (the headers).
        return Response(data, media_type="image/png", headers=PICTURE_HEADERS)

    @router.post("/easel/zip", include_in_schema=False)
    def zip_of(mine: Mine, ids: Ids) -> StreamingResponse:
        pieces = results.zipped(mine, ids)
        name = quote(results.zip_name(mine, ids))
        headers = {"Cache-Control": "no-store", **({"X-Name": name} if name else {})}
        return StreamingResponse(pieces, media_type="application/zip", headers=headers)

    @router.post("/easel/save", include_in_schema=False)
    def put_aside(mine: Mine, ids: Ids) -> PutAside:
        """Copy pictures into the folder of the Save button, and note them in its log.csv."""
        if shared:
            raise Refused(403, results.NO_FOLDERS)
        return aside.put(mine, ids)

    @router.post("/easel/interrogate", status_code=201, include_in_schema=False)
    def interrogate(mine: Mine, asked: InterrogateTask) -> TaskView:
        """Words or tags for a kept picture: a task that /model-tasks tells of."""
        return mine.model_tasks.view(mine.model_tasks.submit(asked))

    @router.post("/easel/grid", include_in_schema=False)
    def grid_of(mine: Mine, ids: Ids) -> Response:
        data = results.grid(mine, ids, mine.settings.saving.n_rows)
        return Response(data, media_type="image/png", headers={**PICTURE_HEADERS, "Cache-Control": "no-store"})

    @router.post("/easel/folder", status_code=202, include_in_schema=False)
    def folder_of(mine: Mine, id: Annotated[str, Body(embed=True)]) -> None:
        """Show the folder of a picture on this machine's screen."""
        if shared:
            raise Refused(403, results.NO_FOLDERS)
        results.show_folder(results.folder_of(mine, id))

    @router.get("/easel/presets", include_in_schema=False)
    def presets(mine: Mine) -> Presets:
        families = {view.name: view.family for view in mine.checkpoints() if not view.problem}
        return Presets(presets=mine.presets.listed(), families=families)

    @router.post("/easel/presets", include_in_schema=False)
    def save_presets(mine: Mine, presets: Annotated[dict[str, Preset], Body(embed=True)]) -> None:
        mine.presets.save(presets)

    @router.post("/easel/presets/delete", include_in_schema=False)
    def delete_preset(mine: Mine, name: Annotated[str, Body(embed=True)]) -> None:
        mine.presets.delete(name)

    @router.post("/easel/presets/import", include_in_schema=False)
    async def import_presets(mine: Mine, request: Request) -> Names:
        """Read an exported file (the body is the file)."""
        return Names(names=await to_thread.run_sync(mine.presets.take_in, await request.body()))

    @router.get("/easel/notification", include_in_schema=False)
    def notification(mine: Mine) -> Response:
        """The sound of a finished job: the owner's notification.mp3, else our own where it is wanted."""
        sound = notify.sound(mine.settings, mine.folders.data / "notification.mp3")
        if sound is None:
            return Response(status_code=204)
        data, media = sound
        return Response(data, media_type=media, headers={"Cache-Control": "no-cache"})

    @router.get("/easel/defaults", include_in_schema=False)
    def changed_defaults(mine: Mine) -> list[defaults.Changed]:
        """What the page begins with otherwise than Easel does, by ui-config.json."""
        return defaults.changed(mine)

    @router.post("/easel/defaults", include_in_schema=False)
    def keep_defaults(
        mine: Mine, drafts: Annotated[dict[str, dict[str, Any]], Body(embed=True)]
    ) -> list[defaults.Changed]:
        """What these forms hold becomes what the page begins with."""
        defaults.keep(mine, drafts)
        return defaults.changed(mine)

    return router
