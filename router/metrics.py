"""What a router says of its own work, beside the rows it writes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class RouterMetrics:
    """The series of one router."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._dropped = Counter(
            "millrace_answers_dropped", "Answers that nobody could be given, by reason.", ("reason",), registry=registry
        )
        self._merges = Counter(
            "millrace_merges_lost", "Merge records that the log never took, by reason.", ("reason",), registry=registry
        )

    def dropped(self, reason: str, answers: int) -> None:
        """Count answers that were dropped."""
        self._dropped.labels(reason).inc(answers)

    def lost_merge(self, reason: str) -> None:
        """Count a merge record that is lost."""
        self._merges.labels(reason).inc()
