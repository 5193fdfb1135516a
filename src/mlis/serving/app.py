"""The application: routes, page, error answers and limits around one model."""

import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from starlette.responses import RedirectResponse

import mlis
from mlis.serving.api import routes
from mlis.serving.engine import Engine
from mlis.serving.metrics import Measure, Metrics
from mlis.serving.middleware import Deadline, Deadlines, Names, RateLimit
from mlis.serving.page import page_routes
from mlis.serving.problems import add_handlers
from mlis.serving.service import Service
from mlis.serving.settings import Access, Limits, is_loopback

_DESCRIPTION = """\
Classifies images, or their features, among classes with and without images in training.
A refused request is answered by a `Problem`: what was expected, and what was received."""


def create_app(
    engine: Engine, limits: Limits | None = None, access: Access | None = None
) -> FastAPI:
    """The ASGI application of one model; its lifespan stops the model's threads.

    `app.state.service` is its service, and `app.state.stop` refuses what waits at once.

    Args:
        engine: the model; only this application may use it from now on.
        limits: how much may be asked.
        access: who may ask what.
    """
    limits, access = limits or Limits(), access or Access.of("127.0.0.1")
    metrics, deadlines = Metrics(), Deadlines(limits.timeout)
    service = Service(engine, limits, metrics)
    app = FastAPI(
        title="mlis",
        version=mlis.__version__,
        description=_DESCRIPTION,
        lifespan=_stops(service),
        docs_url=None,  # their pages load scripts from other servers
        redoc_url=None,
    )
    app.include_router(routes(service, access))
    add_handlers(app)
    if access.page:
        app.include_router(page_routes(service, access))
    else:
        app.add_api_route("/", lambda: RedirectResponse("/openapi.json"), include_in_schema=False)

    def stop() -> None:
        service.stop()
        deadlines.stop()

    app.state.service, app.state.stop = service, stop
    # the last added is the outermost
    app.add_middleware(Deadline, deadlines=deadlines)
    app.add_middleware(RateLimit, rate=limits.rate)
    app.add_middleware(Names, hostnames=access.hostnames, any_address=not is_loopback(access.host))
    app.add_middleware(Measure, metrics=metrics)
    return app


def _stops(
    service: Service,
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.stop()

    return lifespan
