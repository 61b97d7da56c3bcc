"""Announces cancelled requests on the status log; processors drop them before they compute them."""

from __future__ import annotations

import asyncio
import logging

from broker.base import Broker
from broker.errors import TryAgain
from broker.records.status import Cancel, write_cancels
from broker.support.tasks import Tasks

LINGER_S = 0.05
AT_ONCE = 1000

logger = logging.getLogger(__name__)


class CancelSender:
    """Collects cancels for `LINGER_S` seconds, because clients often disconnect together."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._collected: list[Cancel] = []
        self._tasks = Tasks()

    def add(self, uid: bytes, until_us: int) -> None:
        """Cancel a request; processors remember it until its deadline, `until_us`."""
        self._collected.append(Cancel(uid, until_us))
        if len(self._collected) == 1:
            self._tasks.spawn(self._announce(), "cancels")

    async def drain(self) -> None:
        """Wait until every cancel has been announced."""
        await self._tasks.drain()

    async def _announce(self) -> None:
        await asyncio.sleep(LINGER_S)
        collected, self._collected = self._collected, []
        records = [write_cancels(collected[at : at + AT_ONCE]) for at in range(0, len(collected), AT_ONCE)]
        try:
            await self._broker.append(self._broker.channels.status, records)
        except TryAgain:  # the requests are computed, and their answers dropped
            logger.info("%d cancels were not announced: the broker cannot be reached", len(collected))
