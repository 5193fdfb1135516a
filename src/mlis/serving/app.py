"""The application: routes, page, error answers and limits around one model."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.responses import RedirectResponse

import mlis
from mlis.serving import limits as guard
from mlis.serving.api import routes
from mlis.serving.engine import Engine
from mlis.serving.metrics import Measure, Metrics
from mlis.serving.problems import add_handlers
from mlis.serving.service import Service
from mlis.serving.settings import Access, Limits

PAGE = "/page"
_DESCRIPTION = """\
Recognises pictures, or their features, among classes with and without images in training.
Refused requests are answered by a `Problem`: what was expected, and what came."""


def create_app(
    engine: Engine, limits: Limits | None = None, access: Access | None = None
) -> FastAPI:
    """The ASGI application of one model; its lifespan closes the model's thread.

    Args:
        engine: the model; only this application may use it from now on.
        limits: how much may be asked.
        access: who may ask what.
    """
    limits, access = limits or Limits(), access or Access.of("127.0.0.1")
    metrics = Metrics()
    service = Service(engine, limits, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="mlis",
        version=mlis.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # their pages fetch scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(routes(service, access))
    add_handlers(app)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse(f"{PAGE}/" if access.page else "/openapi.json")

    if access.page:
        from mlis.serving.page import mount_page

        mount_page(app, service, access, PAGE)
    app.state.service = service
    # the last added is the outermost
    app.add_middleware(guard.SizeLimit, most=limits.upload_bytes)
    app.add_middleware(guard.Deadline, seconds=limits.timeout)
    app.add_middleware(guard.RateLimit, rate=limits.rate, page=PAGE)
    app.add_middleware(guard.Names, hostnames=access.hostnames)
    app.add_middleware(Measure, metrics=metrics, page=PAGE)
    return app
