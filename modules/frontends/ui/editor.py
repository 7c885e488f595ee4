"""What the prompt editor (static/editor.js) asks for while somebody types."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from modules.frontends.api.native import Mine
from modules.schema.prompts import PromptNames, TagView

LONGEST_START = 100


def make_router() -> APIRouter:
    router = APIRouter()

    @router.get("/prompt/names")
    def names(mine: Mine) -> PromptNames:
        """Names of networks, embeddings, wildcards and styles, to complete by."""
        return mine.prompts.names()

    @router.get("/prompt/tags")
    def tags(mine: Mine, start: Annotated[str, Query(max_length=LONGEST_START)]) -> list[TagView]:
        """Tags of the user's tag lists (tags/*.csv) that begin so, the most used first."""
        return mine.prompts.tags(start)

    return router
