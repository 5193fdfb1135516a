"""Every error as an answer that says what was expected and what came; no input gives a 500."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mlis.errors import MlisError, OutOfMemoryError
from mlis.serving.batching import BusyError
from mlis.serving.limits import problem
from mlis.serving.service import ConflictError

logger: logging.Logger = logging.getLogger(__name__)

SHOWN, LONGEST = 10, 300


class Refusal(HTTPException):
    """A request that is refused with a status and a reason."""


def add_handlers(app: FastAPI) -> None:
    """Make an application answer errors in the shape of `schemas.Problem`."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(MlisError, _not_possible)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """422, or 415 where a body of another kind came; the input itself is never sent back."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if wanted := _other_media_type(request, found):
        return problem(415, wanted)
    problems = [{"where": _where(each), "problem": _what(each)} for each in found[:SHOWN]]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{problems[0]['where']}: {problems[0]['problem']}{more}"
    return JSONResponse({"detail": detail, "problems": problems}, 422)


def _other_media_type(request: Request, found: Sequence[Any]) -> str | None:
    """What body is expected, where the one that came is of another media type."""
    if request.method != "POST" or not any(each["loc"][0] == "body" for each in found):
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if request.url.path == "/predict/images":
        fits, expected = kind == "multipart/form-data", "multipart/form-data with files"
    else:
        fits = kind.startswith("application/") and kind.endswith(("/json", "+json"))
        expected = "application/json"
    return None if fits else f"expected a body of {expected}, but got {kind[:80] or 'none'}"


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "no such path: /openapi.json lists all"
    elif error.status_code == 400 and "parsing the body" in detail:
        kind = request.headers.get("content-type", "").partition(";")[0][:80]
        detail = f"the body cannot be read: expected what its Content-Type says, {kind}"
    elif error.status_code == 405:
        detail = f"{request.method} is not possible here: /openapi.json lists what is"
    return problem(error.status_code, detail, **dict(error.headers or {}))


async def _not_possible(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, BusyError | OutOfMemoryError):  # nothing is wrong with what was sent
        return problem(503, str(error), Retry_After="1")
    return problem(409 if isinstance(error, ConflictError) else 422, str(error))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "unexpected: this is a bug, the server's log says more")


def _where(found: Any) -> str:
    """`rows.3.7` of `("body", "rows", 3, 7)`."""
    if found["type"] == "json_invalid":
        return "body"
    parts = [str(part)[:60] for part in found["loc"]]
    return _printable(".".join(parts[1:] or parts))


def _what(found: Any) -> str:
    if found["type"] == "json_invalid":
        return f"not JSON: {found['ctx']['error']}, at character {found['loc'][-1]}"
    return _printable(str(found["msg"]))[:LONGEST]


def _printable(text: str) -> str:
    """Text that UTF-8 can hold: JSON may have half a surrogate pair in it."""
    return text.encode("utf-8", "replace").decode("utf-8")
