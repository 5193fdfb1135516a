"""The page: three files of this package, and nothing from any other server."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from jinja2 import Environment, PackageLoader
from starlette.responses import Response

import mlis
from mlis.serving.schemas import NAME_LENGTH
from mlis.serving.service import Service
from mlis.serving.settings import Access

MAX_PREFILLED = 40
"""Attributes up to which the form lists all of them."""
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' blob: data:",  # blob: previews of the visitor's own images
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}


def page_routes(service: Service, access: Access) -> APIRouter:
    """`/`, `/page.css` and `/page.js`."""
    router = APIRouter(include_in_schema=False)
    contents = {"": (_html(service, access), "text/html")}
    folder = files("mlis.serving") / "assets"
    for name, kind in ASSETS.items():
        contents[name] = ((folder / name).read_text(encoding="utf-8"), kind)
    for name, (content, kind) in contents.items():
        router.add_api_route(f"/{name}", _sends(content, kind))
    return router


def _sends(content: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def get_file() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return get_file


def _html(service: Service, access: Access) -> str:
    """The page of one server; what changes while it runs is added by the script."""
    environment = Environment(loader=PackageLoader("mlis.serving", "assets"), autoescape=True)
    engine, limits = service.engine, service.limits
    describer = engine.describer if access.allow_changes else None
    attributes = describer.attributes if describer else ()
    return environment.get_template("page.html").render(
        version=mlis.__version__,
        takes_images=engine.backbone is not None,
        chooses=engine.recognizer.metadata.tradeoff is not None,
        changes=access.allow_changes,
        takes=describer.takes if describer else (),
        learns=access.allow_changes and engine.backbone is not None and engine.can_learn,
        size=describer.size if describer else 0,
        attributes=attributes,
        prefilled=len(attributes) <= MAX_PREFILLED,
        token=bool(access.token),
        name_length=NAME_LENGTH,
        max_mib=limits.max_upload,
        max_top_k=limits.max_top_k,
        can_explain=engine.can_explain,
        can_reject=bool(engine.recognizer.metadata.rejection),
        reject=engine.reject,
        transductive=engine.recognizer.transductive,
    )
