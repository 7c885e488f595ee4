"""The native REST API: submit a job, follow it by id, fetch its pictures.

POST /jobs {"prompt": "a red house"} → 201 {"id": "…"}
GET /events/{id}                     → server-sent events, resumable with Last-Event-ID or ?after=
POST /prompt/check {"prompt": "a (red"} → tokens, chunk boundaries, problems, for both prompts
GET /styles · POST /styles · POST /styles/delete · POST /styles/apply
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Header, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from modules.frontends.desk import FrontDesk
from modules.frontends.requests import check_length, make_request, well_formed
from modules.imaging.metadata import open_bounded
from modules.schema.errors import NotFound
from modules.schema.events import Event, ImageReady, Preview
from modules.schema.fields import facts
from modules.schema.prompts import PromptCheck, StyleList
from modules.schema.record import FINAL_STATES, JobView, SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.version import NAME, VERSION

HEARTBEAT = 15.0  # seconds of silence after which a comment line tells proxies and browsers that we are alive
FOLLOWERS = 256  # event streams at once; each holds a thread while it waits
THUMBNAIL = 320  # pixels, longest side
MAX_STEPS = int(facts(GenerationRequest, "steps").le or 150)

MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".avif": "image/avif",
    ".gif": "image/gif",
}  # fmt: skip
# A picture never runs anything, whatever its bytes are, and never changes: its id is given once.
PICTURE_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}


def event_data(job: str, event: Event) -> dict[str, Any]:
    """An event as plain JSON: pictures and previews by address, not by bytes. Addresses are relative to the root."""
    if isinstance(event, Preview):
        return {"kind": "preview", "step": event.step, "url": f"jobs/{job}/preview?step={event.step}"}
    if isinstance(event, ImageReady):
        return {"kind": "image", "record": event.record.model_dump(mode="json")}
    return event.model_dump(mode="json")


class Streams:
    """The event streams that are open, so that a server that stops can end them: they never end by themselves."""

    def __init__(self) -> None:
        self.closed = False
        self._threads = CapacityLimiter(FOLLOWERS)
        self._waiting: set[CancelScope] = set()

    async def next(self, source: Iterator[tuple[int, Event]]) -> tuple[int, Event] | None:
        """The next event; None at the end, or when the streams are closed. The thread that waits is left behind."""
        with CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await to_thread.run_sync(next, source, None, abandon_on_cancel=True, limiter=self._threads)
            finally:
                self._waiting.discard(scope)
        return None

    def close(self) -> None:
        """From the event loop's thread."""
        self.closed = True
        for scope in list(self._waiting):
            scope.cancel()


def make_router(service: FrontDesk, streams: Streams) -> APIRouter:
    """All native routes over one service."""
    router = APIRouter()

    @router.get("/health")
    def health() -> dict[str, str]:
        return {"name": NAME, "version": VERSION, "status": "ok"}

    @router.post("/jobs", status_code=201)
    def submit(values: Annotated[dict[str, Any], Body()]) -> JSONResponse:
        job = service.submit(make_request(values))
        return JSONResponse({"id": job}, 201, headers={"Location": f"jobs/{job}"})

    @router.get("/jobs")
    def jobs(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[JobView]:
        return list(service.jobs(limit))

    @router.get("/jobs/{id}")
    def job(id: str) -> JobView:
        return service.job(id)

    @router.post("/jobs/{id}/cancel", status_code=202)
    def cancel(id: str) -> dict[str, str]:
        service.job(id)
        service.cancel(id)
        return {"id": id}

    @router.post("/jobs/{id}/skip", status_code=202)
    def skip(id: str) -> dict[str, str]:
        service.job(id)
        service.skip(id)
        return {"id": id}

    @router.get("/jobs/{id}/preview")
    def preview(id: str) -> Response:
        service.job(id)
        found = service.preview(id)
        if found is None:
            return Response(status_code=204)
        number, format, data = found
        headers = {**PICTURE_HEADERS, "Cache-Control": "no-store", "X-Preview-Number": str(number)}
        return Response(data, media_type=f"image/{format}", headers=headers)

    @router.get("/pictures/{id}")
    def picture(id: str, download: bool = False) -> Response:
        data, record = _bytes_of(service, id)
        name = _file_name(record)
        kind = "attachment" if download else "inline"
        plain = name.encode("ascii", "replace").decode().replace('"', "_").replace("\\", "_")
        disposition = f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
        headers = {**PICTURE_HEADERS, "Content-Disposition": disposition}
        media = MEDIA_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        return Response(data, media_type=media, headers=headers)

    @lru_cache(maxsize=256)
    def small(id: str) -> bytes:
        data, record = _bytes_of(service, id)
        image = open_bounded(data, name=_file_name(record))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        out = io.BytesIO()
        image.save(out, "WEBP", quality=85)
        return out.getvalue()

    @router.get("/pictures/{id}/thumbnail")
    def thumbnail(id: str) -> Response:
        return Response(small(id), media_type="image/webp", headers=PICTURE_HEADERS)

    @router.post("/prompt/check")
    def check(
        prompt: Annotated[str, Body()] = "",
        negative_prompt: Annotated[str, Body()] = "",
        styles: Annotated[list[str], Body()] = [],  # noqa: B006 - FastAPI reads it, nobody changes it
        steps: Annotated[int, Body(ge=1, le=MAX_STEPS)] = 20,
        checkpoint: Annotated[str | None, Body()] = None,
    ) -> PromptCheck:
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            check_length(name, text)
        return service.prompts.check(prompt, negative_prompt, styles=styles, steps=steps, checkpoint=checkpoint)

    @router.get("/styles")
    def styles() -> StyleList:
        return service.styles.listed()

    @router.post("/styles")
    def save_style(
        name: Annotated[str, Body()],
        prompt: Annotated[str, Body()] = "",
        negative_prompt: Annotated[str, Body()] = "",
    ) -> StyleList:
        service.styles.save(name, prompt, negative_prompt)
        return service.styles.listed()

    @router.post("/styles/delete")
    def delete_style(name: Annotated[str, Body(embed=True)]) -> StyleList:
        service.styles.delete(name)
        return service.styles.listed()

    @router.post("/styles/apply")
    def apply_styles(
        styles: Annotated[list[str], Body()],
        prompt: Annotated[str, Body()] = "",
        negative_prompt: Annotated[str, Body()] = "",
    ) -> dict[str, str]:
        merged = service.styles.apply(styles, well_formed(prompt), well_formed(negative_prompt))
        return dict(zip(("prompt", "negative_prompt"), merged))

    @router.get("/events/{id}")
    async def events(
        id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        await to_thread.run_sync(service.job, id)  # an unknown id is a 404, not an empty stream
        if last_event_id and last_event_id.isdigit():
            after = max(after, int(last_event_id))
        return StreamingResponse(
            _stream(service, id, after, streams),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return router


async def _stream(service: FrontDesk, job: str, after: int, streams: Streams) -> AsyncIterator[str]:
    """Server-sent events of a job until its last."""
    yield "retry: 1000\n\n"
    ending = False
    while not streams.closed:
        source = service.follow(job, after, 0.01 if ending else HEARTBEAT)
        while (found := await streams.next(source)) is not None:
            after, event = found
            yield f"id: {after}\ndata: {_json(event_data(job, event))}\n\n"
        if ending:
            # Told, so that browsers do not take the end for a lost connection and come back.
            yield f"data: {_json({'kind': 'end'})}\n\n"
            return
        # Finished: one more look, for what was said between the last wait and now.
        ending = (await to_thread.run_sync(service.job, job)).state in FINAL_STATES
        yield ": alive\n\n"


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _bytes_of(service: FrontDesk, id: str) -> tuple[bytes, SavedRecord]:
    found, record = service.picture(id)
    if isinstance(found, bytes):
        return found, record
    try:
        return found.read_bytes(), record
    except OSError:
        raise NotFound(f"The file {found.name} of this picture is not there any more.") from None


def _file_name(record: SavedRecord) -> str:
    return Path(record.path).name if record.path else f"{record.seed}.png"
