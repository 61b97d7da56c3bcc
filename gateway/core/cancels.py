"""Says on the status log which requests nobody wants any more; processors drop them before they compute."""

from __future__ import annotations

import asyncio
import logging

from broker.base import Broker
from broker.errors import TryAgain
from broker.records.status import Cancel, write_cancels
from broker.support.tasks import Tasks

LINGER_S = 0.05
AT_ONCE = 1000

log = logging.getLogger(__name__)


class CancelSender:
    """Collects for a moment: clients that leave leave together."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._collected: list[Cancel] = []
        self._tasks = Tasks()

    def add(self, uid: bytes, until_us: int) -> None:
        """Cancel a request; `until_us` is its deadline: nobody needs to remember it any longer."""
        self._collected.append(Cancel(uid, until_us))
        if len(self._collected) == 1:
            self._tasks.spawn(self._say(), "cancels")

    async def drain(self) -> None:
        """Wait until all is said."""
        await self._tasks.drain()

    async def _say(self) -> None:
        await asyncio.sleep(LINGER_S)
        collected, self._collected = self._collected, []
        records = [write_cancels(collected[at : at + AT_ONCE]) for at in range(0, len(collected), AT_ONCE)]
        try:
            await self._broker.append(self._broker.channels.status, records)
        except TryAgain:  # what is computed all the same is dropped when its answer comes
            log.info("%d cancels were not said: the broker is away", len(collected))
