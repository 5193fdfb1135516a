"""The page: drop a picture, see the likeliest classes; describe a class, and it is among them.

Gradio draws it. Nothing is loaded from elsewhere and nothing is reported: system fonts, no
analytics, no history, and a policy that makes browsers refuse every other origin.
"""

import os
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders

from mlis.serving.blocks import build
from mlis.serving.service import Service
from mlis.serving.settings import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    blocks = build(gradio, service, access.allow_changes)
    # Without this a mounted page lets a visitor name any file of the server as an upload: Gradio
    # copies it to the uploads unless the page counts as launched.
    blocks.has_launched = True
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


class SameOriginOnly:
    """ASGI middleware: tells browsers to load nothing for the page from anywhere else."""

    def __init__(self, app: "ASGIApp", path: str):
        self.app: ASGIApp = app
        self.path: str = path

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
