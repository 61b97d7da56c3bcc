"""The learner of one endpoint: it folds the event log, saves the state in the ledger, and publishes snapshots."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from broker.base import Broker, Reader
from broker.errors import Gap, TryAgain
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.routing import ExperimentResult, LogPosition
from broker.support.backoff import TRY_AGAIN_S
from router.learning.checkpoint_writer import CheckpointWriter
from router.learning.experiment import Experiment, ExperimentSpec
from router.learning.fold_loader import FoldLoader
from router.learning.ledger import LeaderSuperseded, Ledger
from router.learning.metrics import LearnerMetrics
from router.learning.settings import LearnerSettings
from router.learning.snapshot_publisher import SnapshotPublisher
from router.learning.tick_writer import TickWriter

logger = logging.getLogger(__name__)


class EndpointLearner:
    """Learns for one endpoint while this process leads, in leadership term `term`."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        *,
        spec: ExperimentSpec,
        experiment: Experiment[Any],
        settings: LearnerSettings,
        metrics: LearnerMetrics,
        term: int,
        result: ExperimentResult | None = None,
    ) -> None:
        """`result` is the result of this experiment from before, if it has ended."""
        self._broker = broker
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._log = broker.channels.events(spec.endpoint)
        self._loader = FoldLoader(broker, ledger, self._log, spec, experiment)
        self._publisher = SnapshotPublisher(broker, settings, self._log, term, result)
        self._checkpoints = CheckpointWriter(broker, self._log)
        self._ticks = TickWriter(broker, self._log)
        self.fold = self._loader.empty()
        self.has_gap = False
        self._is_saved = False  # the ledger holds an older state of this fold, so changes are enough
        self._leaves_checkpoint = False

    @property
    def spec(self) -> ExperimentSpec:
        """The experiment that is learnt."""
        return self.fold.spec

    async def run(self) -> None:
        """Learn until cancelled; raises LeaderSuperseded when another learner writes the ledger."""
        await self._broker.declare(self._log)
        self._publisher.speaks_from = await self._broker.end(self._log)
        await self._load()
        try:
            async with asyncio.TaskGroup() as group:  # both or none: without ticks no reward would be credited
                group.create_task(self._keep_time(), name=f"ticks-{self.spec.endpoint}")
                group.create_task(self._keep_reading(), name=f"reading-{self.spec.endpoint}")
        except asyncio.CancelledError:
            if self._leaves_checkpoint:
                await self._checkpoints.write_last(self.fold)
            raise

    def leave(self) -> None:
        """Write a checkpoint when cancelled: the ledger holds one experiment an endpoint, and another one follows."""
        self._leaves_checkpoint = True

    async def _load(self) -> None:
        loaded = await self._loader.load()
        self.fold, self._is_saved = loaded.fold, loaded.is_saved
        if loaded.begun_at is not None:
            self._checkpoints.note(loaded.begun_at)
            await self._checkpoints.write(self.fold)

    # -- reading

    async def _keep_reading(self) -> None:
        while True:
            await self._read()

    async def _read(self) -> None:
        """Read on until records are missing; return if the fold can continue after the gap."""
        reader = self._broker.read(self._log, self.fold.progress.offset)
        try:
            while True:
                await self._step(reader)
        except Gap as gap:
            await self._handle_gap(gap)
        finally:
            await reader.close()

    async def _step(self, reader: Reader) -> None:
        """Fold the next records, save the state, and publish the changes."""
        try:
            records = await reader.read(self._settings.read_at_once)
        except TryAgain:
            await asyncio.sleep(TRY_AGAIN_S)
            return
        for record in records:
            self._apply(record)
        await self._save()
        await self._publish()
        await self._checkpoints.write_if_due(self.fold)
        self._metrics.show(self.fold)
        await asyncio.sleep(0)

    def _apply(self, record: Record) -> None:
        try:
            self.fold.apply(record)
        except Exception:  # one record that breaks the fold must not stop learning from all others
            logger.exception("endpoint %s: record %d could not be folded", self.spec.endpoint, record.offset)

    async def _save(self) -> None:
        try:
            await self._ledger.save(self.fold, whole=not self._is_saved)
            self._is_saved = True
        except LeaderSuperseded:
            raise
        except TryAgain as exc:
            self._is_saved = False  # the changes are lost with the failed commit: the next one writes everything
            logger.warning("endpoint %s: %s", self.spec.endpoint, exc)

    async def _publish(self) -> None:
        await self._publisher.publish(self.fold, is_stopped=self.has_gap)

    # -- lost records

    async def _handle_gap(self, gap: Gap) -> None:
        """Records are lost that were not folded: continue at a checkpoint after them, else stop learning."""
        endpoint = self.spec.endpoint
        if gap.is_recreated:
            await self._continue_in_new_log()
            return
        logger.error("endpoint %s: records %d to %d are gone", endpoint, gap.start, gap.end)
        fold = await self._loader.after_gap(gap)
        if fold is not None:
            self.fold, self._is_saved = fold, False
            return
        self.has_gap = True
        self._metrics.gap(endpoint)
        logger.error(
            "endpoint %s: nothing is learnt any more; its last weights stay. Declare it with another `experiment`"
            " to begin anew",
            endpoint,
        )
        while True:
            await self._publish()
            await asyncio.sleep(self._settings.repeat_s)

    async def _continue_in_new_log(self) -> None:
        """Continue with the learnt state in the log that replaces a deleted one.

        The new log begins with a checkpoint, so that a learner without a ledger finds the same state.
        """
        logger.error(
            "endpoint %s: its event log was deleted; the learnt state is kept, open feedback is lost",
            self.spec.endpoint,
        )
        self.fold.restart(LogPosition(offset=0, number=self.fold.progress.tick, at_us=now_us()))
        self._is_saved = False
        self._publisher.reset()
        self._ticks.reset()
        self._checkpoints.note(-1)
        await self._checkpoints.write(self.fold)

    # -- time

    async def _keep_time(self) -> None:
        """Append a tick every second while time changes anything, and repeat the snapshot while it does not."""
        while True:
            await asyncio.sleep(self._settings.tick_s)
            forgets_at_us = self.fold.forgets_at_us
            if self.fold.needs_ticks or (forgets_at_us is not None and forgets_at_us < now_us()):
                await self._ticks.write_after(self.fold.progress.tick)
            elif time.monotonic() - self._publisher.published_s >= self._settings.repeat_s:
                await self._publish()
