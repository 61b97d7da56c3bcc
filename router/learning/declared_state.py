"""What the `declared` log holds is written again when the log is deleted: it is the only log that is never trimmed.

Gateways and routers go on with what they have read. A process that starts later would find nothing, so a learner, which
has read all of it, writes the newest record of each endpoint and each verdict again. Claims are not: who leads claims
anew, for terms are offsets.
"""

from __future__ import annotations

import asyncio
import logging
import random

from broker.base import Broker
from broker.errors import TryAgain
from broker.messages import Record
from broker.records.declared import read_declared
from broker.records.routing import read_experiment_result

log = logging.getLogger(__name__)

FIRST_S, SPREAD_S = 0.5, 1.0  # of several learners one is first, and the others see what it wrote
PAUSE_S = 0.5

Key = tuple[str, str]


class DeclaredState:
    """The newest record of everything that is declared."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._newest: dict[Key, bytes] = {}
        self._fresh: set[Key] = set()  # what the log says since it was made again

    def fold(self, record: Record) -> None:
        """Take in a record."""
        declared, verdict = read_declared(record), read_experiment_result(record)
        if declared is not None:
            self._note(("endpoint", declared.endpoint), record, is_there=declared.declaration is not None)
        elif verdict is not None:
            self._note(("verdict", verdict.endpoint), record, is_there=True)

    async def write_again(self) -> None:
        """Write what the log does not say any more; call it when the log was made again."""
        self._fresh.clear()
        await asyncio.sleep(FIRST_S + SPREAD_S * random.random())  # noqa: S311 - who is first is no secret
        while lost := {key: body for key, body in self._newest.items() if key not in self._fresh}:
            if await self._append(list(lost.values())):
                self._fresh |= lost.keys()
                names = ", ".join(sorted({name for _, name in lost}))
                log.warning("the log of what is declared was deleted; it says again what it said of %s", names)
            else:
                await asyncio.sleep(PAUSE_S)

    async def _append(self, bodies: list[bytes]) -> bool:
        try:
            outcomes = await self._broker.append(self._broker.channels.declared, bodies)
        except TryAgain:
            return False
        return all(outcome.safe for outcome in outcomes)

    def _note(self, key: Key, record: Record, *, is_there: bool) -> None:
        self._fresh.add(key)
        if is_there:
            self._newest[key] = record.body
        else:
            self._newest.pop(key, None)
