"""The error tree in HTTP's voice: a status and `{code, message, field}`."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from modules.schema.errors import (
    BadFile,
    BadRequest,
    Cancelled,
    DiskTrouble,
    EaselError,
    NotFound,
    OutOfMemory,
    WorkerLost,
)

STATUS: dict[type[EaselError], int] = {
    BadRequest: 422,
    NotFound: 404,
    BadFile: 415,
    Cancelled: 409,
    OutOfMemory: 507,
    DiskTrouble: 507,
    WorkerLost: 503,
}


def install(app: FastAPI) -> None:
    """Let every EaselError, and every malformed body, leave the app as JSON in one shape."""

    @app.exception_handler(EaselError)
    async def ours(_: Request, error: EaselError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return JSONResponse({"code": error.code, "message": error.message, "field": error.field}, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        message = f"The request cannot be read: {first['msg']}."
        return JSONResponse({"code": "bad_request", "message": message, "field": place[0] if place else None}, 422)
