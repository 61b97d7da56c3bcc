"""What travels through a broker: messages, deliveries, records and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

MESSAGE_LIMIT_BYTES = 8 * 1024 * 1024
"""The largest body that a message may have, on every broker."""

NO_HEADERS: Mapping[str, Any] = MappingProxyType({})
JSON = "application/json"
BINARY = "application/octet-stream"
JSON_LENGTH_HEADER = "inference-header-content-length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One broker message for `queue`. `header` is our struct (see header.py), the rest is any client's."""

    queue: str
    body: bytes
    header: bytes = b""
    count: int = 1  # requests or answers inside
    headers: Mapping[str, Any] = field(default_factory=lambda: NO_HEADERS)
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    message_id: str | None = None
    reply_to: str | None = None
    user_id: str | None = None
    timestamp_s: int | None = None
    priority: int = 0
    delay_s: float = 0.0  # not before this time; brokers round it up to a step of their ladder


@dataclass(slots=True, eq=False)
class Delivery:
    """A message taken from a queue, until it is settled. `came_back` counts the deliveries before this one."""

    message: Message
    tag: int
    came_back: int
    consumer: object


class Settlement(Enum):
    """What became of a published message."""

    SAFE = "safe"  # the broker has it
    REFUSED = "refused"  # it has not, and said why
    UNKNOWN = "unknown"  # the connection was lost in between


class Reason(Enum):
    """Why a message was refused."""

    FULL = "full"
    TOO_LARGE = "too large"
    NO_QUEUE = "no such queue"
    STOPPED = "the broker takes no messages now"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one published message, and why if it was refused."""

    verdict: Settlement
    reason: Reason | None = None

    def __str__(self) -> str:
        return self.reason.value if self.reason else self.verdict.value

    @property
    def safe(self) -> bool:
        """Tell whether the broker has the message."""
        return self.verdict is Settlement.SAFE

    @property
    def is_full(self) -> bool:
        """Tell whether there was no room: in the queue, or in the broker as a whole."""
        return self.reason in (Reason.FULL, Reason.STOPPED)


SAFE = Outcome(Settlement.SAFE)
UNKNOWN = Outcome(Settlement.UNKNOWN)
FULL = Outcome(Settlement.REFUSED, Reason.FULL)
TOO_LARGE = Outcome(Settlement.REFUSED, Reason.TOO_LARGE)
NO_QUEUE = Outcome(Settlement.REFUSED, Reason.NO_QUEUE)
STOPPED = Outcome(Settlement.REFUSED, Reason.STOPPED)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a log; `at_us` is when the broker or its writer got it."""

    offset: int
    body: bytes
    headers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in a queue: broker messages that are ready, and the requests inside them (estimated)."""

    messages: int
    requests: int
