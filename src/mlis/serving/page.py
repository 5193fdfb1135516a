"""The page: drop a picture, see the likeliest classes; describe a class, and it is among them.

Gradio draws it. Nothing is loaded from elsewhere and nothing is reported: system fonts, no
analytics, no history, and a policy that makes browsers refuse every other origin.
"""

import asyncio
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders

from mlis.errors import MlisError
from mlis.serving import markup
from mlis.serving.forms import Form
from mlis.serving.service import Service
from mlis.serving.settings import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOP_K = 5
KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and JPEG 2000 are read."
LATER = "The server has much to do: try again a little later."
KEPT = 600
"""Seconds that an uploaded picture is kept for the page to show."""
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # the page's toolkit needs both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "frame-ancestors 'self'",
        "form-action 'self'",
    )
)


def mount_page(app: FastAPI, service: Service, access: Access, path: str) -> None:
    """Put the page below `path` of an application."""
    gradio = _gradio()
    blocks = build(gradio, service, access)
    gradio.mount_gradio_app(
        app,
        blocks,
        path=path,
        max_file_size=service.limits.upload_bytes,
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        theme=gradio.themes.Default(
            primary_hue="slate",
            neutral_hue="gray",
            font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"),
        ),
        head='<link rel="icon" href="data:,">',
        css=files("mlis.serving").joinpath("page.css").read_text(encoding="utf-8"),
    )
    app.add_middleware(SameOriginOnly, path=path)


def build(gradio: Any, service: Service, access: Access) -> Any:
    """The page as Gradio blocks."""
    form = Form.of(service.engine.growth) if access.allow_changes else None
    with gradio.Blocks(title="mlis", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        head = gradio.HTML(lambda: markup.header(service.catalogue))
        with gradio.Row(equal_height=False):
            with gradio.Column():
                picture = _picture(gradio, service)
            with gradio.Column():
                result = gradio.HTML(markup.waiting())
        if form is not None:
            with gradio.Accordion("Add a class by describing it", open=True):
                name = gradio.Textbox(label="Name", max_lines=1, elem_id="class-name")
                fields = [_field(gradio, field) for field in form.fields]
                button = gradio.Button("Add the class", variant="primary", elem_id="add-class")
                said = gradio.HTML()
        with gradio.Accordion("All classes", open=False):
            known = gradio.HTML(lambda: markup.classes(service.catalogue))

        async def recognise(data: Any) -> list[Any]:
            shown, readable = await _recognise(service, data)
            return [shown, gradio.skip() if readable else None]  # a browser would show a broken one

        options = {"api_visibility": "private", "concurrency_limit": None, "preprocess": False}
        gradio.on([picture.upload, picture.clear], recognise, picture, [result, picture], **options)
        if form is not None:

            async def add(data: Any, new: Any, *values: Any) -> list[Any]:
                note, added = await _add(service, form, new, values)
                kept = [gradio.skip()] * (1 + len(values))
                emptied = ["", *(field.start for field in form.fields)]
                views = [markup.header(service.catalogue), markup.classes(service.catalogue)]
                again = (await _recognise(service, data))[0] if added else gradio.skip()
                return [note, again, *views, *(emptied if added else kept)]

            gradio.on(
                [button.click, name.submit],
                add,
                [picture, name, *fields],
                [said, result, head, known, name, *fields],
                **options,
            )
    blocks.queue(max_size=service.limits.max_waiting, api_open=False)
    return blocks


async def _recognise(service: Service, data: Any) -> tuple[str, bool]:
    """Predictions of the picture that Gradio keeps for the visitor, or why there are none.

    Also whether the picture can be shown.
    """
    known = data if isinstance(data, Mapping) else {}
    path, name = known.get("path"), str(known.get("orig_name") or "This file")
    if not path:
        return markup.waiting(), True
    try:
        content = await asyncio.to_thread(Path(path).read_bytes)
        async with asyncio.timeout(service.limits.timeout):
            (answer,) = await service.predict_images([content])
    except TimeoutError:
        return markup.wrong("This takes too long", LATER), True
    except OSError:
        return markup.wrong("The picture is not there any more", "Drop it again."), False
    except MlisError as error:
        return markup.wrong("Not now", str(error)), True
    if answer.chances is None:
        why = answer.reason[:1].upper() + answer.reason[1:]
        return markup.wrong(f"{name} cannot be read as a picture", f"{why}. {KINDS}"), False
    return markup.best(answer, TOP_K), True


async def _add(
    service: Service, form: Form, name: Any, values: tuple[Any, ...]
) -> tuple[str, bool]:
    """What to tell the visitor, and whether there is a new class."""
    try:
        name, words = form.read(name, values)
        async with asyncio.timeout(service.limits.timeout):
            await service.add_class(name, words)
    except TimeoutError:
        return markup.wrong("This takes too long", LATER), False
    except MlisError as error:
        return markup.wrong("The class was not added", str(error)), False
    return markup.good(f"{name} is a class now", "It is kept until the server stops."), True


def _picture(gradio: Any, service: Service) -> Any:
    if service.engine.backbone is None:
        note = markup.wrong(
            "This model takes features, not pictures",
            "The image model of its features is not known. POST /predict/features takes rows.",
        )
        gradio.HTML(note)
    return gradio.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=340,
        buttons=[],
        visible=service.engine.backbone is not None,
        elem_id="picture",
    )


def _field(gradio: Any, field: Any) -> Any:
    return gradio.Textbox(
        value=field.start,
        label=field.label,
        info=field.help,
        placeholder=field.example,
        lines=field.lines,
        max_lines=12,
        elem_id=f"class-{field.kind}",
    )


class SameOriginOnly:
    """ASGI middleware: tells browsers to load nothing for the page from anywhere else."""

    def __init__(self, app: "ASGIApp", path: str):
        self.app, self.path = app, path

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, and add headers to the answer."""
        if scope["type"] != "http" or not scope["path"].startswith(self.path):
            await self.app(scope, receive, send)
            return

        async def sending(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, sending)


def _gradio() -> Any:
    """Gradio, told before it is imported to report nothing and to keep nothing."""
    quiet = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_SHARE": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SSR_MODE": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    os.environ.update(quiet)
    import gradio
    from gradio import processing_utils

    async def refuse(url: str, *_: object, **__: object) -> Any:
        raise gradio.Error("This server fetches nothing from elsewhere: upload the picture.")

    # A visitor's request may name a file by its address, and Gradio would fetch it.
    for name in ("async_ssrf_protected_download", "async_ssrf_protected_get"):
        setattr(processing_utils, name, refuse)
    return gradio
