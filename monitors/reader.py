"""Reads one endpoint's event log with an offset of its own, and checkpoints where it stands.

What a restart means: counters begin at zero in every process, which Prometheus takes for the reset that it is. After
an orderly stop nothing is counted twice and nothing is missed. After a crash the rows behind the last checkpoint (at
most `CHECKPOINT_S` of them) are counted by the new process, too: they were in the old one's counters, and in its
scrapes perhaps. Counters that went back to their checkpointed values would be worse: a counter that falls by one looks
like a reset, and Prometheus would add all of it again. The checkpoint's own `rows` has each row once, whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from broker.base import Broker, Reader, Since
from broker.errors import Gap, TryAgain
from broker.messages import Record
from monitors.checkpoint import MonitorCheckpoint, load, save

READ_AT_ONCE = 100
PAUSE_S = 0.5
CHECKPOINT_S = 5.0


class MonitorFold(Protocol):
    """What becomes of the records."""

    def fold(self, record: Record, *, counts: bool) -> int:
        """Take in a record and return how many rows it added; one that does not count was counted before."""

    def rebuild_from(self, end: int) -> int:
        """Return from where to read to be able to go on at `end`."""

    def gap(self, records: int) -> None:
        """Hear that records are gone."""


class EventReader:
    """Follows a log for as long as it runs. Without a checkpoint it starts at `since`."""

    def __init__(self, broker: Broker, log: str, fold: MonitorFold, *, checkpoint: Path, since: Since) -> None:
        self._broker = broker
        self._log = log
        self._fold = fold
        self._path = checkpoint
        self._since = since
        self._saved: MonitorCheckpoint | None = None
        self.rows = 0
        self.offset: int | None = None

    async def run(self) -> None:
        """Read until cancelled; a broker that is away is waited for."""
        loop = asyncio.get_running_loop()
        self._saved = await loop.run_in_executor(None, load, self._path)
        end = await self._end()
        if self._saved is not None and self._saved.offset > end:  # another log by the same name: a wiped broker
            self._saved = None
        start: int | Since = self._since
        if self._saved is not None:
            start, self.offset, self.rows = self._saved.rebuild_from, self._saved.offset, self._saved.rows
        saving = asyncio.create_task(self._keep_saving(), name=f"checkpoint-{self._log}")
        try:
            await self._read(start)
        finally:
            saving.cancel()
            await self.save()

    async def save(self) -> None:
        """Write the checkpoint, if anything was read since the last one."""
        if self.offset is None or (self._saved is not None and self._saved.offset == self.offset):
            return
        rebuild_from = self._fold.rebuild_from(self.offset)
        checkpoint = MonitorCheckpoint(offset=self.offset, rebuild_from=rebuild_from, rows=self.rows)
        await asyncio.get_running_loop().run_in_executor(None, save, self._path, checkpoint)
        self._saved = checkpoint

    async def _read(self, start: int | Since) -> None:
        reader = self._broker.read(self._log, start)
        try:
            while True:
                reader = await self._step(reader)
        finally:
            await reader.close()

    async def _step(self, reader: Reader) -> Reader:
        try:
            records = await reader.read(READ_AT_ONCE)
        except Gap as gap:
            if gap.is_recreated:
                self.offset, self._saved = 0, None
                return reader
            self._fold.gap(gap.end - max(gap.start, min(self.offset or 0, gap.end)))
            self.offset = max(self.offset or 0, gap.end)
            await reader.close()
            return self._broker.read(self._log, gap.end)
        except TryAgain:
            await asyncio.sleep(PAUSE_S)
            return reader
        if records:
            self._take(records)
        await asyncio.sleep(0)  # folding is work: let the scrape and the heartbeat in between
        return reader

    def _take(self, records: Sequence[Record]) -> None:
        done = self.offset or 0
        for record in records:
            self.rows += self._fold.fold(record, counts=record.offset >= done)
        self.offset = max(done, records[-1].offset + 1)

    async def _end(self) -> int:
        """Return where the log ends. It may not be there yet; whoever comes first makes it."""
        while True:
            try:
                await self._broker.declare(self._log)
                return await self._broker.end(self._log)
            except TryAgain:
                await asyncio.sleep(PAUSE_S)

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self.save()
