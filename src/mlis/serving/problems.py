"""Error responses: what was expected and what was received; no input gives a 500."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from mlis.errors import MlisError, OutOfMemoryError
from mlis.serving.batching import BusyError
from mlis.serving.exchange import ConflictError, NoSuchClassError
from mlis.serving.middleware import problem

logger: logging.Logger = logging.getLogger(__name__)

SHOWN, LONGEST = 10, 300


def add_handlers(app: FastAPI) -> None:
    """Make an application answer errors in the shape of `schemas.Problem`."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(MlisError, _not_possible)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """422; the input itself is never sent back."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    problems = [{"where": _where(each), "problem": _what(each)} for each in found[:SHOWN]]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{problems[0]['where']}: {problems[0]['problem']}{more}"
    return JSONResponse({"detail": detail, "problems": problems}, 422)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "no such path. /openapi.json lists all"
    elif error.status_code == 405:
        detail = f"{request.method} is not allowed here. /openapi.json lists what is"
    return problem(error.status_code, detail, **dict(error.headers or {}))


async def _not_possible(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, BusyError | OutOfMemoryError):  # not the request's fault
        return problem(503, str(error), Retry_After="1")
    status = {ConflictError: 409, NoSuchClassError: 404}.get(type(error), 422)
    return problem(status, str(error))


async def _gone(request: Request, error: Exception) -> JSONResponse:
    return problem(400, "the client closed the connection")  # nobody receives it


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "unexpected error: this is a bug. The server's log has its traceback")


def _where(found: Any) -> str:
    """`rows.3.7` of `("body", "rows", 3, 7)`."""
    parts = [str(part)[:60] for part in found["loc"][:8]]
    return _printable(".".join(parts[1:] or parts))


def _what(found: Any) -> str:
    return _printable(str(found["msg"]))[:LONGEST]


def _printable(text: str) -> str:
    """Text that UTF-8 can hold: JSON may have half a surrogate pair in it."""
    return text.encode("utf-8", "replace").decode("utf-8")
