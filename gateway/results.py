"""The results store: requests whose answers outlive the gateway that took them in, and the keys that clients gave.

A request is stored as pending before it is published; its first answer ends it, whichever gateway takes that answer.
An answer is kept for a while, then only that it was there; then nothing.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker.header import Answer, Status

FREEING = frozenset({Status.OVERLOADED, Status.EXPIRED, Status.CANCELLED})  # nothing was computed: the key is free


class Claim(NamedTuple):
    """An idempotency key in its scope, and what it was given for."""

    scope: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the store knows of a request."""

    uid: bytes
    deadline_us: int
    digest: bytes = b""
    answer: Answer | None = None
    dropped: bool = False  # the answer was there, and is not kept any more

    @property
    def pending(self) -> bool:
        """Tell whether no answer has come."""
        return self.answer is None and not self.dropped


class Results(ABC):
    """Where pending requests and their answers are. What a method has returned from outlives kill -9 and power loss.

    Every method raises Unreachable when the store cannot be used.
    """

    @abstractmethod
    async def open(self) -> None:
        """Reach the store."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it."""

    @abstractmethod
    async def begin(self, uid: bytes, deadline_us: int, claim: Claim | None) -> Held | None:
        """Store a request as pending. Where another one holds the claim, return that one and store nothing.

        A claim lapses with the deadline of a request that was not answered.
        """

    @abstractmethod
    async def withdraw(self, uid: bytes) -> None:
        """Forget a request that was not published."""

    @abstractmethod
    async def end(self, answers: Sequence[Answer]) -> list[bool]:
        """Store answers; tells for each whether it was the first of a pending request, any other is dropped."""

    @abstractmethod
    async def find(self, uids: Sequence[bytes]) -> dict[bytes, Held]:
        """Return what is known of these requests."""

    @abstractmethod
    async def sweep(self) -> int:
        """Drop what was kept long enough; returns the bytes in use."""


def claim_of(
    key: bytes, *, tenant: str, endpoint: str, pin: str, json_length: int | None, body: bytes | memoryview
) -> Claim:
    """Return the claim of an idempotency key for a request, with the arm that it pins if it does."""
    scope = hashlib.blake2b(b"\0".join((tenant.encode(), endpoint.encode(), key)), digest_size=16)
    digest = hashlib.blake2b(f"{pin}\0{json_length}\0".encode(), digest_size=32)
    digest.update(body)
    return Claim(scope.digest(), digest.digest())
