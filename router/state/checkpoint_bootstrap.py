"""Weights for endpoints without a snapshot: from the newest checkpoint on their event log.

Snapshots stay on `status` for minutes only. A gateway that starts while no learner runs would otherwise ignore weeks of
learning.
"""

from __future__ import annotations

import asyncio

from broker.base import Broker
from broker.errors import TryAgain
from router.learning.checkpoint_search import CheckpointSearch
from router.state.view import View

FIRST_S = 3.0  # a live learner has published its snapshots by then
CHECK_S = 2.0


class CheckpointBootstrap:
    """Reads one checkpoint for each experiment; later weights come from its learner."""

    def __init__(self, broker: Broker, view: View, *, first_s: float = FIRST_S) -> None:
        self._broker = broker
        self._view = view
        self._first_s = first_s
        self._done: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Search in a loop; a log that cannot be read now is tried again."""
        await asyncio.sleep(self._first_s)
        while True:
            for endpoint, experiment in self._view.without_snapshot():
                if (endpoint, experiment) not in self._done:
                    await self._search(endpoint, experiment)
            await asyncio.sleep(CHECK_S)

    async def _search(self, endpoint: str, experiment: str) -> None:
        log = self._broker.channels.events(endpoint)
        try:
            await self._broker.declare(log)
            found = await CheckpointSearch(self._broker, log, experiment).run()
        except TryAgain:
            return
        self._done.add((endpoint, experiment))
        if found.checkpoint is not None:
            self._view.fold_checkpoint(endpoint, found.checkpoint)
