"""HTTP status codes of our errors and statuses, as in Triton; every error body is `{"error": …}`."""

from __future__ import annotations

import math

from broker.errors import (
    Cancelled,
    Expired,
    Failed,
    MillraceError,
    NotFound,
    QueueFull,
    Rejected,
    SlowDown,
    TooLarge,
    TryAgain,
    Unavailable,
    Unreachable,
)
from broker.protocol.header import Status


class ResultExpired(Rejected):
    """The request existed, but it has no answer to fetch, now or later."""


class AlreadyEnded(Rejected):
    """The request has its answer: it cannot be cancelled."""


class KeyReused(Rejected):
    """The idempotency key was given for another request."""


class HeadTooLarge(Rejected):
    """The headers of a request exceed the limit."""


class TargetTooLong(Rejected):
    """The target of a request exceeds the limit."""


class TooSlow(TryAgain):
    """A request did not arrive completely within the time allowed."""


CODES: tuple[tuple[type[MillraceError], int], ...] = (
    (NotFound, 404),
    (TooLarge, 413),
    (ResultExpired, 410),
    (AlreadyEnded, 409),
    (KeyReused, 422),
    (TargetTooLong, 414),
    (HeadTooLarge, 431),
    (TooSlow, 408),
    (Rejected, 400),
    (SlowDown, 429),
    (Expired, 504),
    (Unavailable, 503),
    (Unreachable, 503),
    (Cancelled, 499),
    (Failed, 500),
)
BY_STATUS = {
    Status.OK: 200,
    Status.INVALID: 400,
    Status.EXPIRED: 504,
    Status.FAILED: 500,
    Status.OVERLOADED: 429,
    Status.CANCELLED: 499,
}
RETRY_AFTER_S = 1.0


def code_of(error: MillraceError) -> int:
    """The HTTP status code of an error."""
    return next((code for kind, code in CODES if isinstance(error, kind)), 500)


def retry_after(error: MillraceError) -> str | None:
    """The value of Retry-After in whole seconds; None for an error that a retry will not cure."""
    if code_of(error) not in (429, 503):
        return None
    seconds = error.retry_after_s if isinstance(error, QueueFull) else None
    return str(max(1, math.ceil(RETRY_AFTER_S if seconds is None else seconds)))
