"""The monitor that turns rows of the event logs into Prometheus series, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from broker.messages import Record
from broker.records.events import FIELDS, TYPE, read_event
from broker.records.feedback import TYPE as FEEDBACK
from monitors.base import EndpointMonitor, Monitor, MonitorContext
from monitors.seen import WINDOW_ROWS, SeenRows, keys_of
from monitors.series import Series

TEXTS = ("arm", "model", "status")
NUMBERS = (
    "leg",
    "row",
    "version",
    "accepted_us",
    "taken_us",
    "started_us",
    "computed_us",
    "published_us",
    "batch",
)
STAGES = (
    ("millrace_queue_wait_seconds", "accepted_us", "taken_us"),
    ("millrace_batch_wait_seconds", "taken_us", "started_us"),
    ("millrace_compute_seconds", "started_us", "computed_us"),
    ("millrace_publish_seconds", "computed_us", "published_us"),
)

Columns = dict[str, NDArray[Any]]
Group = tuple[tuple[str, str, str, str], NDArray[np.intp]]  # model, version, arm, status; its rows


class MonitorMetrics:
    """Metrics of the reading itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"millrace_monitor_{name}", text, ("endpoint",), registry=registry)

        self.rows = counter("rows", "Rows counted.")
        self.duplicates = counter("duplicate_rows", "Rows that were repeated on the log.")
        self.unreadable = counter("unreadable_records", "Events that could not be read.")
        self.gaps = counter("gap_records", "Records that the log dropped before they were read.")


class PrometheusMonitor(Monitor):
    """Counters and histograms of all endpoints, in the registry of the process."""

    def __init__(self, context: MonitorContext) -> None:
        self._series = Series(context.registry, context.max_series)
        self._metrics = MonitorMetrics(context.registry)

    def follow(self, endpoint: str) -> PredictionFold:
        return PredictionFold(endpoint, self._series, self._metrics)


class PredictionFold(EndpointMonitor):
    """Folds the event log of one endpoint into series."""

    def __init__(
        self, endpoint: str, series: Series, metrics: MonitorMetrics, *, window_rows: int = WINDOW_ROWS
    ) -> None:
        self._endpoint = endpoint
        self._series = series
        self._metrics = metrics
        self._seen = SeenRows(window_rows)

    async def fold(self, records: Sequence[Record], *, counted_before: int) -> int:
        return sum([self._fold_record(record, counts=record.offset >= counted_before) for record in records])

    def _fold_record(self, record: Record, *, counts: bool) -> int:
        """Return the number of new rows in a record; without `counts` the rows are only remembered."""
        kind = record.headers.get("cloudEvents_type")
        if kind == FEEDBACK and counts:
            self._series.count("millrace_feedback_records_total", (self._endpoint,), 1)
        if kind != TYPE:
            return 0
        columns = _columns(read_event(record))
        if columns is None:
            if counts:
                self._metrics.unreadable.labels(self._endpoint).inc()
            return 0
        first = self._seen.first_time(keys_of(columns["uid"], columns["leg"], columns["row"]), record.offset)
        return self._count(columns, first) if counts else 0

    def rebuild_from(self, end: int) -> int:
        return self._seen.rebuild_from(end)

    def note_gap(self, records: int) -> None:
        self._metrics.gaps.labels(self._endpoint).inc(records)

    def _count(self, columns: Columns, first: NDArray[np.bool_]) -> int:
        new = int(np.count_nonzero(first))
        if new < len(first):
            self._metrics.duplicates.labels(self._endpoint).inc(len(first) - new)
            columns = {name: column[first] for name, column in columns.items()}
        for (model, version, arm, status), rows in _groups(columns):
            labels = (self._endpoint, model, version, arm)
            self._series.count("millrace_predictions_total", (*labels, status), len(rows))
            self._observe(labels, {name: column[rows] for name, column in columns.items()})
        self._metrics.rows.labels(self._endpoint).inc(new)
        return new

    def _observe(self, labels: tuple[str, str, str, str], columns: Columns) -> None:
        for name, begin, end in STAGES:
            reached = (columns[begin] > 0) & (columns[end] > 0)
            took_us = np.maximum(columns[end][reached] - columns[begin][reached], 0)  # clocks of machines differ
            self._series.observe(name, labels, took_us / 1e6)
        computed = columns["batch"] > 0
        _, one_a_batch = np.unique(columns["started_us"][computed], return_index=True)
        self._series.observe("millrace_batch_rows", labels, columns["batch"][computed][one_a_batch])


def _columns(batch: Any) -> Columns | None:
    """Return the needed columns; None if one is missing or has another type, as in events of other versions."""
    if batch is None:
        return None
    columns: Columns = {}
    for name in ("uid", *TEXTS, *NUMBERS):
        index = batch.schema.get_field_index(name)
        if index < 0 or batch.schema.field(index).type != FIELDS.field(name).type or batch.column(index).null_count:
            return None
        columns[name] = _column(name, batch.column(index))
    return columns


def _column(name: str, column: Any) -> NDArray[Any]:
    if name == "uid":
        words = np.frombuffer(column.buffers()[1], "<u8", 2 * len(column), 16 * column.offset)
        return words.reshape(len(column), 2)
    if name in TEXTS:
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.str_)
    return np.asarray(column.to_numpy())


def _groups(columns: Columns) -> Iterator[Group]:
    """Yield the row indices of each (model, version, arm, status); most events have only one."""
    keys = [columns["model"], columns["version"], columns["arm"], columns["status"]]
    codes = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        values, inverse = np.unique(key, return_inverse=True)
        codes = codes * len(values) + inverse
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        model, version, arm, status = (str(key[rows[0]]) for key in keys)
        yield (model, version, arm, status), rows
