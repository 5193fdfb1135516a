"""ASGI middleware that limits clients and requests: rate, time, allowed host names.

Each answers in JSON what was expected, before the request reaches the application where it can.
"""

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNLIMITED = ("/health", "/metrics")
"""Paths that a monitor may ask as often as it likes."""
CLIENTS = 10_000
"""Clients whose rate is remembered; of more, those longest silent are forgotten."""
BODY_SECONDS, BODY_RATE = 5.0, 50_000
"""A body must have arrived after so many seconds and one more for each so many bytes."""
LAST_SECONDS = 1.0
"""Seconds that requests in progress have when the server stops."""


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    """An answer in the shape of `schemas.Problem`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"detail": detail, "problems": []}, status, headers=named)


class TokenBuckets:
    """Requests per second for each client: a bucket of tokens that fills at that rate.

    Args:
        rate: tokens per second.
        burst: tokens that a bucket holds; that of a new client is full.
        clock: gives seconds.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate: float = rate
        self.burst: float = max(1.0, burst)
        self.clock: Callable[[], float] = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take one token; 0, or the seconds until there is one (then none is taken)."""
        now = self.clock()
        tokens, then = self._buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
        self._buckets[client] = (tokens - (wait == 0), now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class RateLimit:
    """Answers 429 with Retry-After to a client that asks too often."""

    def __init__(self, app: "ASGIApp", rate: float):
        self.app: ASGIApp = app
        self.rate: float = rate
        self.buckets: TokenBuckets | None = TokenBuckets(rate, 2 * rate) if rate > 0 else None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or refuse it."""
        limited = scope["type"] == "http" and scope["path"] not in UNLIMITED
        if self.buckets and limited and (wait := self.buckets.take(client_of(scope))):
            detail = f"expected at most {self.rate:g} requests per second, got more"
            response = problem(429, detail, Retry_After=str(max(1, math.ceil(wait))))
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)


def client_of(scope: "Scope") -> str:
    """The address of who asks; of IPv6 its first 64 bits, as one client has all of these.

    >>> client_of({"client": ("2001:db8::1:2", 50000)}), client_of({"client": None})
    ('2001:db8::/64', '')
    """
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


class Deadlines:
    """The time limits of the requests in progress, so that all can be shortened."""

    def __init__(self, seconds: float):
        self.seconds: float = seconds
        self.stopping: bool = False
        self.running: set[asyncio.Timeout] = set()

    def stop(self) -> None:
        """Leave the requests in progress `LAST_SECONDS` more."""
        self.stopping = True
        end = asyncio.get_running_loop().time() + LAST_SECONDS
        for limit in self.running:
            when = limit.when()
            if when is not None and when > end:
                limit.reschedule(end)


class Deadline:
    """Abandons what is not answered in time: 408 while the body still arrives, else 503."""

    def __init__(self, app: "ASGIApp", deadlines: Deadlines):
        self.app: ASGIApp = app
        self.deadlines: Deadlines = deadlines

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on while time is left."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, started = _Body(receive), False
        limit = asyncio.timeout(self.deadlines.seconds)

        async def sending(message: "Message") -> None:
            nonlocal started
            if not started:
                limit.reschedule(None)
            started = True
            await send(message)

        try:
            async with limit:
                self.deadlines.running.add(limit)
                await self.app(scope, body.receive, sending)
        except TimeoutError:
            if started or not limit.expired():
                raise
            await self._late(body.complete)(scope, receive, send)
        finally:
            self.deadlines.running.discard(limit)

    def _late(self, complete: bool) -> JSONResponse:
        if self.deadlines.stopping:
            return problem(503, "the server is stopping", Retry_After="5", Connection="close")
        late = f"expected within {self.deadlines.seconds:g} s"
        if complete:
            return problem(503, f"answer: {late}. Ask for less, or later", Retry_After="5")
        return problem(408, f"body: {late}, got a part of it", Connection="close")


class _Body:
    """A request's body as it arrives; too slowly is 408."""

    def __init__(self, receive: "Receive"):
        self._receive = receive
        self._began = asyncio.get_running_loop().time()
        self._size = 0
        self.complete: bool = False

    async def receive(self) -> "Message":
        """The next message."""
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._began + BODY_SECONDS + self._size / BODY_RATE):
                message = await self._receive()
        except TimeoutError:
            detail = f"body: expected at least {BODY_RATE // 1000} kB per second, got less"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        self._size += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message


class Names:
    """Refuses what another website may send through a visitor's browser.

    A request must address the server by one of its names, or by an IP address where other machines
    connect by that (400 otherwise); and one that changes or computes something must not come from
    another origin than the server's own page (403 otherwise). Starlette's TrustedHostMiddleware
    knows neither IPv6 addresses nor origins.

    Args:
        app: the application.
        hostnames: names of the server.
        any_address: whether any IP address is one. No website can have an address as its name.
    """

    def __init__(self, app: "ASGIApp", hostnames: tuple[str, ...], any_address: bool):
        self.app = app
        self.hostnames: set[str] = {name.casefold() for name in hostnames}
        self.any_address: bool = any_address

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: "Scope") -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own(_without_port(host)):
            expected = ", ".join(sorted(self.hostnames))
            detail = f"Host: expected {expected}, got {host[:200]!r}. Allow it with --hostname"
            return problem(400, detail)
        origin = headers.get("origin")
        reading = scope.get("method", "GET") in ("GET", "HEAD", "OPTIONS")
        if origin and not reading and _place(origin) != host.casefold():
            return problem(403, f"Origin: expected the server's own page, got {origin[:200]!r}")
        return None

    def _is_own(self, name: str) -> bool:
        if name in self.hostnames:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def _without_port(host: str) -> str:
    """`[::1]` of `[::1]:8000`."""
    name, colon, port = host.casefold().rpartition(":")
    return name if colon and port.isdigit() else host.casefold()


def _place(origin: str) -> str:
    """`localhost:8000` of `http://localhost:8000`; nothing of `null` and of other texts."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""
