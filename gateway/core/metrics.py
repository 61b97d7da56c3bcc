"""Metrics of a gateway. They are read when they are scraped; no request updates them."""

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
            "millrace_gateway_unclaimed_answers", "Answers for which no client waits here any more.", registry=registry
        )
        self._stored = Gauge(
            "millrace_gateway_stored_waits", "Waits for answers of stored requests.", registry=registry
        )
        self._used = Gauge("millrace_gateway_results_bytes", "Bytes in the results store.", registry=registry)
        self._merges = Counter(
            "millrace_merges_lost", "Merge records that were lost, by reason.", ("reason",), registry=registry
        )
        self._refused = Counter(
            "millrace_gateway_refused",
            "Connections and requests that the door ended, by reason.",
            ("reason",),
            registry=registry,
        )
        self._connections = Gauge("millrace_gateway_connections", "Open HTTP connections.", registry=registry)
        self._arriving = Gauge(
            "millrace_gateway_arriving_bytes", "Bytes of incomplete request bodies.", registry=registry
        )
        self._held = Gauge(
            "millrace_gateway_body_bytes", "Bytes of the bodies of all requests that have not ended.", registry=registry
        )
        self.feedback = Counter("millrace_gateway_feedback", "Accepted feedback.", ("endpoint",), registry=registry)

    def watch(
        self,
        *,
        pending: Callable[[], float],
        unclaimed: Callable[[], float],
        stored: Callable[[], float],
        used: Callable[[], float],
    ) -> None:
        """Call these functions at each scrape."""
        self._pending.set_function(pending)
        self._unclaimed.set_function(unclaimed)
        self._stored.set_function(stored)
        self._used.set_function(used)

    def watch_door(
        self, *, connections: Callable[[], float], arriving: Callable[[], float], held: Callable[[], float]
    ) -> None:
        """Call these functions at each scrape."""
        self._connections.set_function(connections)
        self._arriving.set_function(arriving)
        self._held.set_function(held)

    def refused(self, reason: str) -> None:
        """Count a connection or request that the door ended."""
        self._refused.labels(reason).inc()

    def lost_merge(self, reason: str) -> None:
        """Count a lost merge record."""
        self._merges.labels(reason).inc()
