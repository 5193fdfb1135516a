"""Metrics in Prometheus' text format."""

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        registry = self.registry
        self.requests: Counter = Counter(
            "mlis_requests", "requests answered", ["route", "method", "status"], registry=registry
        )
        self.latency: Histogram = Histogram(
            "mlis_request_seconds",
            "from the first byte of a request to the start of its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_rows: Histogram = Histogram(
            "mlis_batch_rows", "images and rows per batch", buckets=ROWS, registry=registry
        )
        self.batch_seconds: Histogram = Histogram(
            "mlis_batch_seconds", "seconds per batch", buckets=SECONDS, registry=registry
        )
        self.bad_images: Counter = Counter(
            "mlis_bad_images", "uploaded files that gave no predictions", registry=registry
        )
        self.changes: Counter = Counter(
            "mlis_class_changes", "changes of the classes", ["action"], registry=registry
        )
        self.in_progress: Gauge = Gauge(
            "mlis_in_progress", "images, their megapixels, and rows in progress", registry=registry
        )
        self.classes: Gauge = Gauge("mlis_classes", "classes of the model", registry=registry)
        ProcessCollector(registry=registry)

    def computed(self, rows: int, seconds: float) -> None:
        """Count one more batch."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)


class Measure:
    """ASGI middleware: counts every answer and its time by route.

    Labels come from a fixed set, so that requests cannot make new ones: routes as they are
    declared, and `other` for what does not exist.
    """

    def __init__(self, app: "ASGIApp", metrics: Metrics):
        self.app: ASGIApp = app
        self.metrics: Metrics = metrics

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def watched(message: "Message") -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, watched)

    def _count(self, scope: "Scope", status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.latency.labels(route).observe(seconds)
