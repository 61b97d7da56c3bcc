"""Reads fetched bytes as aiokafka does, but without blocking a partition on a record that cannot be read.

aiokafka reads strictly: for example, it raises on a header name that is not UTF-8, which any client may write, and
every reader of the partition meets that record again. So a batch that aiokafka cannot read is read here, record by
record and leniently. A record that is still unreadable is delivered in its place with an `UnreadableRecord` as its
value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

_LENGTH = struct.Struct(">8xi")
_LENGTH_ENDS = 12
_HEAD = struct.Struct(">21xh4xqq14xi")  # attributes, first and last timestamp, number of records
_CODEC, _APPEND_TIME = 0x07, 0x08
_DECODERS: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    codec.gzip_decode,
    codec.snappy_decode,
    codec.lz4_decode,
    codec.zstd_decode,
)


class UnreadableRecord(bytes):
    """The bytes of a record, or of the rest of a batch, that cannot be read."""

    reason: str

    @classmethod
    def of(cls, data: bytes, reason: str) -> UnreadableRecord:
        """Return the bytes with the reason."""
        found = cls(data)
        found.reason = reason
        return found


def read_leniently() -> None:
    """Make all consumers of this process use `RecordReader`."""
    fetcher.MemoryRecords = RecordReader


class RecordReader:
    """The fetched batches of a partition; replaces aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._at = 0

    def has_next(self) -> bool:
        """Return True if there is another batch."""
        return bool(self._records.has_next())

    def size_in_bytes(self) -> int:
        """Return the number of fetched bytes."""
        return int(self._records.size_in_bytes())

    def next_batch(self) -> RecordBatch:
        """Return the next batch."""
        start = self._at
        self._at += _LENGTH_ENDS + _LENGTH.unpack_from(self._data, start)[0]
        return RecordBatch(self._records.next_batch(), memoryview(self._data)[start : self._at])


class RecordBatch:
    """A batch of aiokafka's whose iteration never raises."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self._is_sound = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Check the checksum and return True; a wrong one makes the batch unreadable."""
        self._is_sound = self._batch.validate_crc()
        return True

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch) if self._is_sound else [self._lost("its checksum is wrong")])
        except Exception:  # noqa: BLE001 - parsers and codecs raise anything, and the next batches must be read
            return iter(self._one_by_one())

    def __next__(self) -> Any:
        """Return the next record of a control batch, which Kafka itself writes at the end of a transaction."""
        return next(self._batch)

    def _one_by_one(self) -> list[_Record]:
        try:
            return _read_batch(self._data, self._batch.base_offset, self._batch.next_offset)
        except Exception as exc:  # noqa: BLE001 - as above
            return [self._lost(_describe(exc))]

    def _lost(self, reason: str) -> _Record:
        """Return one record for the whole batch, at its last offset: once that is settled, the batch is passed."""
        return _unreadable(self._batch.next_offset - 1, bytes(self._data), reason)


class _Record(NamedTuple):
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


def _read_batch(data: memoryview, base: int, end: int) -> list[_Record]:
    """Read a batch of Kafka's format 2, whose records have the offsets from `base` up to `end`, exclusive."""
    attributes, first_ms, last_ms, number = _HEAD.unpack_from(data)
    body = bytearray(_DECODERS[attributes & _CODEC](bytes(data[_HEAD.size :])))
    found: list[_Record] = []
    at, offset = 0, base
    for _ in range(number):
        if offset >= end:
            break
        try:
            raw, after = _sized(body, at)
        except (ValueError, IndexError) as exc:  # the begin of the next record is unknown
            found.append(_unreadable(end - 1, bytes(body[at:]), _describe(exc)))
            break
        record = _read_record(raw, base, offset, first_ms, bytes(body[at:after]))
        if attributes & _APPEND_TIME:
            record = record._replace(timestamp=last_ms, timestamp_type=1)
        if not offset <= record.offset < end:
            record = _unreadable(offset, bytes(body[at:after]), f"it contains the wrong offset {record.offset}")
        found.append(record)
        at, offset = after, record.offset + 1
    return found


def _read_record(raw: bytes | None, base: int, offset: int, first_ms: int, whole: bytes) -> _Record:
    """Read a record; an unreadable one has the offset that it contains, or else the next one."""
    try:
        inside = bytearray(raw or b"")
        delta_ms, at = decode_varint(inside, 1)
        delta, at = decode_varint(inside, at)
        offset = base + delta
        key, at = _sized(inside, at)
        value, at = _sized(inside, at)
        number, at = decode_varint(inside, at)
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(number):
            name, at = _sized(inside, at)
            content, at = _sized(inside, at)
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), content))
    except (ValueError, IndexError) as exc:
        return _unreadable(offset, whole, _describe(exc))
    if at != len(inside) or number < 0:
        return _unreadable(offset, whole, f"{len(inside)} bytes, of which {at} are a record")
    return _Record(offset, first_ms + delta_ms, 0, key, value, headers)


def _sized(data: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(data, at)
    if length < 0:
        return None, at
    if length > len(data) - at:
        raise ValueError(f"a part of {length} bytes where {len(data) - at} are left")
    return bytes(data[at : at + length]), at + length


def _unreadable(offset: int, data: bytes, reason: str) -> _Record:
    return _Record(offset, 0, 0, None, UnreadableRecord.of(data, reason), [])


def _describe(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"
