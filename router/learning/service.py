"""The learner process: of all that run one leads, and learns for every endpoint whose policy learns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.errors import Misconfigured, TryAgain
from broker.messages import Record
from broker.records.declared_endpoints import DeclaredEndpoints
from broker.records.endpoint import Endpoint
from broker.records.routing import ExperimentResult, read_experiment_result
from broker.support.tasks import wait_for_event
from router.learning.declared_state import DeclaredState
from router.learning.endpoint import EndpointLearner
from router.learning.experiment import Experiment, ExperimentSpec, spec_of
from router.learning.leadership import Leadership
from router.learning.ledger import LeaderSuperseded, Ledger
from router.learning.metrics import LearnerMetrics
from router.learning.settings import CHECK_S, LearnerSettings

logger = logging.getLogger(__name__)

ReadExperiment = Callable[[Endpoint], Experiment[Any] | None]
Experiments = dict[str, tuple[ExperimentSpec, Experiment[Any]]]


async def run(
    broker: Broker,
    settings: LearnerSettings,
    ledger_path: Path,
    read: ReadExperiment,
    registry: CollectorRegistry,
    stop: asyncio.Event,
) -> None:
    """Lead while no other learner does, until `stop`. `read` returns the experiment of a declared policy, or None."""
    metrics, ledger = LearnerMetrics(registry), Ledger(ledger_path)
    leadership = Leadership(broker, settings.instance)
    wanted, state = DeclaredExperiments(read), DeclaredState(broker)

    def fold(record: Record) -> None:
        leadership.fold_declared(record)
        wanted.fold(record)
        state.fold(record)

    heartbeat = Heartbeat(
        broker,
        instance=settings.instance,
        part="learner",
        metrics_port=settings.metrics_port,
        troubles=lambda: [leadership.trouble] if leadership.trouble else [],
    )
    member = Membership(broker, heartbeat)

    def write_again() -> None:
        leadership.forget_claims()
        member.spawn(state.write_again(), "declared again")

    await member.follow(declared=fold, status=leadership.fold_status, on_declared_recreated=write_again)
    await member.caught_up()
    await member.announce("ready")
    learners = EndpointLearners(broker, ledger, wanted, settings, metrics)
    service = LearnerService(ledger, wanted, leadership, learners, metrics, check_s=settings.check_s)
    try:
        await service.run(stop)
    finally:
        await ledger.close()
        await member.leave()


class DeclaredExperiments:
    """The experiments of all declared endpoints, and the results of those that have ended: a fold of `declared`."""

    def __init__(self, read: ReadExperiment) -> None:
        self._read = read
        self._endpoints = DeclaredEndpoints()
        self._current: tuple[int, Experiments] = (-1, {})  # the number of changes at the time, and the experiments
        self.results: dict[tuple[str, str], ExperimentResult] = {}  # by endpoint and experiment

    def fold(self, record: Record) -> None:
        """Fold a record of the log."""
        result = read_experiment_result(record)
        if result is not None:
            self.results[result.endpoint, result.experiment] = result
        self._endpoints.fold(record)

    def current(self) -> Experiments:
        """Return the experiments by endpoint, without those whose policy cannot be read: routers refuse it, too."""
        if self._current[0] != self._endpoints.changes:
            self._current = (self._endpoints.changes, self._read_all())
        return self._current[1]

    def _read_all(self) -> Experiments:
        found = {}
        for endpoint, declaration in self._endpoints.by_name.items():
            try:
                experiment = self._read(declaration)
            except Misconfigured:
                continue
            if experiment is not None:
                found[endpoint] = (spec_of(declaration), experiment)
        return found


class EndpointLearners:
    """One task for each endpoint whose policy learns, while this process leads."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        wanted: DeclaredExperiments,
        settings: LearnerSettings,
        metrics: LearnerMetrics,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._wanted = wanted
        self._settings = settings
        self._metrics = metrics
        self._running: dict[str, tuple[EndpointLearner, asyncio.Task[None]]] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}  # learners of experiments that were replaced

    def update(self, term: int) -> bool:
        """Start and stop learners as endpoints are declared; return False when the ledger has another leader."""
        if not self._remove_ended():
            return False
        wanted = self._wanted.current()
        for endpoint, (learner, task) in list(self._running.items()):
            if endpoint not in wanted or wanted[endpoint][0].experiment != learner.spec.experiment:
                learner.leave()
                task.cancel()
                self._stopping[endpoint] = self._running.pop(endpoint)[1]
        self._stopping = {endpoint: task for endpoint, task in self._stopping.items() if not task.done()}
        for endpoint, (spec, experiment) in wanted.items():
            if endpoint not in self._running and endpoint not in self._stopping:
                self._start(spec, experiment, term)
        return True

    async def stop(self, *, leave_checkpoints: bool) -> None:
        """Cancel all learners and wait for them."""
        tasks = [*self._stopping.values(), *[task for _, task in self._running.values()]]
        for learner, task in self._running.values():
            if leave_checkpoints:
                learner.leave()
            task.cancel()
        self._running, self._stopping = {}, {}
        await asyncio.gather(*tasks, return_exceptions=True)

    def _remove_ended(self) -> bool:
        for endpoint, (_, task) in list(self._running.items()):
            if task.done():
                if is_superseded(task.exception()):
                    return False
                _log_end(endpoint, task.exception())
                del self._running[endpoint]
        return True

    def _start(self, spec: ExperimentSpec, experiment: Experiment[Any], term: int) -> None:
        learner = EndpointLearner(
            self._broker,
            self._ledger,
            spec=spec,
            experiment=experiment,
            settings=self._settings,
            metrics=self._metrics,
            term=term,
            result=self._wanted.results.get((spec.endpoint, spec.experiment)),
        )
        task = asyncio.create_task(learner.run(), name=f"learn-{spec.endpoint}")
        self._running[spec.endpoint] = (learner, task)


class LearnerService:
    """Waits until no other learner leads, leads, and stops when another one claims leadership."""

    def __init__(
        self,
        ledger: Ledger,
        wanted: DeclaredExperiments,
        leadership: Leadership,
        learners: EndpointLearners,
        metrics: LearnerMetrics,
        *,
        check_s: float = CHECK_S,
    ) -> None:
        self._check_s = check_s
        self._ledger = ledger
        self._wanted = wanted
        self._leadership = leadership
        self._learners = learners
        self._metrics = metrics
        self._is_open = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        while not stop.is_set():
            term = self._leadership.term
            if term is None and self._leadership.is_vacant and self._wanted.current():
                await self._open()  # a learner that cannot write its ledger should not lead
                term = await self._leadership.claim()
            if term is not None and await self._leadership.confirmed_term() == term:
                await self._lead(term, stop)
            await wait_for_event(stop, self._check_s)

    async def _open(self) -> None:
        if not self._is_open:
            await self._ledger.open()
            self._is_open = True

    async def _lead(self, term: int, stop: asyncio.Event) -> None:
        logger.info("leading, with claim %d", term)
        if trouble := self._leadership.trouble:
            logger.error("%s", trouble)
        await self._open()
        await self._ledger.lead(term)
        self._metrics.leads.set(1)
        try:
            while not stop.is_set() and self._leadership.term == term:
                if not self._learners.update(term):
                    break
                await wait_for_event(stop, self._check_s)
        finally:
            self._metrics.leads.set(0)
            # The next process may have other declarations, or another data folder: it needs checkpoints.
            await self._learners.stop(leave_checkpoints=stop.is_set())
        logger.info("not leading any more, with claim %d", term)


def is_superseded(error: BaseException | None) -> bool:
    """Return True if a learner ended because another one writes the ledger."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_superseded, error.exceptions))
    return isinstance(error, LeaderSuperseded)


def _log_end(endpoint: str, error: BaseException | None) -> None:
    """Log why a learner ended that starts again: no traceback if the broker is only away for a moment."""
    errors = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    if all(isinstance(one, TryAgain) for one in errors):
        logger.warning("endpoint %s: its learner ended (%s); it starts again", endpoint, errors[0])
    else:
        logger.error("endpoint %s: its learner ended; it starts again", endpoint, exc_info=error)
