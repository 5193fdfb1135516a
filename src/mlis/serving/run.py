"""Listens at an address until it is told to stop, and then finishes what it has begun."""

import contextlib
import os
import signal
import socket
import tempfile
import types
from collections.abc import Callable, Iterator

import uvicorn

from mlis.errors import SettingsError
from mlis.features.images.decode import quiet_pillow
from mlis.serving.app import create_app
from mlis.serving.engine import Engine
from mlis.serving.settings import Access, Limits

LAST_SECONDS = 5
"""Seconds that requests have to end when the server stops; open pages are cut off then."""


def serve(
    engine: Engine,
    limits: Limits,
    access: Access,
    port: int,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a model until SIGINT or SIGTERM.

    Args:
        engine: the model.
        limits: how much may be asked.
        access: the address, and who may ask what.
        port: 0: any free one.
        listening: is told the address, `http://127.0.0.1:8000`, when requests are taken.

    Raises:
        SettingsError: the address cannot be used.
    """
    with listen(access.host, port) as place, _uploads(access.page), quiet_pillow(), _stoppable():
        app = create_app(engine, limits, access)
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,  # its loggers are Python's: warnings reach stderr
            access_log=False,
            server_header=False,
            proxy_headers=access.proxy is not None,
            forwarded_allow_ips=access.proxy or "",
            limit_concurrency=limits.max_connections,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
        host, port = place.getsockname()[:2]
        listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
            uvicorn.Server(config).run(sockets=[place])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises `SettingsError`, which says what to change."""
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise SettingsError(f"--port must be between 0 and 65535, but got {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=2048)
    except socket.gaierror as error:
        raise SettingsError(f"--host {host}: no such address: {error.strerror}") from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            f"cannot listen at {host}, port {port}: {reason}. Choose another with --host, --port"
        ) from None


@contextlib.contextmanager
def _uploads(page: bool) -> Iterator[None]:
    """A folder of this server alone for the pictures of the page's visitors, gone with it."""
    if not page:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mlis-serve-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the program as orderly as Ctrl-C does, with exit code 0."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
