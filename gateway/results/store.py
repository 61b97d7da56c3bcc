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

from broker.protocol.header import Answer, Status

FREEING = frozenset({Status.OVERLOADED, Status.EXPIRED, Status.CANCELLED})  # no result: the key is free again


class KeyClaim(NamedTuple):
    """An idempotency key in its scope, and what it was given for."""

    scope: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """What the store knows of a request."""

    uid: bytes
    deadline_us: int
    digest: bytes = b""
    published: bool = False  # the broker has said that it has the request
    status: Status | None = None  # none: there is no answer
    answer: Answer | None = None  # none: there is none, or it is not kept any more
    dropped: bool = False


class ResultsStore(ABC):
    """Where pending requests and their answers are. What a method has returned from outlives kill -9 and power loss.

    Every method raises Unreachable when the store cannot be used.
    """

    @abstractmethod
    async def open(self) -> None:
        """Reach the store."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The name of this store, the same for all who share it; known once it is open."""

    @abstractmethod
    async def begin(
        self, uid: bytes, deadline_us: int, claim: KeyClaim | None, *, lapsed_us: int
    ) -> StoredResult | None:
        """Store a request as pending. Where another one holds the claim, return that one and store nothing.

        The claim of a request that has no answer and whose deadline was before `lapsed_us` has lapsed.
        """

    @abstractmethod
    async def claimed(self, claim: KeyClaim) -> StoredResult | None:
        """Return the request that holds a claim."""

    @abstractmethod
    async def publish(self, uid: bytes) -> None:
        """Note that the broker has a request."""

    @abstractmethod
    async def withdraw(self, uid: bytes) -> None:
        """Forget a request that was not published."""

    @abstractmethod
    async def end(self, answers: Sequence[Answer]) -> list[bool]:
        """Store answers; tells for each whether it was the first of a pending request, any other is dropped."""

    @abstractmethod
    async def find(self, uids: Sequence[bytes]) -> dict[bytes, StoredResult]:
        """Return what is known of these requests."""

    @abstractmethod
    async def sweep(self) -> int:
        """Drop what was kept long enough; returns the bytes in use."""


def claim_of(
    key: bytes, *, tenant: str, endpoint: str, pin: str, json_length: int | None, body: bytes | memoryview
) -> KeyClaim:
    """Return the claim of an idempotency key for a request, with the arm that it pins if it does."""
    scope = hashlib.blake2b(b"\0".join((tenant.encode(), endpoint.encode(), key)), digest_size=16)
    digest = hashlib.blake2b(f"{pin}\0{json_length}\0".encode(), digest_size=32)
    digest.update(body)
    return KeyClaim(scope.digest(), digest.digest())
