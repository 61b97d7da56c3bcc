"""Writes the content of the `declared` log again when the log was deleted.

Gateways and routers keep the state that they have read, but a process that starts later would find an empty log. So a
learner, which has read the whole log, writes the newest record of each endpoint and of each experiment result again.
Leadership claims are not written again: terms are offsets, so the leader claims again.
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
from broker.support.backoff import TRY_AGAIN_S

logger = logging.getLogger(__name__)

FIRST_S, SPREAD_S = 0.5, 1.0  # random, so that one of several learners is first and the others see its records

Key = tuple[str, str]


class DeclaredState:
    """The newest record of each endpoint and of each experiment result."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._newest: dict[Key, bytes] = {}
        self._fresh: set[Key] = set()  # keys that are in the new log

    def fold(self, record: Record) -> None:
        """Fold a record of the log."""
        declared, result = read_declared(record), read_experiment_result(record)
        if declared is not None:
            self._note(("endpoint", declared.endpoint), record, is_there=declared.declaration is not None)
        elif result is not None:
            self._note(("result", result.endpoint), record, is_there=True)

    async def write_again(self) -> None:
        """Append the records that the new log lacks; call it when the log was deleted and made again."""
        self._fresh.clear()
        await asyncio.sleep(FIRST_S + SPREAD_S * random.random())  # noqa: S311 - not a secret
        while lost := {key: body for key, body in self._newest.items() if key not in self._fresh}:
            if await self._append(list(lost.values())):
                self._fresh |= lost.keys()
                names = ", ".join(sorted({name for _, name in lost}))
                logger.warning("the `declared` log was deleted; the declarations of %s are written again", names)
            else:
                await asyncio.sleep(TRY_AGAIN_S)

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
