"""ASGI middleware that keeps one request or one client from taking all: size, time, rate, names.

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
"""Paths that a monitor may ask as often as it likes: they cost nothing."""
CLIENTS = 10_000
"""Clients whose rate is remembered; of more, those longest silent are forgotten."""


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    """An answer in the shape of `schemas.Problem`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"detail": detail, "problems": []}, status, headers=named)


class TokenBuckets:
    """Requests a second for each client: a bucket of tokens that fills at that rate.

    Args:
        rate: tokens a second.
        burst: tokens that a bucket holds; a client unheard of has a full one.
        clock: seconds.
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
    """Answers 429 with Retry-After to a client that asks too often.

    Reading the page's files is free: it is a burst of dozens for one visit.
    """

    def __init__(self, app: "ASGIApp", rate: float, page: str):
        self.app: ASGIApp = app
        self.rate: float = rate
        self.page: str = page
        self.buckets: TokenBuckets | None = TokenBuckets(rate, 2 * rate) if rate > 0 else None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or refuse it."""
        if self.buckets is None or scope["type"] != "http" or self._is_free(scope):
            await self.app(scope, receive, send)
            return
        if wait := self.buckets.take(client_of(scope)):
            response = problem(
                429,
                f"more than {self.rate:g} requests a second: ask again in {wait:.2f} s",
                Retry_After=str(max(1, math.ceil(wait))),
            )
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_free(self, scope: "Scope") -> bool:
        path, reading = scope["path"], scope["method"] in ("GET", "HEAD")
        return path in UNLIMITED or (reading and path.startswith(self.page))


def client_of(scope: "Scope") -> str:
    """Who asks: the address, of IPv6 the first 64 bits, which one client has all of.

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


class SizeLimit:
    """Answers 413 to a body that is too large: at once where its length is said, else on the way.

    Nothing beyond the limit is kept in memory or in a temporary file.
    """

    def __init__(self, app: "ASGIApp", most: int):
        self.app: ASGIApp = app
        self.most: int = most

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, counting what comes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        detail = f"the request has more than {self.most / (1 << 20):.3g} MiB: send less at a time"
        length = Headers(scope=scope).get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.most:
            await problem(413, detail)(scope, receive, send)
            return
        got = 0

        async def counted() -> "Message":
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.most:
                raise HTTPException(413, detail)
            return message

        await self.app(scope, counted, send)


class Deadline:
    """Gives up what has not begun to be answered in time: 408 while the body still comes, else 503.

    What streams an answer for longer, as the page's events do, is not cut off.
    """

    def __init__(self, app: "ASGIApp", seconds: float):
        self.app: ASGIApp = app
        self.seconds: float = seconds

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on while time is left."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = complete = False
        limit = asyncio.timeout(self.seconds)

        async def watched() -> "Message":
            nonlocal complete
            message = await receive()
            complete = complete or not message.get("more_body", False)
            return message

        async def sending(message: "Message") -> None:
            nonlocal started
            started = True
            limit.reschedule(None)
            await send(message)

        try:
            async with limit:
                await self.app(scope, watched, sending)
        except TimeoutError:
            if started or not limit.expired():
                raise
            late = f"not done within {self.seconds:g} s"
            response = problem(408, f"the request's body did not come whole: {late}")
            if complete:
                response = problem(503, f"{late}: ask for less, or later", Retry_After="5")
            await response(scope, receive, send)


class Names:
    """Refuses what a website of someone else may send through a visitor's browser.

    A request must address the server by one of its names (400 else), and one that changes or
    computes something must come from no other origin than the server's own page (403 else).
    """

    def __init__(self, app: "ASGIApp", hostnames: tuple[str, ...]):
        self.app = app
        self.hostnames: set[str] = {name.casefold() for name in hostnames}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: "Scope") -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hostnames and _without_port(host) not in self.hostnames:
            expected = ", ".join(sorted(self.hostnames))
            return problem(400, f"this server is not {host[:200]!r}: it goes by {expected}")
        origin = headers.get("origin")
        reading = scope.get("method", "GET") in ("GET", "HEAD", "OPTIONS")
        if origin and not reading and _place(origin) != host.casefold():
            return problem(403, f"a page of {origin[:200]!r} may not use this server")
        return None


def _without_port(host: str) -> str:
    """`[::1]` of `[::1]:8000`."""
    name, colon, port = host.casefold().rpartition(":")
    return name if colon and port.isdigit() else host.casefold()


def _place(origin: str) -> str:
    """`localhost:8000` of `http://localhost:8000`; nothing of `null` and of what is no origin."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""
