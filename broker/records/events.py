"""`millrace.prediction.v1`: an event is one Arrow record batch with one row per instance. The only module with pyarrow.

Every planned (uid, leg, row) gets exactly one terminal row, written by the process that ends the request. An event
takes about 160 us for any number of rows, so rows are gathered first (see `PredictionLogWriter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from broker.errors import MillraceError
from broker.messages import Record
from broker.protocol.answers import clean
from broker.protocol.header import BY_WORD, Request, Route, Status
from broker.protocol.ids import new_uid, now_us, uid_text

TYPE = "millrace.prediction.v1"
EVENT_LIMIT_BYTES = 4 * 1024 * 1024
ERROR_CHARACTERS = 1000
FEATURES = "features"  # a key of a request's `extra`
ARROW = "application/vnd.apache.arrow.stream"

FIELDS = pa.schema(
    [
        ("uid", pa.binary(16)),
        ("leg", pa.uint8()),
        ("row", pa.uint32()),
        ("arm", pa.string()),
        ("model", pa.string()),
        ("version", pa.uint32()),
        ("policy", pa.string()),
        ("snapshot", pa.uint64()),
        ("mask", pa.uint64()),
        ("propensity", pa.float64()),
        ("accepted_us", pa.int64()),
        ("taken_us", pa.int64()),
        ("started_us", pa.int64()),
        ("computed_us", pa.int64()),
        ("published_us", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.uint16()),
        ("batch", pa.uint32()),
        ("key", pa.string()),
        ("tenant", pa.string()),
        ("trace", pa.string()),
        ("context", pa.string()),
    ]
)


_TYPES = {field.name: field.type for field in FIELDS}
_OF_ROUTE = ("leg", "arm", "model", "version", "policy", "snapshot", "mask", "tenant")
_LONG = ("error", "trace", "context")  # the columns that are dropped if one row is too large


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequests:
    """Requests that ended together and in the same way: the shared values of their rows."""

    requests: Sequence[Request]
    rows: Sequence[int]  # the number of rows of each request
    taken_us: Sequence[int]
    status: Status
    error: str = ""
    started_us: int = 0
    computed_us: int = 0
    published_us: int = 0
    batch: int = 0

    @classmethod
    def failed(
        cls,
        request: Request,
        error: MillraceError,
        *,
        rows: int = 1,
        taken_us: int = 0,
        started_us: int = 0,
        computed_us: int = 0,
        batch: int = 0,
    ) -> EndedRequests:
        """One request that ends now with an error in place of a result."""
        return cls(
            requests=[request],
            rows=[rows],
            taken_us=[taken_us],
            status=BY_WORD[error.status],
            error=str(error),
            started_us=started_us,
            computed_us=computed_us,
            published_us=now_us(),
            batch=batch,
        )


Tensors = Mapping[str, np.ndarray[Any, Any]]


def write_event(
    ended: Sequence[EndedRequests], inputs: Sequence[Tensors], outputs: Sequence[Tensors], *, source: str
) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of one event; the rows must fit into it. See `write_events`."""
    [event] = write_events(ended, inputs, outputs, source=source)
    return event


def write_events(
    ended: Sequence[EndedRequests], inputs: Sequence[Tensors], outputs: Sequence[Tensors], *, source: str
) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the body and the headers of one event with all rows, or of several if one is too small.

    `inputs` and `outputs` are whole batches whose rows, one after the other, are the rows of `ended` in order; all
    batches have the same names, types and trailing shapes. Empty sequences leave the tensors out. If the event is too
    large, or Arrow cannot represent the tensors, it is written without them (header `truncated`), but with all rows.
    """
    columns = _columns(ended)
    if not inputs and not outputs:
        return [(body, _headers(source)) for body in _parts(columns)]
    whole = _with_tensors(columns, inputs, outputs)
    if whole is not None:
        return [(whole, _headers(source))]
    return [(body, {**_headers(source), "truncated": 1}) for body in _parts(columns)]


def _headers(source: str) -> dict[str, Any]:
    return {
        "cloudEvents_type": TYPE,
        "cloudEvents_specversion": "1.0",
        "cloudEvents_source": source,
        "cloudEvents_id": uid_text(new_uid(now_us())),
        "cloudEvents_datacontenttype": ARROW,
        "cloudEvents_dataschema": TYPE,
    }


def read_event(record: Record) -> pa.RecordBatch | None:
    """Read the rows of a log record; None if it is of another type or malformed."""
    if record.headers.get("cloudEvents_type") != TYPE:
        return None
    try:
        with pa.ipc.open_stream(record.body) as stream:
            return stream.read_next_batch()
    except (pa.ArrowInvalid, OSError, StopIteration):
        return None


def _with_tensors(
    columns: list[tuple[str, pa.Array]], inputs: Sequence[Tensors], outputs: Sequence[Tensors]
) -> bytes | None:
    """Return the event with its tensors; None if it is too large, or Arrow cannot represent a model's arrays."""
    try:
        body = _write(columns + _tensors("input.", inputs) + _tensors("output.", outputs))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return body if len(body) <= EVENT_LIMIT_BYTES else None


def _parts(columns: list[tuple[str, pa.Array]]) -> list[bytes]:
    """Return events that together have all rows, each within the limit.

    Rows of one request stay in one event if possible. Values repeat in many rows (an error text, an arm's name), so a
    few requests with many rows can exceed a message.
    """
    body = _write(columns)
    if len(body) <= EVENT_LIMIT_BYTES:
        return [body]
    cut = _middle(dict(columns)["row"].to_numpy())
    if not cut:  # one row
        return [_write([(name, pa.nulls(1, array.type) if name in _LONG else array) for name, array in columns])]
    first = [(name, array.slice(0, cut)) for name, array in columns]
    return _parts(first) + _parts([(name, array.slice(cut)) for name, array in columns])


def _middle(rows: np.ndarray[Any, Any]) -> int:
    """Return where to cut a column of row numbers: where the request nearest to its middle begins, or the middle."""
    half = len(rows) // 2
    starts = np.flatnonzero(rows == 0)
    starts = starts[starts > 0]
    return int(starts[np.abs(starts - half).argmin()]) if len(starts) else half


def _columns(ended: Sequence[EndedRequests]) -> list[tuple[str, pa.Array]]:
    """Return one array per field. Building whole columns takes about a microsecond per row."""
    requests = [request for end in ended for request in end.requests]
    counts = [count for end in ended for count in end.rows]
    columns = {**_of_routes(requests), **_of_requests(requests), **_of_ends(ended)}
    if counts.count(1) != len(counts):
        spread = pa.array(np.repeat(np.arange(len(counts)), counts))
        columns = {name: array.take(spread) for name, array in columns.items()}
    columns["row"] = pa.array(
        np.concatenate([np.arange(count, dtype=np.uint32) for count in counts])
        if len(columns["uid"]) != len(counts)
        else np.zeros(len(counts), np.uint32)
    )
    return [(name, columns[name]) for name in _TYPES]


def _of_routes(requests: Sequence[Request]) -> dict[str, pa.Array]:
    routes = [request.route for request in requests]
    first, number = routes[0], len(routes)
    if routes.count(first) == number:
        return _of_route(first, number)
    return {name: pa.array([getattr(route, name) for route in routes], _TYPES[name]) for name in _OF_ROUTE}


@lru_cache(maxsize=256)
def _of_route(route: Route, number: int) -> dict[str, pa.Array]:
    return {name: pa.repeat(pa.scalar(getattr(route, name), _TYPES[name]), number) for name in _OF_ROUTE}


def _of_requests(requests: Sequence[Request]) -> dict[str, pa.Array]:
    uids = pa.py_buffer(b"".join([request.uid for request in requests]))
    return {
        "uid": pa.FixedSizeBinaryArray.from_buffers(_TYPES["uid"], len(requests), [None, uids]),
        "propensity": pa.array(np.array([request.propensity for request in requests])),
        "accepted_us": pa.array(np.array([request.accepted_us for request in requests], np.int64)),
        "attempts": pa.array(np.array([request.attempts for request in requests], np.uint16)),
        "key": _texts([request.key for request in requests]),
        "trace": _texts([request.trace for request in requests]),
        "context": _texts([context_of(request.extra) if request.extra else "" for request in requests]),
    }


def context_of(extra: bytes) -> str:
    """Return the features that the policy used for a request, as JSON; empty if it uses none."""
    features = orjson.loads(extra).get(FEATURES)
    return orjson.dumps(features).decode() if isinstance(features, list) else ""


def _of_ends(ended: Sequence[EndedRequests]) -> dict[str, pa.Array]:
    numbers = [len(end.requests) for end in ended]
    columns = {"taken_us": pa.array(np.concatenate([np.array(end.taken_us, np.int64) for end in ended]))}
    for name in ("started_us", "computed_us", "published_us"):
        columns[name] = pa.array(np.repeat(np.array([getattr(end, name) for end in ended], np.int64), numbers))
    columns["batch"] = pa.array(np.repeat(np.array([end.batch for end in ended], np.uint32), numbers))
    texts: dict[str, list[str | None]] = {
        "status": [end.status.word for end in ended],
        "error": [clean(end.error[:ERROR_CHARACTERS]) or None for end in ended],
    }
    for name, words in texts.items():
        if words.count(words[0]) == len(words):
            columns[name] = _repeated(words[0], sum(numbers))
        else:
            columns[name] = pa.array(
                [word for word, count in zip(words, numbers, strict=True) for _ in range(count)], pa.string()
            )
    return columns


def _texts(texts: list[str]) -> pa.Array:
    """Return a column of texts, with null for an empty one."""
    return pa.array([text or None for text in texts], pa.string()) if any(texts) else _repeated(None, len(texts))


@lru_cache(maxsize=256)
def _repeated(text: str | None, number: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), number)


def _tensors(prefix: str, batches: Sequence[Tensors]) -> list[tuple[str, pa.Array]]:
    if not batches:
        return []
    return [
        (
            prefix + name,
            _rows(np.concatenate([batch[name] for batch in batches]) if len(batches) > 1 else batches[0][name]),
        )
        for name in batches[0]
    ]


def _rows(array: np.ndarray[Any, Any]) -> pa.Array:
    """Return one value per row: a scalar, or a list of the row's numbers."""
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
