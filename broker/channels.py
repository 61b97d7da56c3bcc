"""The names and kinds of all channels.

A queue's messages are settled once, by competing consumers. A log is append-only, and any number of readers read it.
All names start with the installation's prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from broker.errors import Misconfigured

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\.")


class Kind(Enum):
    """The kind of a channel, which decides how a broker stores it."""

    QUEUE = "queue"  # durable, settled once
    TRANSIENT = "transient"  # a queue that is deleted with the process that declared it
    RESULTS = "results"  # durable; when full, it drops its oldest messages
    LOG = "log"  # append-only, trimmed by size
    DECLARED = "declared"  # append-only, never trimmed
    STATUS = "status"  # append-only, kept for minutes


LOGS = frozenset({Kind.LOG, Kind.DECLARED, Kind.STATUS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The capacity of a queue, after which it refuses messages; 0 means no limit."""

    messages: int = 0
    bytes: int = 0


NO_LIMITS = Limits()


def check_name(what: str, name: object) -> str:
    """Return `name` if it is a valid name of an endpoint, a model or an arm; raises `Misconfigured` otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Misconfigured(
            f"{what} {name!r}: a name is 1 to 63 letters, digits, '_' or '-', and starts with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Channels:
    """All channel names of one installation."""

    prefix: str = "millrace."

    def __post_init__(self) -> None:
        if not PREFIX.fullmatch(self.prefix):
            raise Misconfigured(f"prefix {self.prefix!r}: letters, digits, '_', '-' and '.', and a '.' at its end")

    def requests(self, endpoint: str) -> str:
        """The queue of clients' requests for an endpoint."""
        return f"{self.prefix}requests.{endpoint}"

    def inputs(self, model: str, version: int) -> str:
        """The input queue of a model version, shared by its replicas."""
        return f"{self.prefix}inputs.{model}.{version}"

    def retry(self, queue: str) -> str:
        """The queue of requests that came back from a replica of `queue`: each of them runs alone."""
        return f"{self.prefix}retry.{queue.removeprefix(self.prefix)}"

    def dead(self, queue: str) -> str:
        """The queue of the buried messages of `queue` and of its retry queue."""
        return f"{self.prefix}dead.{queue.removeprefix(self.prefix).removeprefix('retry.')}"

    def delay(self, queue: str, step_ms: int) -> str:
        """The queue in which messages for `queue` wait for `step_ms`, on brokers without delayed delivery."""
        return f"{self.prefix}delay.{step_ms}.{queue.removeprefix(self.prefix)}"

    def results(self, endpoint: str) -> str:
        """The output queue: answers to requests without a reply address."""
        return f"{self.prefix}results.{endpoint}"

    def answers(self, instance: str) -> str:
        """The queue of answers to one process; it is deleted with the process."""
        return f"{self.prefix}answers.{instance}"

    def stored(self, store: str) -> str:
        """The queue of answers for one results store: any gateway that shares the store takes them."""
        return f"{self.prefix}stored.{store}"

    def events(self, endpoint: str) -> str:
        """The log of an endpoint's prediction rows and feedback."""
        return f"{self.prefix}events.{endpoint}"

    @property
    def declared(self) -> str:
        """The log of declarations."""
        return f"{self.prefix}declared"

    @property
    def status(self) -> str:
        """The log of announcements and heartbeats."""
        return f"{self.prefix}status"

    def is_ours(self, queue: str) -> bool:
        """Return True if a channel belongs to this installation."""
        return queue.startswith(self.prefix)

    def may_be_answered_at(self, queue: str) -> bool:
        """Return True if a client may use `queue` as its reply address."""
        return not self.is_ours(queue) or queue.startswith(f"{self.prefix}results.")

    def kind(self, channel: str) -> Kind:
        """Return the kind of a channel, from its name."""
        first = channel.removeprefix(self.prefix).split(".", 1)[0]
        return _KINDS.get(first, Kind.QUEUE)


_KINDS = {
    "answers": Kind.TRANSIENT,
    "results": Kind.RESULTS,
    "events": Kind.LOG,
    "declared": Kind.DECLARED,
    "status": Kind.STATUS,
}
