"""The metrics of the server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from topwork.bases.engines.openvino import BATCH_SIZE

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServerMetrics:
    """The metrics of one server.

    No label is a text that a client sent, so the number of time series stays small.

    Args:
        queued: returns how many images are in progress.
    """

    def __init__(self, queued: Callable[[], float]) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            ProcessCollector,
        )

        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "topwork_requests", "Requests answered.", ("route", "status"), registry=own
        )
        self.seconds = Histogram(
            "topwork_request_seconds",
            "Seconds from a request's headers to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=own,
        )
        self.images = Counter(
            "topwork_images",
            "Images by what became of them: answered, or a status.",
            ("model", "outcome"),
            registry=own,
        )
        self.batches = Histogram(
            "topwork_batch_images",
            "Images that a network ran together.",
            ("model",),
            buckets=tuple(range(1, BATCH_SIZE + 1)),
            registry=own,
        )
        self.reloads = Counter(
            "topwork_reloads",
            "Replaced models by what became of them: loaded or refused.",
            ("model", "outcome"),
            registry=own,
        )
        self.models = Gauge(
            "topwork_model_info",
            "1 for each model that is served.",
            ("model", "version", "task", "base"),
            registry=own,
        )
        queue = Gauge(
            "topwork_queue_images",
            "Images on their way, those that are being received among them.",
            registry=own,
        )
        queue.set_function(queued)

    def write(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
