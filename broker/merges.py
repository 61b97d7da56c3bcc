"""`millrace.merge.v1`: one list made of several rankings, and who gets the credit for a click in it."""

from __future__ import annotations

from dataclasses import dataclass

from broker.messages import Record

TYPE = "millrace.merge.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    uid: bytes
    key: str
    policy: str
    snapshot: int
    mask: int
    method: str
    rankers: tuple[str, ...]
    used: tuple[str, ...]
    items: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    credits: tuple[tuple[float, ...], ...]
    accepted_us: int
    at_us: int


def read_merge(record: Record) -> Merge | None:
    return None
