"""The routes of the HTTP API."""

import asyncio
import contextlib
import hmac
import json
import re
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

import mlis
from mlis.config import checked_rate
from mlis.model.rejection import UNKNOWN
from mlis.serving import schemas
from mlis.serving.bodies import (
    DESCRIPTION,
    FORM,
    JSON,
    Upload,
    read_described_files,
    read_form,
    read_json,
)
from mlis.serving.descriptions import Description
from mlis.serving.exchange import Answer, Catalogue, Change
from mlis.serving.middleware import client_of
from mlis.serving.service import Service
from mlis.serving.settings import MIB, Access, Limits

MAX_FILE_NAME = 255
MAX_DIGITS = 32
"""Bytes of a number of a JSON array, with what separates it from the next."""


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer besides success, for the OpenAPI document."""
    reasons = {
        400: "not addressed to this server, or a body that cannot be read",
        401: "changes need a token: Authorization: Bearer TOKEN",
        403: "not allowed",
        404: "no such class",
        408: "the body did not arrive in time",
        409: "a class of that name exists, or the model cannot do that",
        413: "the body is too large",
        415: "a body of another media type",
        422: "not what was expected; `problems` says where",
        429: "too many requests; Retry-After says when to ask again",
        503: "not done in time, or too much is in progress; Retry-After says when to ask again",
    }
    always = (400, 403, 408, 413, 422, 429, 503)
    return {
        status: {"model": schemas.Problem, "description": reasons[status]}
        for status in sorted({*statuses, *always})
    }


def body_of(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The body of an operation, for the OpenAPI document."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def json_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON body of an operation, for the OpenAPI document."""
    return body_of(JSON, model.model_json_schema())


def form_of(limits: Limits, **more: dict[str, Any]) -> dict[str, Any]:
    """A form with files, and perhaps more, for the OpenAPI document."""
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1, "maxItems": limits.max_files}
    return {"type": "object", "required": ["files"], "properties": {"files": files, **more}}


def routes(service: Service, access: Access) -> APIRouter:
    """All routes of one server."""
    router = APIRouter()
    _add_images(router, service)
    _add_features(router, service)
    _add_classes(router, service)
    _add_changes(router, service, access)
    _add_learning(router, service, access)
    _add_server(router, service, access)
    return router


def _add_images(router: APIRouter, service: Service) -> None:
    limits = service.limits
    form = form_of(limits)

    @router.post(
        "/predict/images",
        responses=responses(409, 415),
        response_model=schemas.ImagesAnswer,
        openapi_extra=body_of(FORM, form),
        tags=["predict"],
    )
    async def predict_images(
        request: Request,
        top_k: Annotated[int, Query(ge=1, le=limits.max_top_k, description="classes per file")] = 5,
        calibration: Annotated[schemas.Word | None, Query(description=schemas.CALIBRATION)] = None,
        reject: Annotated[
            schemas.Part | schemas.Share | None, Query(description=schemas.REJECT)
        ] = None,
        explain: Annotated[bool, Query(description=schemas.EXPLAIN)] = False,
    ) -> Response:
        """The likeliest classes of each uploaded image.

        A file that cannot be read does not affect the others: its result has an `error`.
        """
        client = client_of(request.scope)
        service.check_images(client)
        constant, least = _constant(service, calibration), _least(service, reject)
        service.engine.check_explain(explain)
        with service.upload_room.hold(client) as take:
            files, _ = await read_form(request, limits.upload_bytes, take, limits.max_files)
            answers = await service.predict_images(files, client, constant, explain)
            return await asyncio.to_thread(_images_answer, files, answers, top_k, least)


def _add_features(router: APIRouter, service: Service) -> None:
    expected = schemas.rows_request(service.limits, service.engine.num_features)
    most, items = _most_of_rows(service)

    @router.post(
        "/predict/features",
        responses=responses(409, 415),
        response_model=schemas.RowsAnswer,
        openapi_extra=json_of(expected),
        tags=["predict"],
    )
    async def predict_features(request: Request) -> Response:
        """The likeliest classes of each row of features."""
        client = client_of(request.scope)
        service.room.check(client)
        with service.upload_room.hold(client) as take:
            body = await read_json(request, expected, most, take, items)
            constant = _constant(service, body.calibration)
            rows = await asyncio.to_thread(np.array, body.rows, np.float32)
            least = _least(service, body.reject)
            service.engine.check_explain(body.explain)
            answers = await service.predict_rows(rows, client, constant, body.explain)
            return await asyncio.to_thread(_rows_answer, answers, body.top_k, least)


def _most_of_rows(service: Service, more: int = 0) -> tuple[int, tuple[int, str]]:
    """Bytes of a body with rows and `more` bytes, and what `read_json` takes as `items`."""
    rows, size = service.limits.max_rows, service.engine.num_features
    values = rows * size + 16
    most = min(service.limits.upload_bytes, values * MAX_DIGITS + 4096 + more)
    return most, (values + more, f"{rows} rows of {size} numbers")


def _most_of_description(service: Service) -> int:
    """Bytes of a body that describes a class."""
    describer = service.engine.describer
    return min(service.limits.upload_bytes, MIB + MAX_DIGITS * (describer.size if describer else 0))


def _constant(service: Service, calibration: float | str | None) -> float | None:
    """The constant that a request chooses. Raises `ConflictError`."""
    if calibration is None:
        return None
    with contextlib.suppress(ValueError):
        calibration = float(calibration)
    return service.engine.constant(calibration)


def _least(service: Service, reject: float | str | None) -> float:
    """The level that a request's rate stands for. Raises `ConflictError`."""
    return service.engine.rejects(None if reject is None else checked_rate(reject))


def _add_classes(router: APIRouter, service: Service) -> None:
    kept: dict[str, Any] = {"catalogue": None, "text": ""}

    @router.get(
        "/classes", responses=responses(), response_model=schemas.ClassList, tags=["classes"]
    )
    async def get_classes() -> Response:
        """All classes of the model."""
        known = service.engine.catalogue
        if kept["catalogue"] is not known:
            kept.update(catalogue=known, text=await asyncio.to_thread(_class_list, known))
        return Response(kept["text"], media_type=JSON)


def _add_changes(router: APIRouter, service: Service, access: Access) -> None:
    most = _most_of_description(service)

    async def body_of_change(request: Request, model: type[Any]) -> Any:
        _authorise(request, access)
        with service.upload_room.hold(client_of(request.scope)) as take:
            return await read_json(request, model, most, take)

    @router.post(
        "/classes",
        status_code=201,
        responses=responses(401, 409, 415),
        openapi_extra=json_of(schemas.NewClass),
        tags=["classes"],
    )
    async def post_classes(request: Request) -> schemas.Added:
        """Add a class by describing it; it is recognised from the next request on.

        It is kept until the server stops.
        """
        new = await body_of_change(request, schemas.NewClass)
        change = Change("add", new.name, description_of(new))
        known = await service.change(change, client_of(request.scope))
        info = _info_of(known, new.name)
        return schemas.Added(**info.model_dump(), warnings=change.warnings)

    @router.patch(
        "/classes/{name:path}",
        responses=responses(401, 404, 409, 415),
        openapi_extra=json_of(schemas.NewName),
        tags=["classes"],
    )
    async def patch_class(name: str, request: Request) -> schemas.ClassInfo:
        """Rename a class, until the server stops."""
        new = await body_of_change(request, schemas.NewName)
        change = Change("rename", name, new_name=new.name)
        return _info_of(await service.change(change, client_of(request.scope)), new.name)

    @router.delete(
        "/classes/{name:path}", status_code=204, responses=responses(401, 404), tags=["classes"]
    )
    async def delete_class(name: str, request: Request) -> None:
        """Remove a class, until the server stops."""
        _authorise(request, access)
        await service.change(Change("remove", name), client_of(request.scope))


def _add_learning(router: APIRouter, service: Service, access: Access) -> None:
    limits, most_said = service.limits, _most_of_description(service)
    expected = schemas.class_rows_request(limits, service.engine.num_features)
    most, items = _most_of_rows(service, most_said)
    documented: dict[str, Any] = {
        "status_code": 201,
        "responses": responses(401, 404, 409, 415),
        "tags": ["classes"],
    }

    def check(request: Request) -> str:
        _authorise(request, access)
        service.engine.check_learn()
        return client_of(request.scope)

    async def learnt(name: str, client: str, said: Any, rows: np.ndarray) -> schemas.Learnt:
        new = name not in service.engine.catalogue.names
        change = Change("images", name, description_of(said), rows)
        known = await service.change(change, client)
        info = _info_of(known, name).model_dump()
        return schemas.Learnt(**info, new=new, warnings=change.warnings)

    said = {DESCRIPTION: schemas.Described.model_json_schema()}
    form = body_of(FORM, form_of(limits, **said))

    @router.post("/classes/{name:path}/images", openapi_extra=form, **documented)
    async def post_class_images(name: schemas.ClassName, request: Request) -> schemas.Learnt:
        """Add images to a class; one of a name that is not there is added.

        A new class may be described, too, as POST /classes takes it without the name; else it is
        known by its images alone. If a file cannot be read, none is added. It is so from the next
        request on, until the server stops.
        """
        client = check(request)
        service.check_images(client, "/classes/NAME/features")
        with service.upload_room.hold(client) as take:
            given = limits.upload_bytes, take, limits.max_files
            files, said = await read_described_files(request, *given, schemas.Described, most_said)
            rows = await service.features_of_images(files, client)
        return await learnt(name, client, said, rows)

    @router.post("/classes/{name:path}/features", openapi_extra=json_of(expected), **documented)
    async def post_class_features(name: schemas.ClassName, request: Request) -> schemas.Learnt:
        """Add images to a class by their features; else as POST /classes/{name}/images."""
        client = check(request)
        service.room.check(client)
        with service.upload_room.hold(client) as take:
            body = await read_json(request, expected, most, take, items)
            rows = await asyncio.to_thread(np.array, body.rows, np.float32)
            await service.predict_rows(rows, client)  # raises where a score would not be finite
        return await learnt(name, client, body, rows)


def _authorise(request: Request, access: Access) -> None:
    """Refuse a change that is not allowed, before its body is read."""
    if not access.allow_changes:
        raise HTTPException(403, "classes cannot be changed. Start the server with --allow-changes")
    if access.token:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, f"Bearer {access.token}".encode()):
            detail = "Authorization: expected Bearer and the token of --token-file, got another"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


def _add_server(router: APIRouter, service: Service, access: Access) -> None:
    @router.get("/health", responses=responses(), tags=["server"])
    async def get_health() -> schemas.Health:
        """What is served."""
        engine = service.engine
        return schemas.Health(
            status="ok",
            version=mlis.__version__,
            classes=len(engine.catalogue.names),
            features=engine.num_features,
            image_model=engine.backbone.identity.name if engine.backbone else None,
            described_by=list(engine.describer.takes) if engine.describer else [],
            can_learn=engine.can_learn,
            changes=access.allow_changes,
            token=bool(access.token),
            can_explain=engine.can_explain,
            can_reject=bool(engine.recognizer.metadata.rejection),
            reject=engine.reject or None,
            transductive=engine.recognizer.transductive,
        )

    @router.get("/tradeoff", responses=responses(), tags=["server"])
    async def get_tradeoff() -> schemas.TradeOff:
        """What `calibration` of a prediction gives, on validation classes."""
        known = service.engine.recognizer.metadata.tradeoff
        points = [] if known is None else [schemas.Point(**one._asdict()) for one in known.points]
        return schemas.TradeOff(calibration=service.engine.recognizer.calibration, points=points)

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @router.get(
        "/metrics",
        response_class=Response,
        responses={**responses(), 200: text},
        tags=["server"],
    )
    async def get_metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def predictions(answer: Answer, k: int, least: float) -> list[dict[str, Any]]:
    """The k best classes of an answer that has some, each as a `schemas.Prediction`.

    The first is "unknown" if the answer's level is below `least`.
    """
    known = answer.catalogue
    found: list[dict[str, Any]] = [
        {"class": (name := known.names[c]), "score": score, "seen": bool(known.seen[c])}
        | ({"display_name": known.display_names[name]} if name in known.display_names else {})
        for c, score in answer.best(k)
    ]
    if answer.level < least:
        return [{"class": UNKNOWN, "score": None, "seen": None}, *found[: k - 1]]
    return found


def description_of(new: schemas.Described) -> Description:
    """The description in a request."""
    values = {name: _cell(value) for name, value in (new.attributes or {}).items()}
    return Description(tuple(new.sentences or ()), values, tuple(new.vector or ()))


def _cell(value: float | bool | str) -> str:
    """An attribute as it is written in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else repr(value)


def _images_answer(files: list[Upload], answers: list[Answer], k: int, least: float) -> Response:
    results = []
    for file, answer in zip(files, answers, strict=True):
        name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "?", file.name)[:MAX_FILE_NAME]
        found = None if answer.probabilities is None else predictions(answer, k, least)
        error = answer.reason if found is None else None
        why = None if answer.explanation is None else answer.explanation.to_dict()
        results.append({"file": name, "predictions": found, "error": error, "explanation": why})
    return JSONResponse({"results": results})


def _rows_answer(answers: list[Answer], k: int, least: float) -> Response:
    rows = [
        {
            "row": i,
            "predictions": predictions(each, k, least),
            "explanation": None if each.explanation is None else each.explanation.to_dict(),
        }
        for i, each in enumerate(answers)
    ]
    return JSONResponse({"results": rows})


def _class_list(known: Catalogue) -> str:
    classes = [_info(known, i).model_dump() for i in range(len(known.names))]
    return json.dumps({"count": len(classes), "classes": classes}, ensure_ascii=False)


def _info_of(known: Catalogue, name: str) -> schemas.ClassInfo:
    return _info(known, known.names.index(name))


def _info(known: Catalogue, index: int) -> schemas.ClassInfo:
    name = known.names[index]
    return schemas.ClassInfo(
        name=name,
        seen=bool(known.seen[index]),
        added=name in known.added,
        description=known.descriptions.get(name),
        display_name=known.display_names.get(name),
    )
