"""Counters and histograms that are updated a whole column at a time; their number is limited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]

ARM = ("endpoint", "model", "version", "arm")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """The definition of a metric: a histogram if it has bounds, else a counter."""

    text: str
    labels: Labels
    bounds: tuple[float, ...] = ()


METRICS: Mapping[str, MetricSpec] = {
    "millrace_predictions_total": MetricSpec("Rows by how they ended.", (*ARM, "status")),
    "millrace_feedback_records_total": MetricSpec("Feedback on the event log.", ("endpoint",)),
    "millrace_queue_wait_seconds": MetricSpec("From accepted to taken by a processor.", ARM, SECONDS),
    "millrace_batch_wait_seconds": MetricSpec("From taken to the start of the batch.", ARM, SECONDS),
    "millrace_compute_seconds": MetricSpec("From the start of the batch to its end.", ARM, SECONDS),
    "millrace_publish_seconds": MetricSpec("From the end of the batch to the answer's publishing.", ARM, SECONDS),
    "millrace_batch_rows": MetricSpec("Rows in a batch, counted once a batch.", ARM, ROWS),
}


@dataclass(slots=True)
class _Histogram:
    counts: NDArray[np.int64]
    total: float = 0.0


@dataclass(slots=True)
class _MetricSeries:
    counters: dict[Labels, float] = field(default_factory=dict)
    histograms: dict[Labels, _Histogram] = field(default_factory=dict)


class Series(Collector):
    """The series of all `METRICS`. Above `limit` label sets, new ones are dropped, and their observations counted."""

    def __init__(self, registry: CollectorRegistry, limit: int) -> None:
        self._limit = limit
        self._series_count = 0
        self._by_metric = {name: _MetricSeries() for name in METRICS}
        self._bounds = {name: np.array(described.bounds) for name, described in METRICS.items()}
        self.dropped = 0
        registry.register(self)

    def count(self, name: str, labels: Labels, number: int) -> None:
        """Add to a counter."""
        counters = self._by_metric[name].counters
        if labels in counters or self._may_add(number):
            counters[labels] = counters.get(labels, 0.0) + number

    def observe(self, name: str, labels: Labels, values: NDArray[Any]) -> None:
        """Add every value of a column to its bucket."""
        if not values.size:
            return
        histograms, bounds = self._by_metric[name].histograms, self._bounds[name]
        found = histograms.get(labels)
        if found is None:
            if not self._may_add(values.size):
                return
            found = histograms[labels] = _Histogram(np.zeros(len(bounds) + 1, np.int64))
        found.counts += np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1)
        found.total += float(values.sum())

    def collect(self) -> Iterator[Metric]:
        """Yield all current series. It copies before it reads, because a scrape may run in another thread."""
        for name, described in METRICS.items():
            series = self._by_metric[name]
            if described.bounds:
                yield _histogram_family(name, described, list(series.histograms.items()))
            else:
                family = CounterMetricFamily(name, described.text, labels=described.labels)
                for labels, value in list(series.counters.items()):
                    family.add_metric(labels, value)
                yield family
        dropped = "Observations that found no room among the series: raise max_series, or name fewer arms."
        yield CounterMetricFamily("millrace_monitor_dropped_observations", dropped, value=self.dropped)

    def _may_add(self, observations: int) -> bool:
        if self._series_count >= self._limit:
            self.dropped += observations
            return False
        self._series_count += 1
        return True


def _histogram_family(
    name: str, described: MetricSpec, histograms: list[tuple[Labels, _Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, described.text, labels=described.labels)
    bounds = [*(f"{bound:g}" for bound in described.bounds), "+Inf"]
    for labels, histogram in histograms:
        below = np.cumsum(histogram.counts).tolist()
        family.add_metric(labels, list(zip(bounds, below, strict=True)), histogram.total)
    return family
