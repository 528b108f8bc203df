"""Metrics of the service for Prometheus."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = r = CollectorRegistry()
        self.requests = Counter(
            "jaxrec_requests", "Requests by route and status.", ("route", "status"), registry=r
        )
        self.seconds = Histogram(
            "jaxrec_request_seconds",
            "Seconds of a request.",
            ("route",),
            buckets=_SECONDS,
            registry=r,
        )
        self.batch = Histogram("jaxrec_batch_requests", "Requests of a batch.", buckets=_BATCHES, registry=r)
        self.compute = Histogram("jaxrec_batch_seconds", "Seconds of a batch.", buckets=_SECONDS, registry=r)
        self.queue = Gauge("jaxrec_queue_requests", "Requests that wait for a batch.", registry=r)
        self.cache = Counter(
            "jaxrec_cache_lookups", "Look-ups in the cache of answers.", ("result",), registry=r
        )
        self.cached = Gauge("jaxrec_cache_answers", "Answers in the cache.", registry=r)
        self.reloads = Counter("jaxrec_reloads", "Reloads of the export.", ("result",), registry=r)
        self.ready = Gauge("jaxrec_ready", "1 where requests are served.", registry=r)
        self.programs = Gauge("jaxrec_compiled_programs", "Programs compiled for the model.", registry=r)
        self.model = Gauge(
            "jaxrec_model", "1 for the model that is served.", ("fingerprint", "step"), registry=r
        )

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class RequestMetrics:
    """ASGI middleware that counts requests and seconds by route and status.

    The middleware of Starlette's `app.middleware("http")` starts a task group for each request.

    Args:
        app: Application.
        metrics: Metrics, changed in place.
    """

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request; an error that no handler answers is counted as 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
