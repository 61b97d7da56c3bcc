"""The Prometheus series of a router."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge


class RouterMetrics:
    """The series of one router."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Gauge(
            "millrace_endpoints_refused", "Endpoints whose queue the broker does not allow.", registry=registry
        )
        self._dropped = Counter(
            "millrace_answers_dropped",
            "Answers that could not be delivered, by reason.",
            ("reason",),
            registry=registry,
        )
        self._merges = Counter(
            "millrace_merges_lost", "Merge records that the log never took, by reason.", ("reason",), registry=registry
        )

    def watch(self, problems: Callable[[], Mapping[str, str]]) -> None:
        """Measure the number of endpoints whose queue cannot be served."""
        self._refused.set_function(lambda: len(problems()))

    def dropped(self, reason: str, answers: int) -> None:
        """Count answers that were dropped."""
        self._dropped.labels(reason).inc(answers)

    def lost_merge(self, reason: str) -> None:
        """Count a merge record that the log did not take."""
        self._merges.labels(reason).inc()
