"""The arguments of queues and streams. They are constants of the protocol: every process declares the same ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from broker.channels import LOGS, NO_LIMITS, Channels, Kind, Limits

GIB = 1024**3
DELIVERY_LIMIT = 1000  # a backstop: the processors' own limit of attempts buries a message long before
NO_DELIVERY_LIMIT = 1_000_000  # RabbitMQ 4 drops a message after 20 deliveries by default
RESULTS_LIMIT = 100_000
TRANSIENT_LIFE_MS = 60_000
STATUS_AGE = "10m"
STATUS_SEGMENT_BYTES = 1024**2
SEGMENTS_A_LOG = 8  # a stream is trimmed by whole segments

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for queue .* but current is "
    r"(?:none|(?:the value )?'(?P<value>[^']*)'(?: of type '(?P<type>[^']*)')?)",
    re.DOTALL,
)

_QUORUM = {"x-queue-type": "quorum"}
_STREAM = {"x-queue-type": "stream"}


def arguments(channels: Channels, channel: str, limits: Limits) -> dict[str, Any]:
    """Return the arguments that a channel is declared with."""
    kind = channels.kind(channel)
    if kind in LOGS:
        return _STREAM | _retention(kind, limits)
    if kind is Kind.TRANSIENT:
        # Neither exclusive nor auto-delete: it has to outlive a lost connection of its process, and expires after it.
        return {"x-queue-type": "classic", "x-expires": TRANSIENT_LIFE_MS} | _lengths(limits, "reject-publish")
    if kind is Kind.RESULTS:
        bound = limits if limits != NO_LIMITS else Limits(messages=RESULTS_LIMIT)
        return _QUORUM | {"x-delivery-limit": NO_DELIVERY_LIMIT} | _lengths(bound, "drop-head")
    return _QUORUM | _lengths(limits, "reject-publish") | _backstop(channels, channel)


def delay_arguments(target: str, step_ms: int) -> dict[str, Any]:
    """Return the arguments of a step of the delay ladder: it dead-letters to its target, at least once."""
    return _QUORUM | {"x-message-ttl": step_ms} | _dead_letter_to(target)


def _retention(kind: Kind, limits: Limits) -> dict[str, Any]:
    if kind is Kind.DECLARED:
        return {}
    if kind is Kind.STATUS:
        return {"x-max-age": STATUS_AGE, "x-stream-max-segment-size-bytes": STATUS_SEGMENT_BYTES}
    size = limits.bytes or GIB
    return {"x-max-length-bytes": size, "x-stream-max-segment-size-bytes": max(1, size // SEGMENTS_A_LOG)}


def _lengths(limits: Limits, overflow: str) -> dict[str, Any]:
    lengths: dict[str, Any] = {}
    if limits.messages:
        lengths["x-max-length"] = limits.messages
    if limits.bytes:
        lengths["x-max-length-bytes"] = limits.bytes
    return lengths | {"x-overflow": overflow} if lengths else lengths


def _backstop(channels: Channels, queue: str) -> dict[str, Any]:
    dead_queue = channels.dead(queue)
    if queue.startswith(channels.dead("")):
        return {"x-delivery-limit": NO_DELIVERY_LIMIT}
    return {"x-delivery-limit": DELIVERY_LIMIT} | _dead_letter_to(dead_queue)


def _dead_letter_to(queue: str) -> dict[str, Any]:
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",  # requires the overflow below
        "x-overflow": "reject-publish",
    }


def read_inequivalent(text: str) -> tuple[str | None, str | int | None]:
    """Read which argument of a queue differs, and its value there, from RabbitMQ's words; (None, None) for others.

    They are "inequivalent arg 'NAME' for queue … received … but current is the value 'VALUE' of type 'TYPE'", and end
    in "none" where the queue has no such argument.
    """
    found = _INEQUIVALENT.search(text)
    if found is None:
        return None, None
    value = found["value"]
    if value is not None and found["type"] not in ("longstr", "shortstr"):
        return found["name"], int(value) if value.lstrip("-").isdigit() else value
    return found["name"], value


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return a text with the arguments in which two declarations of a queue differ; empty if they are equal."""
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return ", ".join(
        f"{name} is {found.get(name, 'not set')} and should be {wanted.get(name, 'not set')}" for name in names
    )
