"""What aiokafka makes of fetched bytes, but for what it cannot read: that stands in nobody's way.

aiokafka reads strictly. A header's name that is no UTF-8 is enough to make it raise, and any client may write one;
whoever reads the partition meets it again and again. So a batch that aiokafka cannot read is read here, record by
record and leniently; what cannot be read even so arrives in its place with a value that is `UnreadableRecord`.
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
    """The bytes of what cannot be read: a record, or all that was left of a batch."""

    why: str

    @classmethod
    def of(cls, data: bytes, why: str) -> UnreadableRecord:
        """Return the bytes with the reason."""
        found = cls(data)
        found.why = why
        return found


def read_leniently() -> None:
    """Have every consumer of this process read so."""
    fetcher.MemoryRecords = RecordReader


class RecordReader:
    """What was fetched of a partition, in place of aiokafka's class."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._at = 0

    def has_next(self) -> bool:
        """Tell whether there is one more batch."""
        return bool(self._records.has_next())

    def size_in_bytes(self) -> int:
        """Return how much was fetched."""
        return int(self._records.size_in_bytes())

    def next_batch(self) -> RecordBatch:
        """Return the next batch."""
        start = self._at
        self._at += _LENGTH_ENDS + _LENGTH.unpack_from(self._data, start)[0]
        return RecordBatch(self._records.next_batch(), memoryview(self._data)[start : self._at])


class RecordBatch:
    """A batch of aiokafka's that always has an end."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self._is_sound = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Look at the checksum; a wrong one makes the batch unreadable."""
        self._is_sound = self._batch.validate_crc()
        return True

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch) if self._is_sound else [self._lost("its checksum is wrong")])
        except Exception:  # noqa: BLE001 - whatever a parser or a codec raises, what comes behind is to be read
            return iter(self._one_by_one())

    def __next__(self) -> Any:
        """Return the next record of a batch that Kafka itself wrote: the end of a transaction."""
        return next(self._batch)

    def _one_by_one(self) -> list[_Record]:
        try:
            return _read_batch(self._data, self._batch.base_offset, self._batch.next_offset)
        except Exception as exc:  # noqa: BLE001 - as above
            return [self._lost(_said(exc))]

    def _lost(self, why: str) -> _Record:
        """Return one record for all, in place of the last: what is settled up to it is passed."""
        return _unreadable(self._batch.next_offset - 1, bytes(self._data), why)


class _Record(NamedTuple):
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


def _read_batch(data: memoryview, base: int, end: int) -> list[_Record]:
    """Read a batch of Kafka's format 2 whose records have the offsets from `base` to before `end`."""
    attributes, first_ms, last_ms, number = _HEAD.unpack_from(data)
    body = bytearray(_DECODERS[attributes & _CODEC](bytes(data[_HEAD.size :])))
    found: list[_Record] = []
    at, offset = 0, base
    for _ in range(number):
        if offset >= end:
            break
        try:
            raw, after = _sized(body, at)
        except (ValueError, IndexError) as exc:  # where the next one begins is not known
            found.append(_unreadable(end - 1, bytes(body[at:]), _said(exc)))
            break
        record = _read_record(raw, base, offset, first_ms, bytes(body[at:after]))
        if attributes & _APPEND_TIME:
            record = record._replace(timestamp=last_ms, timestamp_type=1)
        if not offset <= record.offset < end:
            record = _unreadable(offset, bytes(body[at:after]), f"its offset is said to be {record.offset}")
        found.append(record)
        at, offset = after, record.offset + 1
    return found


def _read_record(raw: bytes | None, base: int, offset: int, first_ms: int, whole: bytes) -> _Record:
    """Read a record; one that cannot be read has the offset that it says, or else the next one."""
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
        return _unreadable(offset, whole, _said(exc))
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


def _unreadable(offset: int, data: bytes, why: str) -> _Record:
    return _Record(offset, 0, 0, None, UnreadableRecord.of(data, why), [])


def _said(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"
