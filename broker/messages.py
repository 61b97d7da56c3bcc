"""The messages, deliveries and records that travel through a broker, and the outcomes of publishes."""

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
    """One broker message for `queue`.

    `header` is the binary struct of `protocol/header.py`, which only Millrace writes. Any client may set the other
    fields.
    """

    queue: str
    body: bytes
    header: bytes = b""
    count: int = 1  # the number of requests or answers inside
    headers: Mapping[str, Any] = field(default_factory=lambda: NO_HEADERS)
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    message_id: str | None = None
    reply_to: str | None = None
    user_id: str | None = None
    timestamp_s: int | None = None
    priority: int = 0
    delay_s: float = 0.0  # brokers without delays of any length use a step of `DELAY_LADDER_S`


@dataclass(slots=True, eq=False)
class Delivery:
    """A message taken from a queue and not settled yet. `came_back` is the number of its earlier deliveries."""

    message: Message
    tag: int
    came_back: int
    consumer: object


class Settlement(Enum):
    """The result of a publish."""

    SAFE = "safe"  # the broker has confirmed it
    REFUSED = "refused"  # the broker did not take it, for a known reason
    UNKNOWN = "unknown"  # the connection was lost before the confirm


class Reason(Enum):
    """Why a message was refused."""

    FULL = "full"
    TOO_LARGE = "too large"
    NO_QUEUE = "no such queue"
    STOPPED = "the broker takes no messages now"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one publish, with a reason if it was refused."""

    settlement: Settlement
    reason: Reason | None = None

    def __str__(self) -> str:
        return self.reason.value if self.reason else self.settlement.value

    @property
    def safe(self) -> bool:
        """True if the broker has confirmed the message."""
        return self.settlement is Settlement.SAFE

    @property
    def is_full(self) -> bool:
        """True if there was no room in the queue, or in the broker as a whole."""
        return self.reason in (Reason.FULL, Reason.STOPPED)


SAFE = Outcome(Settlement.SAFE)
UNKNOWN = Outcome(Settlement.UNKNOWN)
FULL = Outcome(Settlement.REFUSED, Reason.FULL)
TOO_LARGE = Outcome(Settlement.REFUSED, Reason.TOO_LARGE)
NO_QUEUE = Outcome(Settlement.REFUSED, Reason.NO_QUEUE)
STOPPED = Outcome(Settlement.REFUSED, Reason.STOPPED)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a log."""

    offset: int
    body: bytes
    headers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Depth:
    """The ready broker messages of a queue, and an estimate of the requests inside them."""

    messages: int
    requests: int
