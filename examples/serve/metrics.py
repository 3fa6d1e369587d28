"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from examples.serve.draw import Drawn

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0)


class Metrics:
    """Counters of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("foreseer_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self.latency = Histogram(
            "foreseer_request_seconds", "From queue to picture.", buckets=SECONDS, registry=registry
        )
        self.drawing = Histogram("foreseer_drawing_seconds", "Drawing alone.", buckets=SECONDS, registry=registry)
        self.computed = Counter("foreseer_nfe_computed", "Network evaluations computed.", registry=registry)
        self.saved = Counter("foreseer_nfe_saved", "Steps that were forecast instead.", registry=registry)
        self.failed_open = Counter("foreseer_fail_opens", "Steps computed against the plan.", registry=registry)
        self.queue_length = Gauge("foreseer_queue_length", "Requests that wait.", registry=registry)

    def drew(self, drawn: Drawn, seconds: float, in_all: float) -> None:
        """Count a picture."""
        self.latency.observe(in_all)
        self.drawing.observe(seconds)
        self.computed.inc(drawn.nfe)
        self.saved.inc(drawn.steps - drawn.nfe)
        self.failed_open.inc(drawn.failed_open)
