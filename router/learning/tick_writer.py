"""Appends the ticks of an event log's clock."""

from __future__ import annotations

import time

from broker.base import Broker
from broker.protocol.ids import now_us
from broker.records.routing import Tick, write_tick
from router.learning.log_append import appended

UNREAD_S = 5.0  # a tick that was not read back for this long is taken for lost


class TickWriter:
    """Appends one tick at a time: the next one follows once the last one has been read back.

    Ticks missed during an outage are not made up: no rewards could have arrived.
    """

    def __init__(self, broker: Broker, log: str) -> None:
        self._broker = broker
        self._log = log
        self.reset()

    def reset(self) -> None:
        """Forget the last tick: the log was deleted, and it will not be read back."""
        self._sent_number, self._sent_s = 0, 0.0

    async def write_after(self, tick: int) -> None:
        """Append the tick that follows `tick`, the newest one that was read."""
        now_s = time.monotonic()
        if tick < self._sent_number and now_s - self._sent_s < UNREAD_S:
            return
        next_tick = Tick(number=tick + 1, at_us=now_us())
        body, headers = write_tick(next_tick)
        if await appended(self._broker, self._log, body, headers):
            self._sent_number, self._sent_s = next_tick.number, now_s
