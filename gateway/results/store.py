"""The results store: stored requests with their answers and idempotency keys.

A request is stored as pending before it is published. Its first answer ends it, whichever gateway takes that answer.
An answer is kept for a time; then only the fact that it existed is kept, for the same time; then nothing.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker.protocol.header import Answer, Status

FREEING = frozenset({Status.OVERLOADED, Status.EXPIRED, Status.CANCELLED})  # without a result: the key is free again


class KeyClaim(NamedTuple):
    """An idempotency key: a hash of its scope, and a hash of the request for which it was given."""

    scope: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """The record of a request in the store."""

    uid: bytes
    deadline_us: int
    digest: bytes = b""
    published: bool = False  # the broker has confirmed the request
    status: Status | None = None  # None: there is no answer yet
    answer: Answer | None = None  # None: there is none, or it is no longer kept
    dropped: bool = False


class ResultsStore(ABC):
    """Pending requests and their answers. Once a method has returned, its effect survives kill -9 and power loss.

    Every method raises Unreachable when the store cannot be used.
    """

    @abstractmethod
    async def open(self) -> None:
        """Open the store."""

    @abstractmethod
    async def close(self) -> None:
        """Close the store after the work that was begun."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The name of this store, the same in every gateway that shares it; empty until it is open."""

    @abstractmethod
    async def begin(
        self, uid: bytes, deadline_us: int, claim: KeyClaim | None, *, lapsed_us: int
    ) -> StoredResult | None:
        """Store a request as pending and return None; if another request holds the claim, return that one instead.

        A request without an answer loses its claim if its deadline was before `lapsed_us`.
        """

    @abstractmethod
    async def claimed(self, claim: KeyClaim) -> StoredResult | None:
        """Return the request that holds a claim, or None."""

    @abstractmethod
    async def publish(self, uid: bytes) -> None:
        """Note that the broker has confirmed a request."""

    @abstractmethod
    async def withdraw(self, uid: bytes) -> None:
        """Delete a request that was not published."""

    @abstractmethod
    async def end(self, answers: Sequence[Answer]) -> list[bool]:
        """Store answers. Returns True for each first answer of a pending request; other answers are dropped."""

    @abstractmethod
    async def find(self, uids: Sequence[bytes]) -> dict[bytes, StoredResult]:
        """Return the records of these requests by uid; unknown ones are missing."""

    @abstractmethod
    async def sweep(self) -> int:
        """Drop answers and records that were kept long enough. Returns the bytes in use."""


def claim_of(
    key: bytes, *, tenant: str, endpoint: str, pin: str, json_length: int | None, body: bytes | memoryview
) -> KeyClaim:
    """Return the claim of an idempotency key for a request; `pin` is the pinned arm, or empty."""
    scope = hashlib.blake2b(b"\0".join((tenant.encode(), endpoint.encode(), key)), digest_size=16)
    digest = hashlib.blake2b(f"{pin}\0{json_length}\0".encode(), digest_size=32)
    digest.update(body)
    return KeyClaim(scope.digest(), digest.digest())
