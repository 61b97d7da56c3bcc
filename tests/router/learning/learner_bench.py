"""A learner of one endpoint on a real embedded broker, and the snapshots that it publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from broker.delivery.log_follower import LogFollower
from broker.messages import Record
from broker.records.routing import ExperimentResult, SnapshotRecord, read_snapshot
from broker.sqlite.adapter import SqliteBroker
from router.learning.endpoint import EndpointLearner
from router.learning.experiment import Experiment
from router.learning.ledger import Ledger
from router.learning.metrics import LearnerMetrics
from router.learning.settings import LEARNING_S, READ_AT_ONCE, LearnerSettings
from tests.router.learning.fold_logs import THOMPSON
from tests.router.learning.traces import spec_of
from tests.waiting import in_background

WITHIN_S = 5.0
NO_TICKS_S = 3600.0


@dataclass
class Bench:
    """A broker, a ledger, and the published snapshots."""

    broker: SqliteBroker
    ledger: Ledger
    published: list[SnapshotRecord] = field(default_factory=list)

    def collect(self, record: Record) -> None:
        snapshot = read_snapshot(record)
        self.published += [] if snapshot is None else [snapshot]

    async def append(self, records: Sequence[Record]) -> None:
        log = self.broker.channels.events("e")
        await self.broker.declare(log)
        for record in records:
            await self.broker.append(log, [record.body], dict(record.headers))

    @asynccontextmanager
    async def learning(
        self,
        experiment: Experiment[Any] = THOMPSON,
        result: ExperimentResult | None = None,
        tick_s: float = NO_TICKS_S,
        *,
        read_at_once: int = READ_AT_ONCE,
        learning_s: float = LEARNING_S,
    ) -> AsyncIterator[EndpointLearner]:
        """Run a learner whose clock stands still, if nothing else is said."""
        settings = LearnerSettings(instance="learner", tick_s=tick_s, read_at_once=read_at_once, learning_s=learning_s)
        metrics = LearnerMetrics(CollectorRegistry())
        learner = EndpointLearner(
            self.broker,
            self.ledger,
            spec=spec_of(),
            experiment=experiment,
            settings=settings,
            metrics=metrics,
            term=1,
            result=result,
        )
        async with in_background(
            learner.run(), LogFollower(self.broker, self.broker.channels.status, 0, self.collect).run()
        ):
            yield learner


async def everything(bench: Bench) -> list[Record]:
    """Return all of the event log."""
    reader = bench.broker.read(bench.broker.channels.events("e"), 0)
    try:
        return list(await reader.read(1000))
    finally:
        await reader.close()
