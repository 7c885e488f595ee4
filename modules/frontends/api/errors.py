"""The error tree in HTTP's voice: a status and one JSON shape, A1111's with our `code`, `message` and `field` beside.

    {"error": "BadRequest", "detail": "…", "body": "", "errors": "…", "code": "bad_request", "message": "…", "field": "steps"}

Where the body itself cannot be read, `detail` is FastAPI's list of {loc, msg, type}, as in A1111.
"""  # noqa: E501

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from starlette.exceptions import HTTPException

from modules.schema.errors import (
    BadFile,
    BadRequest,
    Cancelled,
    DiskTrouble,
    EaselError,
    InUse,
    NotANumber,
    NotFound,
    OutOfMemory,
    TooMany,
    WorkerLost,
)

STATUS: dict[type[EaselError], int] = {
    BadRequest: 422,
    NotFound: 404,
    BadFile: 415,
    Cancelled: 409,
    InUse: 409,
    NotANumber: 422,
    TooMany: 429,
    OutOfMemory: 507,
    DiskTrouble: 507,
    WorkerLost: 503,
}
BY_CODE = {kind.code: kind for kind in STATUS}


class Refused(EaselError):
    """An answer with a status of its own, where A1111 has one that clients know."""

    code = "refused"

    def __init__(self, status: int, message: str, *, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.status = status


class JobFailed(EaselError):
    """A job that was waited for has failed, with the code it failed with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ErrorBody(BaseModel):
    """What every refusal looks like."""

    error: str
    detail: str | list[dict[str, Any]]
    body: str = ""
    errors: str
    code: str
    message: str
    field: str | None = None


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "Refused: `message` says why, `field` which part of the request."},
    "5XX": {"model": ErrorBody, "description": "It went wrong here: no memory, no disk space, the worker ended."},
}
"""For routers: what the documentation says of refusals."""


def status_of(error: EaselError) -> int:
    if isinstance(error, Refused):
        return error.status
    kind = BY_CODE.get(error.code, type(error)) if isinstance(error, JobFailed) else type(error)
    return next((status for known, status in STATUS.items() if issubclass(kind, known)), 500)


def body_of(error: str, code: str, message: str, field: str | None, detail: Any = None) -> dict[str, Any]:
    return {
        "error": error, "detail": message if detail is None else detail, "body": "", "errors": message, "code": code,
        "message": message, "field": field,
    }  # fmt: skip


def install(app: FastAPI) -> None:
    """Let every EaselError, and every malformed body, leave the app as JSON in one shape."""

    @app.exception_handler(EaselError)
    async def ours(_: Request, error: EaselError) -> JSONResponse:
        hint = f"{error.message} {error.hint}" if error.hint else error.message
        return JSONResponse(body_of(type(error).__name__, error.code, _plain(hint), error.field), status_of(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the values: they may be anything, also what JSON cannot hold (NaN, half an emoji).
        found = [
            {"loc": [_plain(part) for part in each["loc"]], "msg": _plain(each["msg"]), "type": each["type"]}
            for each in error.errors()[:20]
        ]
        place = [str(part) for part in found[0]["loc"] if part not in ("body", "query", "path", "header")]
        field = place[0] if place else None
        message = f"The request cannot be read: {f'{field}: ' if field else ''}{found[0]['msg']}."
        return JSONResponse(body_of("RequestValidationError", "bad_request", message, field, found), 422)

    @app.exception_handler(UnicodeEncodeError)
    @app.exception_handler(PydanticSerializationError)
    async def unwritable(_: Request, error: Exception) -> JSONResponse:
        message = "The request holds characters that cannot be written down; send plain text."
        return JSONResponse(body_of("BadRequest", "bad_request", message, None), 422)

    @app.exception_handler(HTTPException)
    async def by_status(_: Request, error: HTTPException) -> JSONResponse:
        message = _plain(error.detail)
        body = body_of("HTTPException", "refused", message, None)
        return JSONResponse(body, error.status_code, headers=error.headers)


def _plain(value: Any) -> Any:
    """Text that can be sent: no lone surrogates."""
    return value if isinstance(value, int) else str(value).encode("utf-8", "replace").decode()
