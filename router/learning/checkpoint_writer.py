"""Appends checkpoints of a fold to its event log, for learners that have no ledger."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from broker.base import Broker
from broker.records.routing import write_checkpoint
from router.learning.fold import ExperimentFold
from router.learning.fold_document import checkpoint_of
from router.learning.log_append import appended

CHECKPOINT_S = 60.0
CHECKPOINT_BYTES_A_MINUTE = 256 * 1024
LAST_S = 2.0  # for the checkpoint of a learner that is being stopped


class CheckpointWriter:
    """Writes a checkpoint once a minute while records arrive; large checkpoints less often."""

    def __init__(self, broker: Broker, log: str) -> None:
        self._broker = broker
        self._log = log
        self._written_s = 0.0
        self._offset = -1  # of the fold when the newest checkpoint was written

    def note(self, offset: int) -> None:
        """Note that the state at `offset` is in a checkpoint already."""
        self._offset = offset

    async def write_if_due(self, fold: ExperimentFold[Any]) -> None:
        """Append a checkpoint if the last one is old enough and the fold has read more than that checkpoint since."""
        now_s, offset = time.monotonic(), fold.progress.offset
        if now_s - self._written_s < CHECKPOINT_S or offset <= self._offset + 1:
            return
        body, headers = write_checkpoint(checkpoint_of(fold))
        if await appended(self._broker, self._log, body, headers):
            self._offset = offset
            self._written_s = now_s + CHECKPOINT_S * (len(body) // CHECKPOINT_BYTES_A_MINUTE)

    async def write(self, fold: ExperimentFold[Any]) -> None:
        """Append a checkpoint now."""
        body, headers = write_checkpoint(checkpoint_of(fold))
        await appended(self._broker, self._log, body, headers)

    async def write_last(self, fold: ExperimentFold[Any]) -> None:
        """Append a checkpoint, but give up after `LAST_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self.write(fold)
