"""Reads one endpoint's event log for one monitor, and writes checkpoints of its position.

Counters begin at zero in every process, and Prometheus handles that as a counter reset. After an orderly stop no row is
counted twice and none is missed. After a crash the rows since the last checkpoint, at most `CHECKPOINT_S` seconds of
them, are counted again by the new process; perhaps they were scraped from the old one. Restoring counters from a
checkpoint would be worse: a counter that falls by one looks like a reset, and Prometheus would add the whole value
again. `rows` in the checkpoint counts each row once in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from broker.base import Broker, Reader, Since
from broker.errors import Gap, TryAgain
from broker.messages import Record
from broker.support.backoff import TRY_AGAIN_S
from monitors.base import EndpointMonitor
from monitors.checkpoint import MonitorCheckpoint, load, save

READ_AT_ONCE = 100
CHECKPOINT_S = 5.0


class EventReader:
    """Follows a log until it is cancelled. Without a checkpoint it starts at `since`."""

    def __init__(self, broker: Broker, log: str, monitor: EndpointMonitor, *, checkpoint: Path, since: Since) -> None:
        self._broker = broker
        self._log = log
        self._monitor = monitor
        self._path = checkpoint
        self._since = since
        self._saved: MonitorCheckpoint | None = None
        self.rows = 0
        self.offset: int | None = None

    async def run(self) -> None:
        """Read until cancelled; wait while the broker cannot be reached."""
        loop = asyncio.get_running_loop()
        self._saved = await loop.run_in_executor(None, load, self._path)
        end = await self._end()
        if self._saved is not None and self._saved.offset > end:  # a new log with the same name: the broker was wiped
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
        """Write the checkpoint, if records were read since the last one."""
        if self.offset is None or (self._saved is not None and self._saved.offset == self.offset):
            return
        rebuild_from = self._monitor.rebuild_from(self.offset)
        checkpoint = MonitorCheckpoint(offset=self.offset, rebuild_from=rebuild_from, rows=self.rows)
        await asyncio.get_running_loop().run_in_executor(None, save, self._path, checkpoint)
        self._saved = checkpoint

    async def _read(self, start: int | Since) -> None:
        reader = self._broker.read(self._log, start)
        try:
            while True:
                reader = await self._read_once(reader)
        finally:
            await reader.close()

    async def _read_once(self, reader: Reader) -> Reader:
        try:
            records = await reader.read(READ_AT_ONCE)
        except Gap as gap:
            if gap.is_recreated:
                self.offset, self._saved = 0, None
                return reader
            self._monitor.note_gap(gap.end - max(gap.start, min(self.offset or 0, gap.end)))
            self.offset = max(self.offset or 0, gap.end)
            await reader.close()
            return self._broker.read(self._log, gap.end)
        except TryAgain:
            await asyncio.sleep(TRY_AGAIN_S)
            return reader
        if records:
            await self._take(records)
        await asyncio.sleep(0)  # folding takes time: let the scrape and the heartbeat run in between
        return reader

    async def _take(self, records: Sequence[Record]) -> None:
        done = self.offset or 0
        self.rows += await self._monitor.fold(records, counted_before=done)
        self.offset = max(done, records[-1].offset + 1)

    async def _end(self) -> int:
        """Return the end of the log, which is declared here if it does not exist yet."""
        while True:
            try:
                await self._broker.declare(self._log)
                return await self._broker.end(self._log)
            except TryAgain:
                await asyncio.sleep(TRY_AGAIN_S)

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self.save()
