"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters, gauges and histograms of one server, all named omni_diffusion_*."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "omni_diffusion_requests", "Answers by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self.tasks = Counter(
            "omni_diffusion_tasks", "Requests of the engine by task and outcome.",
            ["task", "outcome"], registry=registry,
        )  # fmt: skip
        self.steps = Counter(
            "omni_diffusion_steps", "Steps of the engine; a step advances the whole batch.",
            registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "omni_diffusion_waiting", "Requests that wait for a slot, by medium of the answer.",
            ["lane"], registry=registry,
        )  # fmt: skip
        self.batch = Gauge(
            "omni_diffusion_batch", "Requests that hold a slot of the batch.", registry=registry
        )
        self.phases = Histogram(
            "omni_diffusion_phase_seconds",
            "Seconds of a request in each phase: queue, encode, denoise, decode.",
            ["phase"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.admission = Histogram(
            "omni_diffusion_admission_seconds",
            "Seconds from arrival to a slot of the batch, by medium of the answer.",
            ["lane"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first = Histogram(
            "omni_diffusion_first_seconds",
            "Seconds from arrival to the first text, speech or image of a streamed answer.",
            ["medium"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.whole = Histogram(
            "omni_diffusion_request_seconds", "Seconds from arrival to the whole answer, by task.",
            ["task"], buckets=SECONDS, registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
