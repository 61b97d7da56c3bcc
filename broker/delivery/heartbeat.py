"""Announces a process on the status log: every two seconds, and at once after a change."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from broker.base import Broker
from broker.delivery.clocks import CLOCKS
from broker.errors import TryAgain
from broker.protocol.answers import clean
from broker.protocol.ids import wall_us
from broker.records.status import (
    FULL_EVERY_S,
    HEARTBEAT_S,
    TROUBLE_CHARACTERS,
    TROUBLES_LIMIT,
    Announcement,
    Part,
    State,
    host_name,
    write_announcement,
)


class Heartbeat:
    """The announcements of one process, or of one model version in it."""

    def __init__(
        self,
        broker: Broker,
        *,
        instance: str,
        part: Part,
        metrics_port: int = 0,
        model: str = "",
        version: int = 0,
        in_flight: Callable[[], int] = lambda: 0,
        troubles: Callable[[], Iterable[str]] = tuple,
        stats: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`troubles` returns texts about the current troubles of this process, besides those of the broker."""
        self._broker = broker
        self._stats = stats
        self._identity: dict[str, Any] = {
            "instance": instance,
            "part": part,
            "host": host_name(),
            "pid": os.getpid(),
            "metrics_port": metrics_port,
            "model": model,
            "version": version,
        }
        self._in_flight = in_flight
        self._troubles = troubles
        self._state: State = "starting"
        self._error = ""
        self._full: dict[str, Any] = {}
        self._full_at = 0.0

    async def set_state(self, state: State, *, full: dict[str, Any] | None = None, error: str = "") -> None:
        """Announce a new state now; later heartbeats repeat `full`, the details that change seldom."""
        self._state, self._error = state, error
        if full is not None:
            self._full = full
        await self._announce(whole=True)

    async def warn(self, error: str) -> None:
        """Announce an error while the state stays the same."""
        await self.set_state(self._state, error=error)

    async def beat(self) -> None:
        """Announce forever. If the broker does not answer, readers notice the missing heartbeats."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._announce(whole=time.monotonic() - self._full_at >= FULL_EVERY_S)

    async def _announce(self, *, whole: bool) -> None:
        if whole:
            self._full_at = time.monotonic()
        announcement = Announcement(
            state=self._state,
            error=self._error,
            at_us=wall_us(),
            in_flight=self._in_flight(),
            stats=self._stats(),
            full=self._full if whole else {},
            troubles=self._all_troubles(),
            **self._identity,
        )
        try:
            await self._broker.append(self._broker.channels.status, [write_announcement(announcement)])
        except TryAgain:
            return

    def _all_troubles(self) -> tuple[str, ...]:
        texts = [*self._broker.troubles(), *self._troubles(), *CLOCKS.own_troubles()]
        return tuple(clean(text)[:TROUBLE_CHARACTERS] for text in texts[:TROUBLES_LIMIT])
