"""Starts and stops the HTTP server."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlis.errors import SettingsError
from mlis.features.decode import quiet_pillow
from mlis.serving.app import create_app
from mlis.serving.engine import Engine
from mlis.serving.settings import Access, Limits

HEADER_SECONDS = 10
"""Seconds that the headers of a request may take to arrive."""
SHUTDOWN_SECONDS = 2
"""Seconds after which connections are cut off when the server stops."""
_BUSY = b'{"detail": "server busy: all connections are in use", "problems": []}'
_BUSY_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BUSY)
)


class Connection(H11Protocol):
    """One connection. Those that wait for their client give way to new ones, oldest first.

    So connections that send nothing, or slowly, cannot keep others out.

    Args:
        limits: how many there may be.
        proxy: address that may have any share of them.
    """

    def __init__(self, *args: Any, limits: Limits, proxy: str | None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._most = limits.max_connections
        self._proxy = proxy
        self._timer: asyncio.TimerHandle | None = None
        self.waits_since: float = 0.0
        self.address: str = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Make room for a new connection, or refuse it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._await_headers()
        everyone = [each for each in self.connections if isinstance(each, Connection)]
        own = [each for each in everyone if each.address == self.address]
        if self.address != self._proxy and len(own) > max(1, self._most // 4):
            self._make_room(own)
        elif len(everyone) > self._most:
            self._make_room(everyone)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._await_headers()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether the client has to send something: headers, or more of a body."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _await_headers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.waits_since = self.loop.time()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._close_without_request)

    def _close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _make_room(self, connections: list["Connection"]) -> None:
        waiting = [each for each in connections if each.waits and each is not self]
        if waiting:
            oldest = min(waiting, key=lambda each: each.waits_since)
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            self.transport.write(_BUSY_HEAD + _BUSY)
            self.transport.close()


class Server(uvicorn.Server):
    """Refuses queued work at once when it is told to stop."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]):
        super().__init__(config)
        self._stop = stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._stop()
        await super().shutdown(sockets)


def serve(
    engine: Engine,
    limits: Limits,
    access: Access,
    port: int,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a model until SIGINT or SIGTERM, which end the process.

    Args:
        engine: the model.
        limits: how much may be asked.
        access: the address, and who may ask what.
        port: 0: any free one.
        listening: is told the address, `http://127.0.0.1:8000`, when requests are taken.

    Raises:
        SettingsError: the address cannot be used.
    """
    with listen(access.host, port) as place, quiet_pillow(), _stoppable():
        app = create_app(engine, limits, access)
        host, port = place.getsockname()[:2]
        listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        try:
            Server(configuration(app, limits, access), app.state.stop).run(sockets=[place])
        except KeyboardInterrupt:  # Ctrl-C is how it ends
            pass
        finally:
            if not app.state.service.join(0.1):
                # a class is being added or an image decoded, which Python would wait for
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)


def configuration(app: Any, limits: Limits, access: Access) -> uvicorn.Config:
    """Of uvicorn."""
    return uvicorn.Config(
        app,
        lifespan="on",
        http=functools.partial(Connection, limits=limits, proxy=access.proxy),  # pyright: ignore
        ws="none",
        log_config=None,  # its loggers are Python's: errors reach stderr
        log_level="error",  # anyone can cause its warnings
        access_log=False,
        server_header=False,
        proxy_headers=access.proxy is not None,
        forwarded_allow_ips=access.proxy or "",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises `SettingsError`, which says what to change."""
    if not 0 <= port <= 65535:  # the system takes it modulo 65536
        raise SettingsError(f"--port must be between 0 and 65535, got {port}")
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
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does, with exit code 0."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
