"""What a gateway says of itself, read when it is scraped: nothing here is touched per request."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class GatewayMetrics:
    """The series of one gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pending = Gauge(
            "millrace_gateway_pending_requests", "Requests that wait for their answer here.", registry=registry
        )
        self._unclaimed = Gauge(
            "millrace_gateway_unclaimed_answers", "Answers that nobody waited for.", registry=registry
        )
        self._stored = Gauge(
            "millrace_gateway_stored_waits", "Waits for answers of stored requests.", registry=registry
        )
        self._used = Gauge("millrace_gateway_results_bytes", "What the results store holds.", registry=registry)
        self._merges = Counter(
            "millrace_merges_lost", "Merge records that the log never took, by reason.", ("reason",), registry=registry
        )
        self.feedback = Counter("millrace_gateway_feedback", "Feedback taken in.", ("endpoint",), registry=registry)

    def watch(
        self, *, pending: Callable[[], float], unclaimed: Callable[[], float], stored: Callable[[], float],
        used: Callable[[], float],
    ) -> None:  # fmt: skip
        """Read these numbers at each scrape."""
        self._pending.set_function(pending)
        self._unclaimed.set_function(unclaimed)
        self._stored.set_function(stored)
        self._used.set_function(used)

    def lost_merge(self, reason: str) -> None:
        """Count a merge record that is lost."""
        self._merges.labels(reason).inc()
