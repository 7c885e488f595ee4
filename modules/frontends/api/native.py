"""The native REST API: submit a job, follow it by id, fetch its pictures.

POST /jobs {"prompt": "a red house"} → 201 {"id": "…"}; with Idempotency-Key the same job however often it is sent
GET /jobs · GET /jobs/{id}           → state, progress, and the records of finished pictures
POST /jobs/{id}/cancel · skip · pause · resume · move · again
GET /events/{id}                     → server-sent events, resumable with Last-Event-ID or ?after=
GET /pictures/{id} · thumbnail · filmstrip
POST /prompt/check {"prompt": "a (red"} → tokens, chunk boundaries, problems, for both prompts
GET /styles · POST /styles · POST /styles/delete · POST /styles/apply
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Depends, Header, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel

from modules.frontends.api.metrics import metrics_text
from modules.frontends.desk import FrontDesk, desk_of
from modules.frontends.requests import check_length, make_request, well_formed
from modules.schema.errors import NotFound, WorkerLost
from modules.schema.events import Event, ImageReady, Preview
from modules.schema.fields import facts
from modules.schema.prompts import PromptCheck, StyleList
from modules.schema.record import FINAL_STATES, JobView, SavedRecord
from modules.schema.request import GenerationRequest
from modules.schema.version import NAME, VERSION

HEARTBEAT = 15.0  # seconds of silence after which a comment line tells proxies and browsers that we are alive
FOLLOWERS = 256  # event streams at once; each holds a thread while it waits
WAITERS = 512  # requests that wait for their job at once, likewise; further ones wait to wait
MAX_STEPS = int(facts(GenerationRequest, "steps").le or 150)

T = TypeVar("T")
MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".avif": "image/avif",
    ".gif": "image/gif",
}  # fmt: skip
# A picture never runs anything, whatever its bytes are, and never changes: its id is given once.
PICTURE_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}


def user_of(request: Request) -> str | None:
    """Who asks, as the gate found out; None where there is no login."""
    return getattr(request.state, "user", None)


def own_desk(request: Request) -> FrontDesk:
    """The desk as whoever asks may see it."""
    return desk_of(request.app.state.desk, user_of(request))


Mine = Annotated[FrontDesk, Depends(own_desk)]


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
        self._followers, self._waiters = CapacityLimiter(FOLLOWERS), CapacityLimiter(WAITERS)
        self._waiting: set[CancelScope] = set()

    async def next(self, source: Iterator[tuple[int, Event]]) -> tuple[int, Event] | None:
        """The next event; None at the end, or when the streams are closed. The thread that waits is left behind."""
        try:
            return await self._run(lambda: next(source, None), self._followers)
        except WorkerLost:
            return None

    async def run(self, wait: Callable[[], T]) -> T:
        """What `wait` gives, which may take as long as a job. WorkerLost when the streams are closed meanwhile."""
        return await self._run(wait, self._waiters)

    async def follow(self, wait: Callable[[], T]) -> T | None:
        """What `wait` gives, in a follower's thread; None when the streams are closed meanwhile."""
        try:
            return await self._run(wait, self._followers)
        except WorkerLost:
            return None

    async def _run(self, wait: Callable[[], T], threads: CapacityLimiter) -> T:
        with CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await to_thread.run_sync(wait, abandon_on_cancel=True, limiter=threads)
            finally:
                self._waiting.discard(scope)
        raise WorkerLost("Easel is being closed; the job goes on at the next start.")

    def close(self) -> None:
        """From the event loop's thread."""
        self.closed = True
        for scope in list(self._waiting):
            scope.cancel()


class JobId(BaseModel):
    id: str


# Read as they are, so that what is wrong is said in our own words; described all the same.
REQUEST_SCHEMA = {
    "requestBody": {
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/GenerationRequest"}}},
        "required": True,
    }
}
PICTURE_SCHEMA = {
    "requestBody": {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "required": True,
    }
}


def make_router(service: FrontDesk, streams: Streams) -> APIRouter:
    """All native routes over one service."""
    router = APIRouter()

    @router.get("/health")
    def health() -> dict[str, str]:
        return {"name": NAME, "version": VERSION, "status": "ok"}

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Counts and sizes for Prometheus."""
        return PlainTextResponse(metrics_text(service.stats()), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post("/jobs", status_code=201, openapi_extra=REQUEST_SCHEMA)
    def submit(
        mine: Mine,
        response: Response,
        values: Annotated[dict[str, Any], Body()],
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
        webhook: Annotated[str | None, Query(max_length=2000, description="One of --webhook")] = None,
    ) -> JobId:
        """Queues a job; the answer holds its id as soon as it is safely written."""
        job = mine.submit(make_request(values), key=idempotency_key, webhook=webhook)
        response.headers["Location"] = f"jobs/{job}"
        return JobId(id=job)

    @router.post("/inputs", status_code=201, openapi_extra=PICTURE_SCHEMA)
    async def keep_input(
        request: Request,
        mine: Mine,
        origin: Annotated[str | None, Query(max_length=64, description="The picture it was painted over")] = None,
    ) -> JobId:
        """Stores a picture to draw from (the body is its file); its id goes into the request's `source`."""
        name = await to_thread.run_sync(mine.keep_input, await request.body())
        if origin:
            with contextlib.suppress(NotFound):  # forgotten meanwhile: then it came from nowhere
                await to_thread.run_sync(mine.history.note_origin, name, origin)
        return JobId(id=name)

    @router.get("/jobs")
    def jobs(mine: Mine, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[JobView]:
        """The newest first."""
        return list(mine.jobs(limit))

    @router.get("/jobs/{id}")
    def job(id: str, mine: Mine) -> JobView:
        return mine.job(id)

    @router.post("/jobs/{id}/pause", status_code=202)
    def pause(id: str, mine: Mine) -> JobId:
        """A waiting job is passed over until it is resumed."""
        mine.pause(id)
        return JobId(id=id)

    @router.post("/jobs/{id}/resume", status_code=202)
    def resume(id: str, mine: Mine) -> JobId:
        mine.resume(id)
        return JobId(id=id)

    @router.post("/jobs/{id}/move", status_code=202)
    def move(
        mine: Mine,
        id: str,
        before: Annotated[str | None, Body(embed=True, description="A waiting job; null is behind all.")] = None,
    ) -> JobId:
        """Puts a waiting job before another one, or behind all."""
        mine.move(id, before)
        return JobId(id=id)

    @router.post("/jobs/{id}/again", status_code=201)
    def again(id: str, mine: Mine, same: bool = False) -> JobId:
        """Queues the same request once more; the answer is the new job. `same`: with the seeds drawn for it."""
        return JobId(id=mine.again(id, same=same))

    @router.post("/jobs/{id}/cancel", status_code=202)
    def cancel(id: str, mine: Mine) -> JobId:
        mine.job(id)
        mine.cancel(id)
        return JobId(id=id)

    @router.post("/jobs/{id}/skip", status_code=202)
    def skip(id: str, mine: Mine) -> JobId:
        mine.job(id)
        mine.skip(id)
        return JobId(id=id)

    @router.get("/jobs/{id}/preview")
    def preview(id: str, mine: Mine) -> Response:
        mine.job(id)
        found = mine.preview(id)
        if found is None:
            return Response(status_code=204)
        number, format, data = found
        headers = {**PICTURE_HEADERS, "Cache-Control": "no-store", "X-Preview-Number": str(number)}
        return Response(data, media_type=f"image/{format}", headers=headers)

    @router.get("/pictures/{id}")
    def picture(mine: Mine, id: str, download: bool = False) -> Response:
        data, record = _bytes_of(mine, id)
        name = _file_name(record)
        kind = "attachment" if download else "inline"
        plain = name.encode("ascii", "replace").decode().replace('"', "_").replace("\\", "_")
        disposition = f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
        headers = {**PICTURE_HEADERS, "Content-Disposition": disposition}
        media = MEDIA_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        return Response(data, media_type=media, headers=headers)

    @router.get("/pictures/{id}/filmstrip")
    def filmstrip(id: str, mine: Mine) -> Response:
        found, record = mine.picture(id)
        # It lies beside its picture.
        path = found.with_name(Path(record.filmstrip).name) if record.filmstrip and isinstance(found, Path) else None
        if path is None or not path.is_file():
            raise NotFound("That picture has no filmstrip.")
        return Response(path.read_bytes(), media_type="image/png", headers=PICTURE_HEADERS)

    @router.get("/pictures/{id}/thumbnail")
    def thumbnail(id: str, mine: Mine) -> Response:
        return Response(mine.thumbnail(id), media_type="image/webp", headers=PICTURE_HEADERS)

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

    @router.get(
        "/events/{id}",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "What the job says, as it says it."}},
    )
    async def events(
        mine: Mine,
        id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        await to_thread.run_sync(mine.job, id)  # an unknown id is a 404, not an empty stream
        if last_event_id and last_event_id.isdigit():
            after = max(after, int(last_event_id))
        return StreamingResponse(
            _stream(mine, id, after, streams),
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
