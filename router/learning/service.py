"""The learner: one of all that run leads, and learns for every endpoint whose policy does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.log_follower import LogFollower, follow_status
from broker.errors import Misconfigured, TryAgain
from broker.messages import Record
from broker.records.declared import read_declared
from broker.records.endpoint import Endpoint
from broker.records.routing import ExperimentResult, experiment_of, read_experiment_result
from broker.support.tasks import Tasks
from router.learning.declared_state import DeclaredState
from router.learning.endpoint import EndpointLearner, LearnerSettings
from router.learning.experiment import Experiment
from router.learning.fold import ExperimentSpec
from router.learning.leadership import Leadership
from router.learning.ledger import LeaderSuperseded, Ledger
from router.learning.metrics import LearnerMetrics

log = logging.getLogger(__name__)

LOOK_S = 0.25
SPARE_US = 60_000_000  # behind a request's deadline: so long its row may still come twice

Read = Callable[[Endpoint], Experiment[Any] | None]
Learning = tuple[EndpointLearner, asyncio.Task[None]]


async def run(
    broker: Broker,
    settings: LearnerSettings,
    ledger_path: Path,
    read: Read,
    registry: CollectorRegistry,
    stop: asyncio.Event,
) -> None:
    """Lead when nobody else does, until `stop`. `read` says what a declared policy learns, None for nothing."""
    tasks, metrics, ledger = Tasks(), LearnerMetrics(registry), Ledger(ledger_path)
    await broker.declare(broker.channels.declared)
    await broker.declare(broker.channels.status)
    leadership = Leadership(broker, settings.instance)
    declared, state = DeclaredEndpoints(leadership), DeclaredState(broker)

    def fold(record: Record) -> None:
        declared.fold(record)
        state.fold(record)

    def anew() -> None:
        leadership.begin_anew()
        tasks.spawn(state.write_again(), "declared again")

    following = LogFollower(broker, broker.channels.declared, 0, fold, on_recreated=anew)
    tasks.spawn(following.run(), "declared")
    status = follow_status(broker, leadership.fold_status)
    tasks.spawn(status.run(), "status")
    await following.caught_up.wait()
    await status.caught_up.wait()
    announcer = Heartbeat(
        broker,
        instance=settings.instance,
        part="learner",
        metrics_port=settings.metrics_port,
        troubles=lambda: [leadership.trouble] if leadership.trouble else [],
    )
    await announcer.set_state("ready")
    tasks.spawn(announcer.beat(), "heartbeat")
    service = LearnerService(broker, settings, ledger, declared, leadership, read, metrics)
    try:
        await service.run(stop)
    finally:
        await ledger.close()
        await announcer.set_state("stopped")
        await tasks.cancel()


class DeclaredEndpoints:
    """The endpoints as the `declared` log tells them, and the claims beside them."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self.endpoints: dict[str, Endpoint] = {}
        self.verdicts: dict[tuple[str, str], ExperimentResult] = {}  # by endpoint and experiment
        self.changes = 0

    def fold(self, record: Record) -> None:
        """Take in a record."""
        self._leadership.fold_declared(record)
        verdict = read_experiment_result(record)
        if verdict is not None:
            self.verdicts[verdict.endpoint, verdict.experiment] = verdict
        said = read_declared(record)
        if said is None:
            return
        self.changes += 1
        if said.declaration is None:
            self.endpoints.pop(said.endpoint, None)
        else:
            self.endpoints[said.endpoint] = said.declaration


class LearnerService:
    """Waits until nobody leads, leads, and stops when somebody else claims."""

    def __init__(
        self,
        broker: Broker,
        settings: LearnerSettings,
        ledger: Ledger,
        declared: DeclaredEndpoints,
        leadership: Leadership,
        read: Read,
        metrics: LearnerMetrics,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._ledger = ledger
        self._declared = declared
        self._leadership = leadership
        self._read = read
        self._metrics = metrics
        self._is_open = False
        self._leaving: dict[str, asyncio.Task[None]] = {}  # learners of endpoints that are declared anew
        self._known: tuple[int, dict[str, tuple[ExperimentSpec, Experiment[Any]]]] = (-1, {})

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        while not stop.is_set():
            term = self._leadership.term
            if term is None and self._leadership.is_vacant and self._wanted():
                await self._open()  # who cannot write should not lead
                term = await self._leadership.claim()
            if term is not None and await self._leadership.still() == term:
                await self._lead(term, stop)
            await _pause(stop)

    async def _open(self) -> None:
        if not self._is_open:
            await self._ledger.open()
            self._is_open = True

    async def _lead(self, term: int, stop: asyncio.Event) -> None:
        log.info("leading, with claim %d", term)
        if trouble := self._leadership.trouble:
            log.error("%s", trouble)
        await self._open()
        await self._ledger.lead(term)
        self._metrics.leads.set(1)
        learners: dict[str, Learning] = {}
        try:
            while not stop.is_set() and self._leadership.term == term:
                if not self._look(learners, term):
                    break
                await _pause(stop)
        finally:
            self._metrics.leads.set(0)
            tasks = [*self._leaving.values(), *[task for _, task in learners.values()]]
            for learner, task in learners.values():
                if stop.is_set():  # whoever starts next may have another declaration, or another folder
                    learner.leave()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        log.info("not leading any more, with claim %d", term)

    def _look(self, learners: dict[str, Learning], term: int) -> bool:
        """Start and stop learners as endpoints are declared; False when the ledger has another leader."""
        for endpoint, (_, task) in list(learners.items()):
            if task.done():
                if is_superseded(task.exception()):
                    return False
                _say_ended(endpoint, task.exception())
                del learners[endpoint]
        wanted = self._wanted()
        for endpoint, (learner, task) in list(learners.items()):
            if endpoint not in wanted or wanted[endpoint][0].experiment != learner.subject.experiment:
                learner.leave()
                task.cancel()
                self._leaving[endpoint] = learners.pop(endpoint)[1]
        self._leaving = {endpoint: task for endpoint, task in self._leaving.items() if not task.done()}
        for endpoint, (subject, experiment) in wanted.items():
            if endpoint not in learners and endpoint not in self._leaving:
                learner = EndpointLearner(
                    self._broker,
                    self._ledger,
                    subject,
                    experiment,
                    self._settings,
                    self._metrics,
                    term,
                    self._declared.verdicts.get((endpoint, subject.experiment)),
                )
                learners[endpoint] = (learner, asyncio.create_task(learner.run(), name=f"learn-{endpoint}"))
        return True

    def _wanted(self) -> dict[str, tuple[ExperimentSpec, Experiment[Any]]]:
        """Return what there is to learn; a policy that cannot be read is left out, for routers refuse it too."""
        if self._known[0] != self._declared.changes:
            self._known = (self._declared.changes, self._read_all())
        return self._known[1]

    def _read_all(self) -> dict[str, tuple[ExperimentSpec, Experiment[Any]]]:
        found = {}
        for endpoint, declaration in self._declared.endpoints.items():
            try:
                experiment = self._read(declaration)
            except Misconfigured:
                continue
            if experiment is not None:
                found[endpoint] = (subject_of(declaration), experiment)
        return found


def is_superseded(error: BaseException | None) -> bool:
    """Tell whether a learner ended because somebody else writes the ledger."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_superseded, error.exceptions))
    return isinstance(error, LeaderSuperseded)


def _say_ended(endpoint: str, error: BaseException | None) -> None:
    """Say why a learner ended that starts again: a broker that is away for a moment needs no traceback."""
    errors = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    if all(isinstance(one, TryAgain) for one in errors):
        log.warning("endpoint %s: its learner ended (%s); it starts again", endpoint, errors[0])
    else:
        log.error("endpoint %s: its learner ended; it starts again", endpoint, exc_info=error)


def subject_of(declaration: Endpoint) -> ExperimentSpec:
    """Return what is folded for an endpoint."""
    return ExperimentSpec(
        endpoint=declaration.endpoint,
        experiment=experiment_of(declaration),
        arms=tuple(declaration.arms),
        rewards=declaration.feedback.rewards,
        dedupe_us=int(declaration.deadline * 1e6) + SPARE_US,
    )


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_S):
            await stop.wait()
    except TimeoutError:
        return
