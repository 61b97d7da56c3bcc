"""Dead letters: the messages in `dead.<queue>`, read as far as possible, and the messages that replay them.

No part of a dead letter can be trusted: it may have been buried because it could not be read, and a client's own
headers are beside those of Millrace.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from broker.channels import Channels
from broker.errors import InvalidRequest
from broker.messages import Message
from broker.protocol.bundle import requests_in, single
from broker.protocol.header import Request
from broker.protocol.ids import uid_text

MARK = "millrace-dead-"
LOST_HEADERS = "millrace-unreadable"  # written by an adapter if a message's properties could not be read
UNRECORDED = "unrecorded"  # the broker itself buried it, after its own limit of deliveries
UNREADABLE = "unreadable"
TEXT_LIMIT = 1000
ID_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One buried message. `requests` is empty for a client's own message, and for one that cannot be read."""

    message: Message
    origin: str  # the queue that it came from and is replayed to
    reason: str
    attempts: int
    error: str
    at_us: int | None  # the time of its burial; None if it was not recorded
    endpoint: str
    requests: tuple[Request, ...] = ()
    unreadable: str = ""  # the error if its requests cannot be read
    stuck: str = ""  # the reason if it cannot be replayed

    @property
    def ids(self) -> tuple[str, ...]:
        """The names that people use for it: its request ids, or a hash of its bytes."""
        if self.requests:
            return tuple(uid_text(request.uid) for request in self.requests)
        digest = hashlib.blake2b(self.message.header, digest_size=ID_BYTES)
        digest.update((self.message.message_id or "").encode("utf-8", "replace") + b"\0" + self.message.body)
        return (f"raw-{digest.hexdigest()}",)

    @property
    def size(self) -> int:
        """The size of its body in bytes."""
        return len(self.message.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Selects dead letters; an empty field matches all of them."""

    reason: str = ""
    endpoint: str = ""
    ids: frozenset[str] = frozenset()
    before_us: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Return True if a letter matches; with `ids`, only if all requests of its bundle do."""
        return (
            self.reason in ("", letter.reason)
            and self.endpoint in ("", letter.endpoint)
            and (not self.ids or self.ids.issuperset(letter.ids))
            and (self.before_us is None or (letter.at_us is not None and letter.at_us < self.before_us))
        )

    def splits(self, letter: DeadLetter) -> bool:
        """Return True if `ids` names some but not all requests of a bundle: only whole messages can be moved."""
        return bool(self.ids) and not self.ids.issuperset(letter.ids) and not self.ids.isdisjoint(letter.ids)


def read_dead_letter(message: Message, channels: Channels) -> DeadLetter:
    """Read a message of a dead queue; an error of reading goes into `unreadable`, and is never raised."""
    headers = message.headers
    own = channels.prefix + message.queue.removeprefix(channels.dead(""))
    named = _text(headers.get(f"{MARK}queue", own))
    letter = DeadLetter(
        message=message,
        origin=named,
        reason=_text(headers.get(f"{MARK}reason", UNRECORDED)),
        attempts=_number(headers.get(f"{MARK}attempts")) or 0,
        error=_text(headers.get(f"{MARK}error", "")),
        at_us=_number(headers.get(f"{MARK}at-us")),
        endpoint="",
    )
    if channels.dead(named) != message.queue or not channels.is_ours(named):
        letter = replace(letter, origin=own, stuck=f"its header names {named!r}, which has another dead queue")
    if LOST_HEADERS in headers:
        why = f"its properties cannot be read ({_text(headers[LOST_HEADERS])})"
        return replace(letter, reason=UNREADABLE, unreadable=why, stuck=f"{why}: its headers would be lost")
    clients = channels.requests("")
    if own.startswith(clients):
        return replace(letter, endpoint=own.removeprefix(clients))
    return _with_requests(letter)


def replay_messages(letter: DeadLetter, now_us: int, allowed_us: Callable[[str], int]) -> list[Message]:
    """Return the messages that replay a letter as if it had never been tried.

    Requests keep their uid and their decision, and become one message each; `allowed_us` returns the time that requests
    of an endpoint may take from now. Other messages are sent as they came, without the headers of their burial.
    """
    if letter.requests:
        return [
            single(
                letter.origin,
                request._replace(attempts=0, deadline_us=now_us + allowed_us(request.route.endpoint)),
            )
            for request in letter.requests
        ]
    return [replace(letter.message, queue=letter.origin, headers=_without_marks(letter.message.headers))]


def body_of(letters: Sequence[DeadLetter], uid: str) -> bytes | None:
    """Return the body of the request or message with the name `uid`; None if there is none."""
    for letter in letters:
        if uid in letter.ids:
            request = letter.requests[letter.ids.index(uid)] if letter.requests else None
            return bytes(request.body) if request else letter.message.body
    return None


def _with_requests(letter: DeadLetter) -> DeadLetter:
    try:
        requests = tuple(requests_in(letter.message))
    except (InvalidRequest, struct.error) as exc:
        return replace(letter, unreadable=str(exc))
    if not requests:
        return replace(letter, unreadable="millrace bundle: it has no requests")
    endpoints = {request.route.endpoint for request in requests}
    return replace(letter, requests=requests, endpoint=endpoints.pop() if len(endpoints) == 1 else "")


def _without_marks(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if not name.startswith(MARK)}


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:TEXT_LIMIT]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None
