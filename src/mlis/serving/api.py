"""The routes of the HTTP API."""

import re
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Query, Response, UploadFile
from pydantic import WithJsonSchema

import mlis
from mlis.serving import schemas
from mlis.serving.engine import Answer, Catalogue
from mlis.serving.metrics import CONTENT_TYPE
from mlis.serving.problems import Refusal
from mlis.serving.service import Service
from mlis.serving.settings import Access
from mlis.serving.words import Words

LONGEST_FILE_NAME = 255
# FastAPI's own schema of a file, `contentMediaType`, is understood by few makers of clients.
Binary = Annotated[UploadFile, WithJsonSchema({"type": "string", "format": "binary"})]


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation may answer besides success, for the OpenAPI document."""
    reasons = {
        400: "not addressed to this server, or a body that cannot be read",
        403: "not allowed",
        404: "there is no such class or path",
        408: "the body did not come in time",
        409: "there is a class of that name",
        413: "the body is too large",
        415: "a body of another media type",
        422: "not what was expected; `problems` says where",
        429: "too many requests; Retry-After says when to ask again",
        503: "not done in time, or too much waits already",
    }
    always = (400, 403, 408, 413, 422, 429, 503)
    return {
        status: {"model": schemas.Problem, "description": reasons[status]}
        for status in sorted({*statuses, *always})
    }


def routes(service: Service, access: Access) -> APIRouter:
    """All routes of one server."""
    router = APIRouter()
    _add_predictions(router, service)
    _add_classes(router, service, access)
    _add_server(router, service, access)
    return router


def _add_predictions(router: APIRouter, service: Service) -> None:
    limits = service.limits
    rows_request = schemas.rows_request(limits, service.engine.num_features)
    most = limits.max_top_k

    @router.post("/predict/images", responses=described(415), tags=["predict"])
    async def predict_images(
        files: Annotated[
            list[Binary],
            File(description="image files", min_length=1, max_length=limits.max_files),
        ],
        top_k: Annotated[int, Query(ge=1, le=most, description="classes a file")] = 5,
    ) -> schemas.ImagesAnswer:
        """The likeliest classes of each uploaded picture.

        A file that cannot be read does not hinder the others: its result has an `error`.
        """
        answers = await service.predict_images([await file.read() for file in files])
        pairs = zip(files, answers, strict=True)
        return schemas.ImagesAnswer(results=[_of_file(*pair, top_k) for pair in pairs])

    @router.post("/predict/features", responses=described(415), tags=["predict"])
    async def predict_features(
        body: rows_request,  # pyright: ignore[reportInvalidTypeForm]
    ) -> schemas.RowsAnswer:
        """The likeliest classes of each row of features."""
        answers = await service.predict_rows(np.array(body.rows, dtype=np.float32))
        return schemas.RowsAnswer(
            results=[
                schemas.RowResult(row=i, predictions=predictions(answer, body.top_k))
                for i, answer in enumerate(answers)
            ]
        )


def _add_classes(router: APIRouter, service: Service, access: Access) -> None:
    @router.get("/classes", responses=described(), tags=["classes"])
    async def get_classes() -> schemas.ClassList:
        """All classes that the model tells apart."""
        known = service.catalogue
        return schemas.ClassList(
            count=len(known.names), classes=[_info(known, i) for i in range(len(known.names))]
        )

    @router.post("/classes", status_code=201, responses=described(409, 415), tags=["classes"])
    async def post_classes(body: schemas.NewClass) -> schemas.ClassInfo:
        """Add a class by describing it; it is recognised from the next request on.

        It is kept until the server stops.
        """
        if not access.allow_changes:
            raise Refusal(403, "this server takes no new classes: start it with --allow-changes")
        known = await service.add_class(body.name, words_of(body))
        return _info(known, known.names.index(body.name))


def _add_server(router: APIRouter, service: Service, access: Access) -> None:
    @router.get("/health", responses=described(), tags=["server"])
    async def get_health() -> schemas.Health:
        """Whether the server runs, and what it serves."""
        engine = service.engine
        return schemas.Health(
            status="ok",
            version=mlis.__version__,
            classes=len(engine.catalogue.names),
            features=engine.num_features,
            image_model=engine.backbone.identity.name if engine.backbone else None,
            described_by=list(engine.describer.takes) if engine.describer else [],
            changes=access.allow_changes and engine.describer is not None,
        )

    @router.get(
        "/metrics",
        response_class=Response,
        responses={**described(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        tags=["server"],
    )
    async def get_metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def predictions(answer: Answer, k: int) -> list[schemas.Prediction]:
    """The k best classes of an answer that has some."""
    known = answer.catalogue
    return [
        schemas.Prediction.model_validate(
            {"class": known.names[c], "score": chance, "seen": bool(known.seen[c])}
        )
        for c, chance in answer.best(k)
    ]


def words_of(new: schemas.NewClass) -> Words:
    """What a request says of a class."""
    said = {name: _cell(value) for name, value in (new.attributes or {}).items()}
    return Words(tuple(new.sentences or ()), said, tuple(new.vector or ()))


def _cell(value: float | bool | str) -> str:
    """An attribute as it is written in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else repr(value)


def _of_file(file: UploadFile, answer: Answer, k: int) -> schemas.FileResult:
    name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "?", file.filename or "")[:LONGEST_FILE_NAME]
    if answer.chances is None:
        return schemas.FileResult(file=name, predictions=None, error=answer.reason)
    return schemas.FileResult(file=name, predictions=predictions(answer, k), error=None)


def _info(known: Catalogue, index: int) -> schemas.ClassInfo:
    name = known.names[index]
    return schemas.ClassInfo(
        name=name,
        seen=bool(known.seen[index]),
        added=name in known.added,
        description=known.descriptions.get(name),
    )
