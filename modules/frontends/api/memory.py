"""Memory: what a job would take, what is held now, and letting go of it.

POST /memory/estimate {"width": 1024, …}  → bytes by part, whether it fits; null as long as nothing is known
GET /memory · POST /memory/free
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body

from modules.frontends.api.native import REQUEST_SCHEMA, Mine
from modules.frontends.requests import make_request
from modules.schema.memory import MemoryEstimate, MemoryNow


def make_memory_router() -> APIRouter:
    router = APIRouter()

    @router.get("/memory")
    def now(mine: Mine) -> MemoryNow:
        """What is held of RAM and of the card's memory: weights, activations, what is kept to save work."""
        return mine.memory()

    @router.post("/memory/estimate", openapi_extra=REQUEST_SCHEMA)
    def estimate(mine: Mine, values: Annotated[dict[str, Any], Body()]) -> MemoryEstimate | None:
        """What a job would take of the memory it draws in."""
        return mine.estimate(make_request(values))

    @router.post("/memory/free", status_code=202)
    def free(mine: Mine) -> MemoryNow:
        """Lets go of the loaded model once nothing is drawn with it; the next job loads it again."""
        mine.unload()
        return mine.memory()

    return router
