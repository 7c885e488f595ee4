"""Native routes for model files: lists of every kind, previews, hashes, merging and converting."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import APIRouter, Body
from fastapi.responses import FileResponse

from modules.frontends.api.errors import Refused
from modules.schema.model_tasks import ModelTask, TaskView
from modules.schema.record import ModelView
from modules.service.model_tasks import ModelTasks
from modules.weights.library import Library

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}


class ModelDesk(Protocol):
    """What the service has for these routes."""

    library: Library
    model_tasks: ModelTasks


def make_models_router(service: ModelDesk, may_write: bool = True) -> APIRouter:
    """Everything below /models and /model-tasks. `may_write`: model files may be made, as nobody may over a network."""
    router = APIRouter()

    @router.get("/models")
    def models(kind: str | None = None) -> list[ModelView]:
        """Every model file that is known now, or those of one kind; what was added since follows in a few seconds."""
        return service.library.files(kind)

    @router.get("/models/preview")
    def preview(path: str) -> FileResponse:
        """The picture beside a model of the list."""
        picture = service.library.preview(path)
        return FileResponse(picture, media_type=TYPES[picture.suffix.lower()])

    @router.post("/models/hash", status_code=202)
    def take_hash(path: Annotated[str, Body(embed=True)]) -> ModelView:
        """Take a file's hashes in the background."""
        service.library.ask_hash(path)
        return service.library.get(path)

    @router.post("/model-tasks", status_code=201)
    def submit(task: Annotated[ModelTask, Body()]) -> TaskView:
        """Queue a merge or a conversion."""
        if not may_write:
            raise Refused(403, "Model files are not written over the network; merge on the machine Easel runs on.")
        return service.model_tasks.view(service.model_tasks.submit(task))

    @router.get("/model-tasks")
    def tasks() -> list[TaskView]:
        return service.model_tasks.views()

    @router.get("/model-tasks/{id}")
    def task(id: str) -> TaskView:
        return service.model_tasks.view(id)

    @router.post("/model-tasks/{id}/cancel", status_code=202)
    def cancel(id: str) -> TaskView:
        service.model_tasks.cancel(id)
        return service.model_tasks.view(id)

    return router
