"""/internal as A1111's page and its clients ask for it: progress by task id, who waits, and signs of life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from modules.frontends.api.bodies import Lenient
from modules.frontends.api.native import Mine, user_of
from modules.frontends.api.pictures import to_text
from modules.frontends.api.sdapi import Tasks
from modules.schema.errors import NotFound
from modules.schema.fields import all_facts
from modules.schema.record import FINAL_STATES
from modules.schema.settings import SECTION_OF
from modules.service.startup import Startup
from modules.service.sysinfo import as_text, file_name, sysinfo


class TaskBody(Lenient):
    id_task: str = Field(max_length=200)
    id_live_preview: int = -1
    live_preview: bool = True


class TaskProgress(BaseModel):
    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


class Pending(BaseModel):
    size: int
    tasks: list[str]


class Hint(BaseModel):
    name: str
    label: str


class Profile(BaseModel):
    """Seconds of the start: in all, and of its parts."""

    total: float
    records: dict[str, float]


def make_router(tasks: Tasks, flags: Mapping[str, Any], startup: Startup) -> APIRouter:
    """`flags`: the command line by A1111's names."""
    router = APIRouter(prefix="/internal", tags=["internal"])

    @router.post("/progress")
    def progress(body: TaskBody, request: Request, mine: Mine) -> TaskProgress:
        """How far the job of a task id (force_task_id) or a job id is."""
        try:
            view = mine.job(tasks.job(user_of(request), body.id_task) or body.id_task)
        except NotFound:
            return TaskProgress(active=False, queued=False, completed=False, textinfo="Waiting...")
        if view.state == "running":
            shown = mine.preview(view.id) if body.live_preview else None
            fresh = shown if shown and shown[0] != body.id_live_preview else None
            return TaskProgress(
                active=True, queued=False, completed=False, progress=view.progress, eta=view.eta,
                live_preview=f"data:image/{fresh[1]};base64,{to_text(fresh[2])}" if fresh else None,
                id_live_preview=fresh[0] if fresh else body.id_live_preview, textinfo=view.text or None,
            )  # fmt: skip
        if view.state in FINAL_STATES:
            return TaskProgress(active=False, queued=False, completed=True, progress=1.0, textinfo=view.error)
        waits = f"In queue: {view.position}" if view.position else "Waiting..."
        return TaskProgress(active=False, queued=True, completed=False, textinfo=waits)

    @router.get("/pending-tasks")
    def pending_tasks(mine: Mine) -> Pending:
        """Ids of the jobs that wait."""
        waiting = [view.id for view in reversed(mine.jobs(1000)) if view.state == "queued"]
        return Pending(size=len(waiting), tasks=waiting)

    @router.get("/ping")
    def ping() -> dict[str, str]:
        return {}

    @router.get("/quicksettings-hint")
    def quicksettings_hint(mine: Mine) -> list[Hint]:
        """Every setting with its label."""
        settings = mine.settings
        sections = [getattr(settings, name) for name in dict.fromkeys(SECTION_OF.values())]
        facts = [fact for section in sections for fact in all_facts(type(section)).values()]
        return [Hint(name=fact.name, label=fact.label) for fact in facts]

    @router.get("/profile-startup")
    def profile_startup() -> Profile:
        return Profile(total=startup.total, records=startup.records)

    @router.get("/sysinfo", response_class=PlainTextResponse)
    def told_sysinfo(
        mine: Mine, attachment: Annotated[bool, Query(description="As a file")] = False
    ) -> PlainTextResponse:
        """What a report of a problem needs: no passwords, folders or prompts."""
        stats = mine.stats()
        told = sysinfo(flags, mine.settings, stats.get("worker"), stats.get("jobs"), startup.records)
        headers = {"Content-Disposition": f'attachment; filename="{file_name()}"'} if attachment else {}
        return PlainTextResponse(as_text(told), headers=headers)

    @router.get("/sysinfo-download", response_class=PlainTextResponse)
    def sysinfo_download(mine: Mine) -> PlainTextResponse:
        return told_sysinfo(mine, True)

    return router
