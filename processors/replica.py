"""One process that serves one model version: it loads the version, runs its pipeline, and announces its state."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.channels import NO_LIMITS, Limits
from broker.delivery.clocks import CLOCKS
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.errors import MillraceError
from broker.protocol.answers import clean
from broker.records.declared_endpoints import DeclaredEndpoints
from broker.support.tasks import Tasks
from processors.cancels import CancelledRequests
from processors.loading import load_model
from processors.metrics import ProcessorMetrics
from processors.model import LoadedModel, describe
from processors.pipeline import Pipeline, PipelineSettings
from processors.queue_readiness import QueueReadiness
from processors.retry_service import RetryService

CANCELS_OVER_S = 300.0  # a replica reads the cancels of the last minutes before its start


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """The model version that a replica serves, and its resources."""

    instance: str
    repository: Path
    kept_configs: Path
    model: str
    version: int
    device: str = "auto"
    threads: int = 1
    grace_s: float = 20.0
    limits: Limits = NO_LIMITS
    metrics_port: int = 0


class Replica:
    """Serves one model version until it is stopped."""

    def __init__(self, broker: Broker, spec: ReplicaSpec, registry: CollectorRegistry) -> None:
        self._broker = broker
        self._spec = spec
        self._registry = registry
        self._declared = DeclaredEndpoints()
        self._cancels = CancelledRequests()
        self._tasks = Tasks()
        self._pipeline: Pipeline | None = None
        self._readiness: QueueReadiness | None = None
        self._metrics: ProcessorMetrics | None = None
        self._heartbeat = Heartbeat(
            broker,
            instance=spec.instance,
            part="replica",
            model=spec.model,
            version=spec.version,
            metrics_port=spec.metrics_port,
            in_flight=lambda: self._pipeline.in_flight if self._pipeline else 0,
            troubles=self._troubles,
            stats=lambda: self._metrics.statistics.write() if self._metrics else {},
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Load the model, serve until `stop`, and finish the held requests. Errors are announced and raised."""
        spec = self._spec
        member = Membership(self._broker, self._heartbeat)
        followers = await member.follow(
            declared=self._declared.fold, status=self._cancels.fold, status_since_s=CANCELS_OVER_S
        )
        await member.announce("loading")
        try:
            model = await load_model(
                spec.repository,
                spec.model,
                spec.version,
                kept_configs=spec.kept_configs,
                device=spec.device,
                threads=spec.threads,
            )
            gc.collect()
            gc.freeze()  # the hundred thousands of objects of torch stay, so collections need not visit them again
            await followers["declared"].caught_up.wait()
            await CLOCKS.measured()
            await self._serve(model, stop)
        except MillraceError as exc:
            await self._heartbeat.set_state("failed", error=clean(str(exc)))
            raise
        finally:
            await self._tasks.cancel()
            await member.end_tasks()

    async def _serve(self, model: LoadedModel, stop: asyncio.Event) -> None:
        spec = self._spec
        metrics = self._metrics = ProcessorMetrics(self._registry, spec.model, spec.version)
        settings = PipelineSettings(instance=spec.instance, grace_s=spec.grace_s)
        pipeline = self._pipeline = Pipeline(
            self._broker, model, self._declared.by_name, settings, metrics, self._cancels
        )
        retries = RetryService(self._broker, pipeline)
        readiness = self._readiness = QueueReadiness(self._heartbeat, describe(model.config, [spec.version]))
        try:
            await self._broker.declare(pipeline.queue, spec.limits)
            await self._broker.declare(retries.queue)
            while not stop.is_set():
                await self._serve_queue(pipeline, retries, readiness, stop)
                if not stop.is_set():
                    await retries.serve(stop)
        finally:
            pipeline.close()
        await self._heartbeat.set_state("stopped")
        model.runtime.unload()

    async def _serve_queue(
        self, pipeline: Pipeline, retries: RetryService, readiness: QueueReadiness, stop: asyncio.Event
    ) -> None:
        """Serve the model's queue until the retry queue holds a request or the replica is stopped."""
        consumer = self._broker.consume(pipeline.queue, pipeline.prefetch)
        has_retries = self._tasks.spawn(retries.wait(), "retry-watch")
        stopped = self._tasks.spawn(stop.wait(), "stop-watch")

        async def interrupt() -> None:
            await asyncio.wait((has_retries, stopped), return_when=asyncio.FIRST_COMPLETED)
            await consumer.stop()

        watches = (
            has_retries,
            stopped,
            self._tasks.spawn(interrupt(), "interrupt"),
            self._tasks.spawn(readiness.watch(consumer), "ready-watch"),
        )
        try:
            await pipeline.run(consumer)
        finally:
            for task in watches:
                task.cancel()

    def _troubles(self) -> list[str]:
        troubles = (
            self._pipeline.trouble if self._pipeline else "",
            self._readiness.trouble if self._readiness else "",
        )
        return [trouble for trouble in troubles if trouble]
