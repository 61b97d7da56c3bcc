"""Dead letters: what lies in `dead.<queue>`, read as far as it can be, and as what it goes back.

Nothing in a dead letter can be trusted: it may lie there because it could not be read, and a client's own headers
lie beside ours.
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
LOST_HEADERS = "millrace-unreadable"  # what an adapter writes where a message's properties could not be read
UNRECORDED = "unrecorded"  # the broker itself buried it: past its own limit of deliveries
UNREADABLE = "unreadable"
TEXT_LIMIT = 1000
ID_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One buried message. `requests` is empty for a client's own message, and for one that cannot be read."""

    message: Message
    origin: str  # the queue that it came from, and goes back to
    reason: str
    attempts: int
    error: str
    at_us: int | None  # when it was buried; None: nobody wrote it down
    endpoint: str
    requests: tuple[Request, ...] = ()
    unreadable: str = ""  # why its requests cannot be read
    stuck: str = ""  # why it cannot go back

    @property
    def ids(self) -> tuple[str, ...]:
        """What a person calls it by: its request ids, or a name made from its bytes."""
        if self.requests:
            return tuple(uid_text(request.uid) for request in self.requests)
        digest = hashlib.blake2b(self.message.header, digest_size=ID_BYTES)
        digest.update((self.message.message_id or "").encode("utf-8", "replace") + b"\0" + self.message.body)
        return (f"raw-{digest.hexdigest()}",)

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return len(self.message.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which letters are meant; what is not said does not matter."""

    reason: str = ""
    endpoint: str = ""
    ids: frozenset[str] = frozenset()
    before_us: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is meant: of a bundle, when all of its requests are."""
        return (
            self.reason in ("", letter.reason)
            and self.endpoint in ("", letter.endpoint)
            and (not self.ids or self.ids.issuperset(letter.ids))
            and (self.before_us is None or (letter.at_us is not None and letter.at_us < self.before_us))
        )

    def splits(self, letter: DeadLetter) -> bool:
        """Tell whether only some of a bundle's requests are named: a message is moved whole, or not at all."""
        return bool(self.ids) and not self.ids.issuperset(letter.ids) and not self.ids.isdisjoint(letter.ids)


def read_letter(message: Message, channels: Channels) -> DeadLetter:
    """Read what lies in a dead queue; what cannot be read is said in `unreadable`, never raised."""
    said = message.headers
    own = channels.prefix + message.queue.removeprefix(channels.dead(""))
    named = _text(said.get(f"{MARK}queue", own))
    letter = DeadLetter(
        message=message,
        origin=named,
        reason=_text(said.get(f"{MARK}reason", UNRECORDED)),
        attempts=_number(said.get(f"{MARK}attempts")) or 0,
        error=_text(said.get(f"{MARK}error", "")),
        at_us=_number(said.get(f"{MARK}at-us")),
        endpoint="",
    )
    if channels.dead(named) != message.queue or not channels.is_ours(named):
        letter = replace(letter, origin=own, stuck=f"it says that it came from {named!r}, whose dead lie elsewhere")
    if LOST_HEADERS in said:
        why = f"its properties cannot be read ({_text(said[LOST_HEADERS])})"
        return replace(letter, reason=UNREADABLE, unreadable=why, stuck=f"{why}: it would go back without its headers")
    clients = channels.requests("")
    if own.startswith(clients):
        return replace(letter, endpoint=own.removeprefix(clients))
    return _with_requests(letter)


def again(letter: DeadLetter, now_us: int, allowed_us: Callable[[str], int]) -> list[Message]:
    """Return what is published so that a letter is tried again, as if never tried.

    Requests keep their uid and their decision, and go one by one; `allowed_us` tells by endpoint how long they may
    take from now. What is no request of ours, or cannot be read, goes back as it came, without what the burial wrote.
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


def body_called(letters: Sequence[DeadLetter], uid: str) -> bytes | None:
    """Return the body of the request or message that is called `uid`."""
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
        return replace(letter, unreadable="millrace bundle: it is empty")
    endpoints = {request.route.endpoint for request in requests}
    return replace(letter, requests=requests, endpoint=endpoints.pop() if len(endpoints) == 1 else "")


def _without_marks(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if not name.startswith(MARK)}


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:TEXT_LIMIT]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None
