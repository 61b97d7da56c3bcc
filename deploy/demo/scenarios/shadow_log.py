"""Follows the rows of an endpoint: which requests were shadowed, and how both legs ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from broker.base import Broker
from broker.delivery.log_follower import LogFollower
from broker.messages import Record
from broker.protocol.ids import uid_of
from broker.records.events import read_event
from deploy.demo.folder import OUTPUT

SHADOW = "shadow"
COLUMNS = ("uid", "leg", "policy", "status", "accepted_us", "published_us")
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class LoggedLeg:
    """The end of one leg; `label` is its most probable class, -1 without a result."""

    policy: str
    status: str
    latency_s: float
    label: int


class ShadowLog:
    """The logged legs, by request and number of the leg."""

    def __init__(self) -> None:
        self._legs: dict[bytes, dict[int, LoggedLeg]] = {}

    def fold(self, record: Record) -> None:
        """Read a record; the first row of each leg counts."""
        rows: Any = read_event(record)
        if rows is None:
            return
        labels = _labels(rows)
        columns = [rows.column(name).to_pylist() for name in COLUMNS]
        for place, (uid, leg, policy, status, accepted, published) in enumerate(zip(*columns, strict=True)):
            ended = LoggedLeg(
                policy or "", status, (published - accepted) / 1e6, labels[place] if status == "ok" else -1
            )
            self._legs.setdefault(uid, {}).setdefault(leg, ended)

    async def policy_of(self, request_id: str, limit_s: float) -> str:
        """Wait for a request's row and return the policy of its decision; empty after `limit_s` without a row."""
        uid, until = uid_of(request_id), time.monotonic() + limit_s
        while 0 not in self._legs.get(uid, {}) and time.monotonic() < until:  # noqa: ASYNC110 - set by a fold
            await asyncio.sleep(LOOK_S)
        legs = self._legs.get(uid, {})
        return legs[0].policy if 0 in legs else ""

    def legs(self, request_id: str) -> int:
        """The number of legs that a request must have."""
        legs = self._legs.get(uid_of(request_id), {})
        return 2 if 0 in legs and legs[0].policy == SHADOW else 1

    def pairs(self) -> list[tuple[LoggedLeg, LoggedLeg]]:
        """The primary and the shadow leg of every request whose legs have both ended."""
        return [(legs[0], legs[1]) for legs in self._legs.values() if 0 in legs and 1 in legs]


def _labels(rows: Any) -> Any:
    name = f"output.{OUTPUT}"
    if name not in rows.schema.names:
        return np.full(len(rows), -1)
    return rows.column(name).flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1).argmax(1)


@asynccontextmanager
async def shadow_log(broker: Broker, endpoint: str) -> AsyncIterator[ShadowLog]:
    """Follow an endpoint's log while the block runs."""
    found = ShadowLog()
    following = LogFollower(broker, broker.channels.events(endpoint), 0, found.fold)
    task = asyncio.create_task(following.run(), name="shadow-log")
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
