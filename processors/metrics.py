"""The metrics of a processor."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from broker.records.replica_statistics import Statistics

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ProcessorMetrics:
    """The series of one model version, updated once per batch."""

    def __init__(self, registry: CollectorRegistry, model: str, version: int) -> None:
        labels = ("model", "version")
        values = (model, str(version))
        ended = Counter(
            "millrace_processor_requests",
            "Requests that ended, by status.",
            ("model", "version", "status"),
            registry=registry,
        )
        buried = Counter(
            "millrace_processor_buried",
            "Buried messages, by reason.",
            ("model", "version", "reason"),
            registry=registry,
        )
        self.ended = _Bound(ended, values)
        self.buried = _Bound(buried, values)
        self.came_back = Counter(
            "millrace_processor_came_back", "Redelivered messages.", labels, registry=registry
        ).labels(*values)
        dropped = Counter(
            "millrace_answers_dropped",
            "Answers that could not be delivered, by reason.",
            (*labels, "reason"),
            registry=registry,
        )
        self.statistics = Statistics()
        self._dropped = _Bound(dropped, values)
        self._ok = ended.labels(*values, "ok")
        self._size = Histogram(
            "millrace_processor_batch_rows", "Rows in a batch.", labels, buckets=BATCH_BUCKETS, registry=registry
        ).labels(*values)
        self._compute = Histogram(
            "millrace_processor_compute_seconds",
            "Time of one call of the model.",
            labels,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        ).labels(*values)

    def computed(self, requests: int, rows: int, took_us: int, *, queued_us: int, at_us: int) -> None:
        """Count one batch; `queued_us` is the sum over its requests."""
        self.statistics.computed(requests=requests, rows=rows, queued_us=queued_us, computing_us=took_us, at_us=at_us)
        self._ok.inc(requests)
        self._size.observe(rows)
        self._compute.observe(took_us / 1e6)

    def failed(self, word: str, took_us: int) -> None:
        """Count a request that ended with an error after `took_us` in the processor."""
        self.statistics.fail.add(1, took_us)
        self.ended.labels(word).inc()

    def dropped(self, reason: str, answers: int) -> None:
        """Count answers that were dropped."""
        self._dropped.labels(reason).inc(answers)


class _Bound:
    """A counter whose first labels are fixed."""

    def __init__(self, counter: Counter, first: tuple[str, ...]) -> None:
        self._counter = counter
        self._first = first

    def labels(self, last: str) -> Counter:
        """Return the child for the last label."""
        return self._counter.labels(*self._first, last)
