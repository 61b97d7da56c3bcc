"""Says on the status log that a process is there: every two seconds, and at once when something changes."""

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
    """The voice of one process (or of one model version in it)."""

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
        """`troubles` returns what is wrong in this process now, beside what is wrong with the broker."""
        self._broker = broker
        self._stats = stats
        self._who: dict[str, Any] = {
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

    async def say(self, state: State, *, full: dict[str, Any] | None = None, error: str = "") -> None:
        """Announce a change now; `full` is what readers need to know about the thing, kept for the heartbeats."""
        self._state, self._error = state, error
        if full is not None:
            self._full = full
        await self._announce(whole=True)

    async def warn(self, error: str) -> None:
        """Announce what is wrong while the state stays as it is."""
        await self.say(self._state, error=error)

    async def beat(self) -> None:
        """Announce for ever. A broker that is away is no reason to stop: the silence says it."""
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
            troubles=self._in_words(),
            **self._who,
        )
        try:
            await self._broker.append(self._broker.channels.status, [write_announcement(announcement)])
        except TryAgain:
            return

    def _in_words(self) -> tuple[str, ...]:
        words = [*self._broker.troubles(), *self._troubles(), *CLOCKS.own_troubles()]
        return tuple(clean(text)[:TROUBLE_CHARACTERS] for text in words[:TROUBLES_LIMIT])
