"""Reads an endpoint's event log once, from its first record, into a recorder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from broker.base import Broker
from broker.errors import Gap
from broker.messages import Record
from broker.records.endpoint import Endpoint
from broker.records.routing import LearnerCheckpoint, experiment_of, read_checkpoint
from router.evidence.recorder import Evidence, Recorder
from router.learning.declared import read_experiment

READ_AT_ONCE = 1000
SILENCE_S = 10.0  # a log with an end, but without records before it, was trimmed

Progress = Callable[[int, int], None]
"""Called with the number of records read so far, and the total."""


async def read_evidence(
    broker: Broker, endpoint: Endpoint, until_us: int, progress: Progress, *, candidate: Endpoint | None = None
) -> Evidence:
    """Return the evidence in an endpoint's log since its experiment began, or since the first record without one.

    A learner writes a checkpoint where it begins. If that was trimmed, reading starts at the first remaining
    checkpoint.
    """
    log = broker.channels.events(endpoint.endpoint)
    end = await broker.end(log) if await broker.exists(log) else 0
    learns = read_experiment(endpoint) is not None
    begun = await _first_checkpoint(broker, log, end, experiment_of(endpoint)) if learns else None
    recorder = Recorder(endpoint, until_us, candidate=candidate, is_led=begun is not None)
    start = 0
    if begun is not None:
        start = begun.rebuild.offset
        recorder.resume(begun)
    async for records in _batches(broker, log, start, end):
        for record in records:
            recorder.apply(record)
        progress(records[-1].offset + 1 - start, end - start)
        await asyncio.sleep(0)
    return recorder.finish()


async def _first_checkpoint(broker: Broker, log: str, end: int, experiment: str) -> LearnerCheckpoint | None:
    """Return the first checkpoint whose records to rebuild from are all in the log."""
    first = end
    async for records in _batches(broker, log, 0, end):
        first = min(first, records[0].offset)
        for record in records:
            found = read_checkpoint(record)
            if found is not None and found.experiment == experiment and found.rebuild.offset >= first:
                return found
    return None


async def _batches(broker: Broker, log: str, start: int, end: int) -> AsyncIterator[list[Record]]:
    """Yield the records before `end`, and skip gaps."""
    at, reader = start, broker.read(log, start)
    try:
        while at < end:
            try:
                async with asyncio.timeout(SILENCE_S):
                    records = await reader.read(READ_AT_ONCE)
            except Gap as gap:
                await reader.close()
                at, reader = gap.end, broker.read(log, gap.end)
                continue
            except TimeoutError:
                return
            if not records:
                return
            at = records[-1].offset + 1
            kept = [record for record in records if record.offset < end]
            if kept:
                yield kept
    finally:
        await reader.close()
