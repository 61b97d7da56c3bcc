"""What can go wrong, sorted by what to do next.

MillraceError
├── Rejected          do not send this again as it is           status `invalid`
│   ├── InvalidRequest      the bytes, a tensor, a header or an address is wrong
│   ├── NotFound            no such endpoint, arm, model or version
│   └── TooLarge            over a size limit
├── SlowDown          send it again later                       status `overloaded`
│   └── QueueFull           a limit is reached; says when to come back
├── TryAgain          the way is broken, not the request        status `failed`
│   ├── Unreachable         no broker answers
│   │   ├── Damaged         its file is no database
â   â   âââ DiskFull        its disk is full: nothing was written
â   â   âââ Locked          another process does not let go of its file
│   ├── Unavailable         nothing can serve this now
│   ├── Refused             the broker does not allow it until a person mends something there
│   └── Expired             the time allowed is over            status `expired`
├── Cancelled         nobody wants it any more                  status `cancelled`
├── Failed            the model could not compute it            status `failed`
├── Gap               a log no longer holds what was asked for
└── Misconfigured     a person must change a file or a flag
"""

from __future__ import annotations


class MillraceError(Exception):
    """Every error of ours; `status` is the word that an answer carries for it."""

    status = "failed"


class Rejected(MillraceError):
    """The request is wrong as it stands; sending it again will not help."""

    status = "invalid"


class InvalidRequest(Rejected):
    """Bytes, tensors, headers or addresses that break the contract."""


class NotFound(Rejected):
    """The request names an endpoint, arm, model or version that does not exist."""


class TooLarge(Rejected):
    """The message is over a limit of bytes; it is never retried."""


class SlowDown(MillraceError):
    """The request is fine, but not now."""

    status = "overloaded"


class QueueFull(SlowDown):
    """A limit is reached. `retry_after_s` says when it is worth coming back, where that is known."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TryAgain(MillraceError):
    """The way is broken, not the request."""


class Unreachable(TryAgain):
    """No broker answers."""


class Damaged(Unreachable):
    """A file that is to be a database is none, or is damaged."""


class DiskFull(Unreachable):
    """The disk of the broker is full: nothing was written, and nothing will be until there is room."""


class Locked(Unreachable):
    """Another process holds the write lock of a file for long; nothing was done, and it can be tried again."""


class Unavailable(TryAgain):
    """Nothing that could serve the request is ready."""


class Refused(TryAgain):
    """The broker refuses one channel or one operation: a permission, a quota, a queue of another kind.

    A person mends it at the broker. Until then it is tried again, and everything else goes on.
    """


class Expired(TryAgain):
    """The time allowed was over before the answer was there."""

    status = "expired"


class Cancelled(MillraceError):
    """Nobody wants the answer any more."""

    status = "cancelled"


class Failed(MillraceError):
    """The model could not compute the request."""


class Gap(MillraceError):
    """A log was read below its first offset: records `start` up to (not including) `end` are gone.

    With `end` 0 the log itself is gone, and another one of its name begins: `is_anew`.
    """

    def __init__(self, channel: str, start: int, end: int) -> None:
        if end:
            text = f"{channel}: records {start} to {end - 1} are no longer kept; reading can go on at {end}"
        else:
            text = f"{channel}: the log was deleted and made again; reading goes on at its beginning"
        super().__init__(text)
        self.channel = channel
        self.start = start
        self.end = end

    @property
    def is_anew(self) -> bool:
        """Tell whether the log was made again, so that its offsets begin at 0."""
        return self.end == 0


class Misconfigured(MillraceError):
    """Settings, a declaration or a model folder that a person must mend."""
