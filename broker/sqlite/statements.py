"""The adapter's work inside one transaction, as functions of a connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from broker.base import MESSAGE_LIMIT_BYTES
from broker.channels import LOGS, Channels, Kind, Limits
from broker.messages import FULL, NO_QUEUE, SAFE, TOO_LARGE, Message, Outcome
from broker.protocol.ids import now_us
from broker.sqlite import properties
from broker.sqlite.ownership import drop_channel
from broker.sqlite.schema import ASLEEP, READY
from broker.support.database import Connection, fetch_all, fetch_one

STATUS_KEEP_US = 10 * 60 * 1_000_000
LOG_LIMIT_BYTES = 1 << 30
RESULTS_LIMIT = 10_000

Row = tuple[int, int, int, bytes, bytes, bytes]


@dataclass(slots=True)
class _Channel:
    id: int
    kind: Kind
    limit_messages: int
    limit_bytes: int
    requests: int
    bytes: int
    next_offset: int


def declare(connection: Connection, name: str, kind: Kind, limits: Limits, owner: int) -> None:
    """Make a channel if it does not exist; new limits replace the old ones of one that does."""
    messages, size = limits.messages, limits.bytes
    given = bool(messages or size)
    if kind is Kind.RESULTS and not messages:
        messages = RESULTS_LIMIT
    if kind is Kind.LOG and not size:
        size = LOG_LIMIT_BYTES
    connection.execute(
        "INSERT INTO channels (name, kind, owner, limit_messages, limit_bytes) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET limit_messages = excluded.limit_messages, limit_bytes = excluded.limit_bytes"
        " WHERE ?",
        (name, kind.value, owner if kind is Kind.TRANSIENT else None, messages, size, given),
    )


def present(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return those of these channels that exist."""
    sql = "SELECT name FROM channels WHERE name IN (SELECT value FROM json_each(?))"
    return {name for (name,) in fetch_all(connection, sql, (orjson.dumps(list(names)).decode(),))}


def delete(connection: Connection, name: str) -> None:
    """Delete a channel with all its messages and records, if it exists."""
    for (channel,) in fetch_all(connection, "SELECT id FROM channels WHERE name = ?", (name,)):
        drop_channel(connection, channel)


def insert(connection: Connection, messages: Sequence[Message]) -> list[Outcome]:
    """Write messages into their queues and logs; return one outcome for each message."""
    outcomes = [NO_QUEUE] * len(messages)
    by_channel: defaultdict[str, list[int]] = defaultdict(list)
    for index, message in enumerate(messages):
        if len(message.body) > MESSAGE_LIMIT_BYTES:
            outcomes[index] = TOO_LARGE
        else:
            by_channel[message.queue].append(index)
    for name, indexes in by_channel.items():
        channel = _find(connection, name)
        if channel is None:
            continue
        write = _append if channel.kind in LOGS else _enqueue
        for index, outcome in zip(indexes, write(connection, channel, [messages[i] for i in indexes]), strict=True):
            outcomes[index] = outcome
    return outcomes


def take(connection: Connection, name: str, owner: int, limit: int) -> tuple[list[Row], float]:
    """Give up to `limit` ready messages to `owner`; also return the seconds until the next delayed message is due."""
    pause_s = wake_delayed(connection)
    rows = fetch_all(
        connection,
        "SELECT w.id, w.came_back, w.count, p.header, p.body, p.properties FROM waiting w JOIN payload p ON p.id = w.id"
        " WHERE w.owner = 0 AND w.channel = (SELECT id FROM channels WHERE name = ?)"
        " ORDER BY w.priority DESC, w.id LIMIT ?",
        (name, limit),
    )
    connection.executemany("UPDATE waiting SET owner = ? WHERE id = ?", [(owner, row[0]) for row in rows])
    return rows, pause_s


def wake_delayed(connection: Connection) -> float:
    """Make the delayed messages ready that are due; return the seconds until the next one, inf if there is none."""
    now = now_us()
    first = fetch_one(connection, "SELECT min(ready_at_us) FROM waiting WHERE owner = -1")[0]
    if first is not None and first <= now:
        connection.execute("UPDATE waiting SET owner = ? WHERE owner = -1 AND ready_at_us <= ?", (READY, now))
        first = fetch_one(connection, "SELECT min(ready_at_us) FROM waiting WHERE owner = -1")[0]
    return float("inf") if first is None else max(0.001, (first - now) / 1e6)


def settle(connection: Connection, ids: Sequence[int], owner: int) -> None:
    """Delete the messages that `owner` still holds."""
    gone = fetch_all(
        connection,
        "DELETE FROM waiting WHERE owner = ? AND id IN (SELECT value FROM json_each(?))"
        " RETURNING id, channel, count, size",
        (owner, orjson.dumps(ids).decode()),
    )
    _forget(connection, gone)


def give_back(connection: Connection, ids: Sequence[int], owner: int) -> None:
    """Make the messages that `owner` still holds ready again, as ones that came back."""
    connection.execute(
        "UPDATE waiting SET owner = 0, came_back = came_back + 1 WHERE owner = ?"
        " AND id IN (SELECT value FROM json_each(?))",
        (owner, orjson.dumps(ids).decode()),
    )


def listeners(connection: Connection, names: Iterable[str]) -> list[tuple[int, str]]:
    """Return (port, channel) of every process that listens to one of the channels `names`."""
    return fetch_all(
        connection,
        "SELECT port, channel FROM listeners WHERE channel IN (SELECT value FROM json_each(?))",
        (orjson.dumps(list(names)).decode(),),
    )


def trim_status(connection: Connection, channels: Channels) -> None:
    """Delete the records of the status log that are older than `STATUS_KEEP_US`."""
    connection.execute(
        "DELETE FROM records WHERE channel = (SELECT id FROM channels WHERE name = ?) AND at_us < ?",
        (channels.status, now_us() - STATUS_KEEP_US),
    )


def _find(connection: Connection, name: str) -> _Channel | None:
    row = fetch_one(
        connection,
        "SELECT id, kind, limit_messages, limit_bytes, requests, bytes, next_offset FROM channels WHERE name = ?",
        (name,),
    )
    return _Channel(row[0], Kind(row[1]), *row[2:]) if row else None


def _enqueue(connection: Connection, channel: _Channel, messages: Sequence[Message]) -> list[Outcome]:
    """Write as many messages as the queue's limits allow, in order; an output queue drops its oldest instead."""
    now = now_us()
    outcomes, narrow, wide = [], [], []
    requests, size = channel.requests, channel.bytes
    drops = channel.kind is Kind.RESULTS
    first = fetch_one(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'waiting'")
    number = first[0] if first else 0
    for message in messages:
        length = len(message.body) + len(message.header)
        if not drops and _over(channel, requests + message.count, size + length):
            outcomes.append(FULL)
            continue
        number += 1
        requests, size = requests + message.count, size + length
        asleep = message.delay_s > 0
        ready_at = now + int(message.delay_s * 1e6) if asleep else now
        narrow.append(
            (number, channel.id, ASLEEP if asleep else READY, ready_at, message.priority, message.count, length)
        )
        wide.append((number, message.header, message.body, properties.pack(message)))
        outcomes.append(SAFE)
    connection.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?, 0, ?, ?, ?)", narrow)
    connection.executemany("INSERT INTO payload VALUES (?, ?, ?, ?)", wide)
    connection.execute("UPDATE channels SET requests = ?, bytes = ? WHERE id = ?", (requests, size, channel.id))
    if drops and _over(channel, requests, size):
        _drop_oldest(connection, channel, requests - channel.limit_messages)
    return outcomes


def _over(channel: _Channel, requests: int, size: int) -> bool:
    return bool(channel.limit_messages and requests > channel.limit_messages) or bool(
        channel.limit_bytes and size > channel.limit_bytes
    )


def _drop_oldest(connection: Connection, channel: _Channel, number: int) -> None:
    gone = fetch_all(
        connection,
        "DELETE FROM waiting WHERE id IN (SELECT id FROM waiting WHERE channel = ? AND owner = 0 ORDER BY id LIMIT ?)"
        " RETURNING id, channel, count, size",
        (channel.id, max(number, 1)),
    )
    _forget(connection, gone)


def _forget(connection: Connection, gone: Sequence[tuple[int, int, int, int]]) -> None:
    connection.executemany("DELETE FROM payload WHERE id = ?", [(row[0],) for row in gone])
    less: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for _, channel, count, size in gone:
        less[channel][0] += count
        less[channel][1] += size
    connection.executemany(
        "UPDATE channels SET requests = requests - ?, bytes = bytes - ? WHERE id = ?",
        [(count, size, channel) for channel, (count, size) in less.items()],
    )


def _append(connection: Connection, channel: _Channel, messages: Sequence[Message]) -> list[Outcome]:
    now, first = now_us(), channel.next_offset
    connection.executemany(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
        [(channel.id, first + i, now, m.body, properties.pack_headers(m.headers)) for i, m in enumerate(messages)],
    )
    size = channel.bytes + sum(len(message.body) for message in messages)
    if channel.kind is Kind.LOG and channel.limit_bytes and size > channel.limit_bytes:
        size -= _trim(connection, channel.id, size - channel.limit_bytes * 9 // 10)
    connection.execute(
        "UPDATE channels SET next_offset = ?, bytes = ? WHERE id = ?", (first + len(messages), size, channel.id)
    )
    return [SAFE] * len(messages)


def _trim(connection: Connection, channel: int, excess: int) -> int:
    """Delete a log's oldest records until `excess` bytes are gone; return the number of deleted bytes."""
    gone = last = 0
    for offset, length in connection.execute(
        "SELECT offset, length(body) FROM records WHERE channel = ? ORDER BY offset", (channel,)
    ):
        gone, last = gone + length, offset
        if gone >= excess:
            break
    connection.execute("DELETE FROM records WHERE channel = ? AND offset <= ?", (channel, last))
    return gone
