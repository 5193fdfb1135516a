"""Request bodies: media type and size are checked first; then they are parsed on a thread."""

import asyncio
import email
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, TypeVar

import pydantic_core
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mlis.features.decode import claimed_pixels

JSON, FORM = "application/json", "multipart/form-data"
DESCRIPTION = "description"
MAX_HEADER = 4096
"""Bytes of the headers of one part of a form."""
MAX_OTHER_FIELDS = 8
"""Parts of a form besides the files."""
_parser = ThreadPoolExecutor(1, "parse")  # one: a parsed body takes many times its size

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        name: as it was sent.
        data: content.
        pixels: that its header claims; 0 where it is not an image.
    """

    name: str
    data: bytes = field(repr=False)
    pixels: int


async def read_json(
    request: Request,
    model: type[Model],
    most: int,
    take: Callable[[int], None],
    items: tuple[int, str] | None = None,
) -> Model:
    """The JSON body of a request, validated; only the first problems are looked for.

    Args:
        request: whose body is read.
        model: what is expected.
        most: bytes.
        take: is told the bytes as they arrive; may refuse them.
        items: how many values the body may have, counted by its commas before it is parsed, and
            what to call them.

    Raises:
        HTTPException: 413 or 415.
        RequestValidationError: not JSON, or not what is expected.
    """
    kind = media_type(request)
    if not (kind.startswith("application/") and kind.endswith(("/json", "+json"))):
        raise HTTPException(415, f"body: expected {JSON}, got {kind[:80] or 'none'}")
    return await _on_thread(_validated, await _read(request, most, take), model, items)


async def read_described_files(
    request: Request,
    most: int,
    take: Callable[[int], None],
    max_files: int,
    model: type[Model],
    most_said: int,
) -> tuple[list[Upload], Model]:
    """The files of a form, and what its optional field `description` says of them, in JSON.

    Args:
        request, most, take, max_files: as `read_form` takes them.
        model: what the description is; an empty one where the field is absent.
        most_said: bytes of the description.

    Raises:
        HTTPException: 400, 413 or 415.
        RequestValidationError: no file, or too many; or another field, or not that model.
    """
    files, fields = await read_form(request, most, take, max_files)
    said = fields.pop(DESCRIPTION, b"{}")
    for other in fields:
        raise _refused((other,), "Extra inputs are not permitted")
    if len(said) > most_said:
        raise _too_large(DESCRIPTION, most_said)
    return files, await _on_thread(_validated, said, model, None, (DESCRIPTION,))


async def read_form(
    request: Request, most: int, take: Callable[[int], None], max_files: int
) -> tuple[list[Upload], dict[str, bytes]]:
    """The files in the field `files` of a form, and its other fields by name.

    See `read_json` for `most` and `take`.

    Raises:
        HTTPException: 400, 413 or 415.
        RequestValidationError: no file, or too many.
    """
    kind = media_type(request)
    if kind != FORM:
        raise HTTPException(415, f"body: expected {FORM} with files, got {kind[:80] or 'none'}")
    header = Message()
    header["content-type"] = request.headers["content-type"]
    boundary = header.get_boundary("")
    if not boundary or len(boundary) > 200:
        raise HTTPException(400, f"body: expected a boundary of {FORM}, got {boundary[:80]!r}")
    body = await _read(request, most, take)
    return await _on_thread(_parts, body, boundary.encode("utf-8", "replace"), max_files)


def media_type(request: Request) -> str:
    """The media type that a request says its body is of."""
    return request.headers.get("content-type", "").partition(";")[0].strip().casefold()


async def _on_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_parser, function, *arguments)


async def _read(request: Request, most: int, take: Callable[[int], None]) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise _too_large("body", most)
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > most:
            raise _too_large("body", most)
        take(len(chunk))
        body += chunk
    return bytes(body)


def _too_large(what: str, most: int) -> HTTPException:
    expected = f"expected at most {most / (1 << 20):.3g} MiB"
    return HTTPException(413, f"{what}: {expected}, got more. Send less at a time")


def _validated(
    body: bytes,
    model: type[Model],
    items: tuple[int, str] | None,
    where: tuple[str, ...] = (),
) -> Model:
    if items and body.count(b",") >= items[0]:
        raise _refused(where, f"expected at most {items[1]}, got more")
    try:
        value = pydantic_core.from_json(body)
    except ValueError as error:
        raise _refused(where, f"not JSON: {error}") from None
    if isinstance(value, dict):  # one unknown key is named, where millions may have been sent
        for key in value:
            if key not in model.model_fields:
                raise _refused((*where, key), "Extra inputs are not permitted")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**each, "loc": ("body", *where, *each["loc"])} for each in found]
        ) from None


def _refused(where: tuple[str, ...], problem: str) -> RequestValidationError:
    return RequestValidationError([{"type": "body", "loc": ("body", *where), "msg": problem}])


def _parts(body: bytes, boundary: bytes, max_files: int) -> tuple[list[Upload], dict[str, bytes]]:
    """Split a form (RFC 7578) at its boundaries."""
    broken = HTTPException(400, f"body: expected {FORM} with its boundary, got something else")
    most = max_files + MAX_OTHER_FIELDS + 2
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, most)
    if len(parts) == most:
        raise _refused(("files",), f"expected at most {max_files} items, got more")
    if not parts or not parts[-1].startswith(b"--"):
        raise broken
    files: list[Upload] = []
    fields: dict[str, bytes] = {}
    for part in parts[:-1]:
        head, found, data = part.partition(b"\r\n\r\n")
        if not found or not head.startswith(b"\r\n") or len(head) > MAX_HEADER:
            raise broken
        header = email.message_from_string(head[2:].decode("utf-8", "replace"))
        field_name = str(header.get_param("name", header="content-disposition"))
        if field_name != "files":
            fields[field_name] = data
        else:
            name = header.get_filename()
            if name is None:
                raise _refused(("files",), "expected files, got a field without a file name")
            files.append(Upload(name, data, claimed_pixels(data)))
    if not files:
        raise _refused(("files",), "Field required")
    if len(files) > max_files:
        raise _refused(("files",), f"expected at most {max_files} items, got {len(files)}")
    return files, fields
