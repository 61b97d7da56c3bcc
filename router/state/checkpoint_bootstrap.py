"""Weights for endpoints for which no learner speaks: those of the newest checkpoint on their event log.

Snapshots stay on `status` for minutes only. A gateway that starts while no learner runs would know nothing of a policy
that has learnt for weeks.
"""

from __future__ import annotations

import asyncio

from broker.base import Broker
from broker.errors import TryAgain
from router.learning.checkpoint_search import CheckpointSearch
from router.state.view import View

FIRST_S = 3.0  # a learner that is there has been heard by then
LOOK_S = 2.0


class CheckpointBootstrap:
    """Looks once for each experiment: from then on its learner will say what is new."""

    def __init__(self, broker: Broker, view: View, *, first_s: float = FIRST_S) -> None:
        self._broker = broker
        self._view = view
        self._first_s = first_s
        self._looked: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look as long as the process lives; a log that cannot be read now is looked at again."""
        await asyncio.sleep(self._first_s)
        while True:
            for endpoint, experiment in self._view.unspoken():
                if (endpoint, experiment) not in self._looked:
                    await self._look(endpoint, experiment)
            await asyncio.sleep(LOOK_S)

    async def _look(self, endpoint: str, experiment: str) -> None:
        log = self._broker.channels.events(endpoint)
        try:
            await self._broker.declare(log)
            found = await CheckpointSearch(self._broker, log, experiment).run()
        except TryAgain:
            return
        self._looked.add((endpoint, experiment))
        if found.checkpoint is not None:
            self._view.fold_checkpoint(endpoint, found.checkpoint)
