"""The names and kinds of every channel, in one place.

A queue is settled once, by competing consumers. A log is append-only, read by any number of readers.
All names carry the installation's prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from broker.errors import Misconfigured

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\.")


class Kind(Enum):
    """What a channel is, hence how a broker keeps it."""

    QUEUE = "queue"  # durable, settled once
    TRANSIENT = "transient"  # a queue that dies with the process that declared it
    RESULTS = "results"  # durable; when full, the oldest goes
    LOG = "log"  # append-only, trimmed by size
    DECLARED = "declared"  # append-only, never trimmed
    STATUS = "status"  # append-only, minutes


LOGS = frozenset({Kind.LOG, Kind.DECLARED, Kind.STATUS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a queue may hold before it refuses; 0 means no limit."""

    messages: int = 0
    bytes: int = 0


NO_LIMITS = Limits()


def check_name(what: str, name: object) -> str:
    """Return `name` if it may name an endpoint, a model or an arm; raise `Misconfigured` otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Misconfigured(
            f"{what} {name!r}: a name is 1 to 63 letters, digits, '_' or '-', and starts with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Channels:
    """Every channel name of one installation."""

    prefix: str = "millrace."

    def __post_init__(self) -> None:
        if not PREFIX.fullmatch(self.prefix):
            raise Misconfigured(f"prefix {self.prefix!r}: letters, digits, '_', '-' and '.', and a '.' at its end")

    def requests(self, endpoint: str) -> str:
        """Where clients of the queue write requests for an endpoint."""
        return f"{self.prefix}requests.{endpoint}"

    def inputs(self, model: str, version: int) -> str:
        """The one queue of a model version's processors."""
        return f"{self.prefix}inputs.{model}.{version}"

    def retry(self, queue: str) -> str:
        """Where requests wait that came back from a processor of `queue`: they run alone."""
        return f"{self.prefix}retry.{queue.removeprefix(self.prefix)}"

    def dead(self, queue: str) -> str:
        """Where the buried messages of `queue` lie; what dies in its retry lane lies with them."""
        return f"{self.prefix}dead.{queue.removeprefix(self.prefix).removeprefix('retry.')}"

    def delay(self, queue: str, step_ms: int) -> str:
        """Where messages for `queue` wait for `step_ms` on brokers without delays of their own."""
        return f"{self.prefix}delay.{step_ms}.{queue.removeprefix(self.prefix)}"

    def results(self, endpoint: str) -> str:
        """The output queue: answers to requests without a reply address."""
        return f"{self.prefix}results.{endpoint}"

    def answers(self, instance: str) -> str:
        """Answers for the plain waits of one process; it dies with it."""
        return f"{self.prefix}answers.{instance}"

    def stored(self, store: str) -> str:
        """Answers that go into one results store: any gateway that shares it takes them."""
        return f"{self.prefix}stored.{store}"

    def events(self, endpoint: str) -> str:
        """The log of an endpoint's rows and feedback."""
        return f"{self.prefix}events.{endpoint}"

    @property
    def declared(self) -> str:
        """The log of declared state."""
        return f"{self.prefix}declared"

    @property
    def status(self) -> str:
        """The log of announcements and heartbeats."""
        return f"{self.prefix}status"

    def is_ours(self, queue: str) -> bool:
        """Tell whether a queue belongs to this installation, whatever it is for."""
        return queue.startswith(self.prefix)

    def may_be_answered_at(self, queue: str) -> bool:
        """Tell whether a client may name `queue` as its reply address."""
        return not self.is_ours(queue) or queue.startswith(f"{self.prefix}results.")

    def kind(self, channel: str) -> Kind:
        """Tell what a channel is from its name."""
        first = channel.removeprefix(self.prefix).split(".", 1)[0]
        return _KINDS.get(first, Kind.QUEUE)


_KINDS = {
    "answers": Kind.TRANSIENT,
    "results": Kind.RESULTS,
    "events": Kind.LOG,
    "declared": Kind.DECLARED,
    "status": Kind.STATUS,
}
