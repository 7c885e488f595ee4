"""Native routes for the queue as a whole: what is drawn, what waits, and news of it as they come.

GET /queue                  → the jobs that are drawn and wait, in order; the last that ended
POST /queue/hold · release  → nothing further is begun; go on
GET /queue/events           → server-sent events: the queue whenever it changed, and the progress in between
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from modules.frontends.api.native import HEARTBEAT, Mine, Streams
from modules.frontends.desk import FrontDesk
from modules.schema.record import QueueView

APART = 0.25  # seconds between two events at least: nobody reads faster


def make_router(streams: Streams) -> APIRouter:
    router = APIRouter()

    @router.get("/queue")
    def queue(mine: Mine) -> QueueView:
        return mine.queue()

    @router.post("/queue/hold", status_code=202)
    def hold(mine: Mine) -> QueueView:
        """The job that is being drawn goes on; no other is begun until release, not after a restart either."""
        mine.hold_queue(True)
        return mine.queue()

    @router.post("/queue/release", status_code=202)
    def release(mine: Mine) -> QueueView:
        mine.hold_queue(False)
        return mine.queue()

    @router.get(
        "/queue/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "The queue and how far it is."}},
    )
    async def events(mine: Mine) -> StreamingResponse:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(mine, streams), media_type="text/event-stream", headers=headers)

    return router


async def _stream(desk: FrontDesk, streams: Streams) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    seen = (-1, -1)
    while not streams.closed:
        before = seen
        now = await streams.follow(lambda: desk.watch(before, HEARTBEAT))  # noqa: B023 - waited for here
        if now is None:
            return
        if now == seen:
            yield ": alive\n\n"
            continue
        more, seen = now[1] != seen[1], now
        told = await to_thread.run_sync(_whole if more else _progress, desk)
        yield f"data: {json.dumps(told, ensure_ascii=False, separators=(',', ':'))}\n\n"
        await asyncio.sleep(APART)


def _whole(desk: FrontDesk) -> dict[str, Any]:
    return {**_progress(desk), "kind": "queue", "queue": desk.queue().model_dump(mode="json")}


def _progress(desk: FrontDesk) -> dict[str, Any]:
    """How far the running job is; its `preview` is an address, None where there is none yet."""
    view = desk.current()
    if view is None or view.state != "running":
        return {"kind": "progress", "running": None}
    preview = desk.preview(view.id)
    running = view.model_dump(mode="json", include={"id", "step", "steps", "progress", "eta", "text", "cancelling"})
    running["preview"] = f"jobs/{view.id}/preview?number={preview[0]}" if preview else None
    running["done"] = sum(image.role != "mask" for image in view.images)
    return {"kind": "progress", "running": running}
