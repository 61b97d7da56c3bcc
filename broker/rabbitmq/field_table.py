"""Reads and writes AMQP field tables; any bytes of a foreign client are either read or refused with ValueError.

pika's decoder turns doubles into integers. It also raises on a timestamp out of range inside its frame handler, so that
one bad header closes the connection each time its message is delivered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any

from broker.errors import InvalidRequest, TooLarge

DEPTH_LIMIT = 16
SHORT_LIMIT_BYTES = 255

_U32 = struct.Struct(">I")
_INT = struct.Struct(">cq")
_FLOAT = struct.Struct(">cd")
_DECIMAL = struct.Struct(">Bi")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = {
    ord(kind): struct.Struct(layout)
    for kind, layout in {
        "t": ">?",
        "b": ">b",
        "B": ">B",
        "s": ">h",
        "U": ">h",
        "u": ">H",
        "I": ">i",
        "i": ">I",
        "l": ">q",
        "L": ">q",
        "f": ">f",
        "d": ">d",
    }.items()
}


def pack_table(table: Mapping[str, Any]) -> bytes:
    """Return a table with its length; raises InvalidRequest or TooLarge for values that AMQP cannot represent."""
    data = b"".join(pack_short(name) + pack_value(value) for name, value in table.items())
    return _U32.pack(len(data)) + data


def pack_short(text: str) -> bytes:
    """Return a short string with its length; raises TooLarge beyond 255 bytes."""
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > SHORT_LIMIT_BYTES:
        raise TooLarge(f"{text[:40]!r}...: {len(data)} bytes where AMQP takes {SHORT_LIMIT_BYTES}")
    return bytes((len(data),)) + data


def pack_value(value: Any) -> bytes:
    """Return one value after its type letter."""
    if isinstance(value, str):
        return _long(b"S", value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes | bytearray | memoryview):
        return _long(b"x", bytes(value))
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return _integer(value)
    if value is None:
        return b"V"
    return _rare(value)


def _long(kind: bytes, data: bytes) -> bytes:
    return kind + _U32.pack(len(data)) + data


def _integer(value: int) -> bytes:
    try:
        return _INT.pack(b"l", value)
    except struct.error as exc:
        raise TooLarge(f"a header holds {value:.3e}: AMQP's integers have 64 bits") from exc


def _rare(value: Any) -> bytes:
    if isinstance(value, float):
        # Erlang has neither infinity nor NaN: RabbitMQ would close the connection.
        return _FLOAT.pack(b"d", value) if isfinite(value) else pack_value(str(value))
    if isinstance(value, datetime):
        return _INT.pack(b"T", int(value.timestamp()))
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, Mapping):
        return b"F" + pack_table(value)
    if isinstance(value, Iterable):
        return _long(b"A", b"".join(map(pack_value, value)))
    raise InvalidRequest(f"a header holds a {type(value).__name__}: AMQP has no such type")


def _decimal(value: Decimal) -> bytes:
    exponent = value.as_tuple().exponent
    decimals = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    try:
        return b"D" + _DECIMAL.pack(decimals, int(value.scaleb(decimals)))
    except (struct.error, ValueError, ArithmeticError) as exc:
        raise TooLarge(f"a header holds {value}: AMQP's decimals have 31 bits") from exc


def unpack_table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """Read a table at `at`; return it and the position after it. Raises ValueError or struct.error."""
    start = at + _U32.size
    end = _inside(data, start, _U32.unpack_from(data, at)[0])
    table: dict[str, Any] = {}
    at = start
    while at < end:
        name, at = unpack_short(data, at)
        table[name], at = unpack_value(data, at, depth)
    return table, at


def unpack_short(data: bytes, at: int) -> tuple[str, int]:
    """Read a string of at most 255 bytes; return it and the position after it. Invalid UTF-8 becomes surrogates."""
    end = _inside(data, at + 1, data[at])
    return str(data[at + 1 : end], "utf-8", "surrogateescape"), end


def unpack_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Read one value after its type letter; return it and the position after it."""
    kind = data[at]
    at += 1
    number = _NUMBERS.get(kind)
    if number is not None:
        return number.unpack_from(data, at)[0], at + number.size
    if kind in b"SxA":
        end = _inside(data, at + 4, _U32.unpack_from(data, at)[0])
        return _sized(kind, data, at + 4, end, depth)
    if kind == ord("F"):
        return unpack_table(data, at, _deeper(depth))
    if kind == ord("V"):
        return None, at
    return _unpack_rare(kind, data, at)


def _sized(kind: int, data: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    if kind == ord("x"):
        return data[at:end], end
    if kind == ord("S"):
        return str(data[at:end], "utf-8", "surrogateescape"), end
    values = []
    while at < end:
        value, at = unpack_value(data, at, _deeper(depth))
        values.append(value)
    return values, at


def _unpack_rare(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind == ord("T"):
        return _time(struct.unpack_from(">q", data, at)[0]), at + 8
    if kind == ord("D"):
        decimals, raw = _DECIMAL.unpack_from(data, at)
        return Decimal(raw).scaleb(-decimals), at + _DECIMAL.size
    raise ValueError(f"{kind:#x} is not a type of AMQP")


def _time(seconds: int) -> datetime | int:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return seconds


def _inside(data: bytes, at: int, length: int) -> int:
    if at + length > len(data):
        raise ValueError(f"{length} bytes announced, {len(data) - at} present")
    return at + length


def _deeper(depth: int) -> int:
    if depth >= DEPTH_LIMIT:
        raise ValueError(f"tables nested more than {DEPTH_LIMIT} deep")
    return depth + 1
