"""All errors, sorted by the caller's next step.

MillraceError
├── Rejected          do not send this again as it is           status `invalid`
│   ├── InvalidRequest      the bytes, a tensor, a header or an address is wrong
│   ├── NotFound            no such endpoint, arm, model or version
│   └── TooLarge            over a size limit
├── SlowDown          send it again later                       status `overloaded`
│   └── QueueFull           a limit is reached; may have a time to retry after
├── TryAgain          the connection failed, not the request    status `failed`
│   ├── Unreachable         no broker answers
│   │   ├── Damaged         its file is damaged or not a database
│   │   ├── DiskFull        its disk is full: nothing was written
│   │   └── Locked          another process holds the lock of its file
│   ├── Unavailable         nothing can serve this now
│   ├── Refused             the broker does not allow it until a person fixes something there
│   └── Expired             the deadline has passed             status `expired`
├── Cancelled         the client does not want it any more      status `cancelled`
├── Failed            the model could not compute it            status `failed`
├── Gap               records of a log are gone
└── Misconfigured     a person must change a file or a flag
"""

from __future__ import annotations


class MillraceError(Exception):
    """Any error of Millrace; `status` is the status of an answer with this error."""

    status = "failed"


class Rejected(MillraceError):
    """The request itself is wrong; sending it again cannot succeed."""

    status = "invalid"


class InvalidRequest(Rejected):
    """Bytes, tensors, headers or addresses are malformed."""


class NotFound(Rejected):
    """The request names an endpoint, arm, model or version that does not exist."""


class TooLarge(Rejected):
    """The message is over a limit of bytes; it is never retried."""


class SlowDown(MillraceError):
    """The request is valid, but cannot be accepted now."""

    status = "overloaded"


class QueueFull(SlowDown):
    """A limit is reached. `retry_after_s` is the time after which another try may succeed, if it is known."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TryAgain(MillraceError):
    """The connection or the service failed, not the request."""


class Unreachable(TryAgain):
    """No broker answers."""


class Damaged(Unreachable):
    """A file that should be a database is damaged or not a database."""


class DiskFull(Unreachable):
    """The broker's disk is full: nothing was written, and nothing will be until there is room."""


class Locked(Unreachable):
    """Another process has held the write lock of a file for too long; nothing was done, and it can be tried again."""


class Unavailable(TryAgain):
    """No service that could handle the request is ready."""


class Refused(TryAgain):
    """The broker refuses one channel or one operation: a permission, a quota, a queue of another kind.

    A person has to fix it at the broker. Until then the operation is retried, and everything else continues.
    """


class Expired(TryAgain):
    """The deadline passed before the answer arrived."""

    status = "expired"


class Cancelled(MillraceError):
    """The client no longer wants the answer."""

    status = "cancelled"


class Failed(MillraceError):
    """The model could not compute the request."""


class Gap(MillraceError):
    """A log was read below its first offset: records `start` up to (not including) `end` are gone.

    With `end` 0 the log itself is gone, and another one of its name begins: `is_recreated`.
    """

    def __init__(self, channel: str, start: int, end: int) -> None:
        if end:
            text = f"{channel}: records {start} to {end - 1} are no longer kept; reading can continue at {end}"
        else:
            text = f"{channel}: the log was deleted and made again; reading continues at its beginning"
        super().__init__(text)
        self.channel = channel
        self.start = start
        self.end = end

    @property
    def is_recreated(self) -> bool:
        """True if the log was made again, so that its offsets begin at 0."""
        return self.end == 0


class Misconfigured(MillraceError):
    """A mistake in settings, a declaration or a model folder, which a person must fix."""
