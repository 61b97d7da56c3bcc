"""Records of the `status` log: who is there, with the heartbeat inside, and which requests nobody wants any more.

Who is silent for three periods is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from broker.messages import Record

VERSION = 1
HEARTBEAT_S = 2.0
FULL_EVERY_S = 30.0
SILENT_AFTER_S = 3 * HEARTBEAT_S

Part = Literal["gateway", "router", "learner", "catalog", "replica", "monitors"]
State = Literal["starting", "loading", "ready", "draining", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a process says of itself every `HEARTBEAT_S`.

    `stats` is what a replica has computed (see `replica_statistics`), empty before it has. `full` carries what changes
    seldom (a model's configuration and tensors); it is sent at a change and every `FULL_EVERY_S`, and is empty in
    between.
    """

    instance: str
    part: Part
    state: State
    at_us: int
    pid: int = 0
    metrics_port: int = 0
    model: str = ""
    version: int = 0
    in_flight: int = 0
    error: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)


def write_announcement(announcement: Announcement) -> bytes:
    """Write an announcement."""
    return orjson.dumps({"v": VERSION, "kind": "announcement", **{k: getattr(announcement, k) for k in _FIELDS}})


def read_status(record: Record) -> Announcement | None:
    """Read a record; None for one of a kind or version that this process does not know."""
    try:
        data = orjson.loads(record.body)
        if data.pop("v") != VERSION or data.pop("kind") != "announcement":
            return None
        return Announcement(**{name: data[name] for name in _FIELDS if name in data})
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None


class Cancel(NamedTuple):
    """A request that nobody wants any more, and until when that has to be remembered: its deadline."""

    uid: bytes
    until_us: int


def write_cancels(cancels: Iterable[Cancel]) -> bytes:
    """Write a record of cancels."""
    return orjson.dumps(
        {"v": VERSION, "kind": "cancel", "requests": [[cancel.uid.hex(), cancel.until_us] for cancel in cancels]}
    )


def read_cancels(record: Record) -> list[Cancel]:
    """Read a record; nothing for one of another kind or version."""
    try:
        data = orjson.loads(record.body)
        if data["v"] != VERSION or data["kind"] != "cancel":
            return []
        return [Cancel(bytes.fromhex(uid), int(until_us)) for uid, until_us in data["requests"]]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return []


_FIELDS = tuple(Announcement.__dataclass_fields__)
