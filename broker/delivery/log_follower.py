"""Follows a log: one task calls a function with each record, for as long as the process lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from broker.base import Broker, Reader, Since
from broker.delivery.clocks import CLOCKS
from broker.errors import Gap, TryAgain
from broker.messages import Record
from broker.protocol.ids import wall_us
from broker.records.status import FULL_EVERY_S
from broker.support.backoff import TRY_AGAIN_S

logger = logging.getLogger(__name__)

READ_AT_ONCE = 500


def follow_status(
    broker: Broker, fold: Callable[[Record], object], *, since_s: float = 2 * FULL_EVERY_S
) -> LogFollower:
    """Return a follower of the `status` log from `since_s` seconds ago; it also corrects this process's clock."""

    def both(record: Record) -> None:
        CLOCKS.fold(record)
        fold(record)

    return LogFollower(broker, broker.channels.status, Since(wall_us() - int(since_s * 1e6)), both)


class LogFollower:
    """Reads a log from `start` and calls `fold` for each record.

    `caught_up` is set once the follower has passed the end of the log at the time of its start, or after a second if it
    started at a time: perhaps no record is newer than that.
    """

    def __init__(
        self,
        broker: Broker,
        log: str,
        start: int | Since,
        fold: Callable[[Record], object],
        *,
        on_recreated: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_recreated` is called if the log was deleted and made again: its former records are gone."""
        self._on_recreated = on_recreated
        self._broker = broker
        self._log = log
        self._start = start
        self._fold = fold
        self.caught_up = asyncio.Event()

    async def run(self) -> None:
        """Read forever. Waits for a broker that does not answer, and skips gaps: only the newest states count."""
        end = await self._end()
        if end == 0:
            self.caught_up.set()
        reader = self._broker.read(self._log, self._start)
        catching_up = asyncio.create_task(self._give_up_waiting(), name="catch-up")
        try:
            while await self._step(reader, end):
                pass
        finally:
            catching_up.cancel()
            await reader.close()

    async def _step(self, reader: Reader, end: int) -> bool:
        """Read once; return False if the log has ended, because its broker was closed."""
        try:
            records = await reader.read(READ_AT_ONCE)
        except Gap as gap:
            if gap.is_recreated:
                logger.warning("%s", gap)
                self._on_recreated()
            return True
        except TryAgain:
            await asyncio.sleep(TRY_AGAIN_S)
            return True
        for record in records:
            try:
                self._fold(record)
            except Exception:  # one record must not end the process, and end it again after each restart
                logger.exception("record %d of %s could not be folded", record.offset, self._log)
        if records and records[-1].offset + 1 >= end:
            self.caught_up.set()
        return bool(records)

    async def _end(self) -> int:
        while True:
            try:
                return await self._broker.end(self._log)
            except TryAgain:
                await asyncio.sleep(TRY_AGAIN_S)

    async def _give_up_waiting(self) -> None:
        """Set `caught_up` after a second if the follower started at a time: perhaps no record is newer."""
        if isinstance(self._start, Since):
            await asyncio.sleep(1.0)
            self.caught_up.set()
