"""`millrace.prediction.v1`: one Arrow record batch an event, one row an instance. The only place that knows pyarrow.

Every planned (uid, leg, row) gets exactly one terminal row from whoever ends the request. An event costs about
160 us however few rows it has, so rows are gathered first (see `Rows`) and written many at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from broker.header import Request, Status
from broker.ids import new_uid, now_us, uid_text
from broker.messages import Record

TYPE = "millrace.prediction.v1"
EVENT_LIMIT_BYTES = 4 * 1024 * 1024
ARROW = "application/vnd.apache.arrow.stream"

FIELDS = pa.schema(
    [
        ("uid", pa.binary(16)), ("leg", pa.uint8()), ("row", pa.uint32()), ("arm", pa.string()), ("model", pa.string()),
        ("version", pa.uint32()), ("policy", pa.string()), ("snapshot", pa.uint64()), ("mask", pa.uint64()),
        ("propensity", pa.float64()), ("accepted_us", pa.int64()), ("taken_us", pa.int64()), ("started_us", pa.int64()),
        ("computed_us", pa.int64()), ("published_us", pa.int64()), ("status", pa.string()), ("error", pa.string()),
        ("attempts", pa.uint16()), ("batch", pa.uint32()), ("key", pa.string()), ("tenant", pa.string()), ("trace", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request ended: what its rows say beside the request itself."""

    request: Request
    rows: int
    status: Status
    error: str
    taken_us: int
    started_us: int
    computed_us: int
    published_us: int
    batch: int


Tensors = Mapping[str, np.ndarray[Any, Any]]


def write_event(ended: Sequence[Ended], inputs: Sequence[Tensors], outputs: Sequence[Tensors], *, source: str) -> tuple[bytes, dict[str, Any]]:
    """Write rows as one event: its body and its headers.

    `inputs` and `outputs` are whole batches whose rows, one after the other, are the rows of `ended` in order; all
    batches have the same names, types and trailing shapes. Empty sequences leave the tensors out. An event that is
    too large loses its tensors (header `truncated`), never rows.
    """
    columns = _columns(ended)
    body = _write(columns + _tensors("input.", inputs) + _tensors("output.", outputs))
    headers: dict[str, Any] = {
        "cloudEvents_type": TYPE, "cloudEvents_specversion": "1.0", "cloudEvents_source": source,
        "cloudEvents_id": uid_text(new_uid(now_us())), "cloudEvents_datacontenttype": ARROW, "cloudEvents_dataschema": TYPE,
    }  # fmt: skip
    if len(body) > EVENT_LIMIT_BYTES and (inputs or outputs):
        headers["truncated"] = 1
        body = _write(columns)
    return body, headers


def read_event(record: Record) -> pa.RecordBatch | None:
    """Read the rows of a log record; None if it is something else, or cannot be read."""
    if record.headers.get("cloudEvents_type") != TYPE:
        return None
    try:
        with pa.ipc.open_stream(record.body) as stream:
            return stream.read_next_batch()
    except (pa.ArrowInvalid, OSError, StopIteration):
        return None


def _columns(ended: Sequence[Ended]) -> list[tuple[str, pa.Array]]:
    per_request = [_values(end) for end in ended]
    counts = [end.rows for end in ended]
    if any(count != 1 for count in counts):
        per_request = [values for values, count in zip(per_request, counts, strict=True) for _ in range(count)]
    rows = [row for count in counts for row in range(count)]
    by_column = list(zip(*per_request, strict=True))
    by_column.insert(2, tuple(rows))
    return [(field.name, pa.array(values, field.type)) for field, values in zip(FIELDS, by_column, strict=True)]


def _values(end: Ended) -> tuple[Any, ...]:
    request, route = end.request, end.request.route
    return (
        request.uid, route.leg, route.arm, route.model, route.version, route.policy, route.snapshot, route.mask,
        request.propensity, request.accepted_us, end.taken_us, end.started_us, end.computed_us, end.published_us,
        end.status.word, end.error or None, request.attempts, end.batch, request.key or None, route.tenant or None,
        request.trace or None,
    )  # fmt: skip


def _tensors(prefix: str, batches: Sequence[Tensors]) -> list[tuple[str, pa.Array]]:
    if not batches:
        return []
    return [
        (prefix + name, _rows(np.concatenate([batch[name] for batch in batches]) if len(batches) > 1 else batches[0][name]))
        for name in batches[0]
    ]


def _rows(array: np.ndarray[Any, Any]) -> pa.Array:
    """Return one value a row: a scalar, or a list of the row's numbers."""
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    if array.dtype == object:
        flat = pa.array(array.ravel().tolist(), pa.binary())
    else:
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    if width == 1:
        return flat
    if width == 0:
        return pa.nulls(array.shape[0], pa.list_(flat.type, 0))
    return pa.FixedSizeListArray.from_arrays(flat, width)


def _write(columns: list[tuple[str, pa.Array]]) -> bytes:
    batch = pa.RecordBatch.from_arrays([array for _, array in columns], names=[name for name, _ in columns])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
