"""The search of an event log for the checkpoints of earlier learners."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from broker.base import Broker, Since
from broker.errors import Gap, Unreachable
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.routing import LearnerCheckpoint, read_checkpoint, read_tick

READ_AT_ONCE = 1000
BACK_S = 600.0  # the search begins this far before the end
SILENCE_S = 1.0
UNREAD_S = 10.0


@dataclass(slots=True)
class CheckpointFound:
    """The newest checkpoint of an experiment, and where to begin if there is none.

    `tick` is the newest tick up to `end`. `is_used`: the log holds a checkpoint of any experiment.
    """

    first: int = 0
    end: int = 0
    tick: int = 0
    is_used: bool = False
    newest: str = ""  # the experiment of the newest checkpoint
    checkpoint: LearnerCheckpoint | None = None


class CheckpointSearch:
    """Reads the last minutes of a log, then all of it, for the newest checkpoint of an experiment."""

    def __init__(self, broker: Broker, log_name: str, experiment: str) -> None:
        self._broker = broker
        self._log = log_name
        self._experiment = experiment

    async def run(self) -> CheckpointFound:
        """Search up to the present end of the log; raises Unreachable if it cannot be read."""
        end = await self._broker.end(self._log)
        found = await self._read(Since(now_us() - int(BACK_S * 1e6)), end)
        return found if found.checkpoint is not None else await self._read(0, end)

    async def _read(self, start: int | Since, end: int) -> CheckpointFound:
        found, at = CheckpointFound(end=end), 0
        if end == 0:
            return found
        reader = self._broker.read(self._log, start)
        try:
            while at < end:
                try:
                    async with asyncio.timeout(SILENCE_S if isinstance(start, Since) else UNREAD_S):
                        records = await reader.read(READ_AT_ONCE)
                except Gap as gap:
                    await reader.close()
                    found.first = at = gap.end
                    reader = self._broker.read(self._log, gap.end)
                    continue
                except TimeoutError:
                    if isinstance(start, Since):  # no record is that young
                        return found
                    raise Unreachable(f"{self._log} could not be read to its end: {at} of {end}") from None
                at = records[-1].offset + 1 if records else end
                for record in records:
                    self._note(record, found)
        finally:
            await reader.close()
        return found

    def _note(self, record: Record, found: CheckpointFound) -> None:
        tick = read_tick(record)
        if tick is not None:
            found.tick = max(found.tick, tick.number)
        checkpoint = read_checkpoint(record)
        if checkpoint is not None:
            found.is_used, found.newest = True, checkpoint.experiment
            if checkpoint.experiment == self._experiment:
                found.checkpoint = checkpoint
