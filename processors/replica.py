"""One process that serves models: it loads them, runs their pipelines, and says how it is."""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from broker.base import Broker, Consumer
from broker.channels import NO_LIMITS, Limits
from broker.delivery.clocks import CLOCKS
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.log_follower import LogFollower, follow_status
from broker.errors import MillraceError, TryAgain
from broker.messages import Record
from broker.protocol.answers import clean
from broker.records.declared import read_declared
from broker.records.endpoint import Endpoint
from broker.support.tasks import Tasks
from processors.cancels import CancelledRequests
from processors.kept_config import config_to_load, keep_config
from processors.metrics import ProcessorMetrics
from processors.model import LoadedModel, describe
from processors.pipeline import Pipeline, PipelineSettings
from processors.runtimes.registry import load

LANE_EVERY_S = 1.0
LANE_WAIT_S = 1.0
READY_EVERY_S = 0.05
LOOK_EVERY_S = 0.5
LOST_AFTER_S = 5.0  # without the queue: most are there again by then
NEVER_CAME_AFTER_S = 30.0  # a group of Kafka's may wait that long for its members
CANCELS_OVER_S = 300.0  # of cancels from before its start a replica reads those of the last minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """Which model version a replica serves, and with what."""

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
    """Serves one model version (N = 1 for now) until it is stopped."""

    def __init__(self, broker: Broker, spec: ReplicaSpec, registry: CollectorRegistry) -> None:
        self._broker = broker
        self._spec = spec
        self._registry = registry
        self._endpoints: dict[str, Endpoint] = {}
        self._cancels = CancelledRequests()
        self._tasks = Tasks()
        self._pipeline: Pipeline | None = None
        self._full: dict[str, Any] = {}  # what the model says of itself
        self._was_ready = False
        self._queue_trouble = ""  # why the queue cannot be taken from
        self._metrics: ProcessorMetrics | None = None
        self._announcer = Heartbeat(
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
        """Load, serve until `stop`, finish what is held. Raises what loading raised, after it was announced."""
        self._stop = stop
        await self._broker.declare(self._broker.channels.declared)
        await self._broker.declare(self._broker.channels.status)
        await self._announcer.set_state("loading")
        self._tasks.spawn(self._announcer.beat(), "heartbeat")
        following = LogFollower(self._broker, self._broker.channels.declared, 0, self._fold)
        self._tasks.spawn(following.run(), "declared")
        cancels = follow_status(self._broker, self._cancels.fold, since_s=CANCELS_OVER_S)
        self._tasks.spawn(cancels.run(), "cancels")
        try:
            model = await self._load()
            gc.collect()
            gc.freeze()  # torch's hundred thousands of objects stay: no collection needs to walk them again
            await following.caught_up.wait()
            await CLOCKS.measured()
            await self._serve(model)
        except MillraceError as exc:
            await self._announcer.set_state("failed", error=clean(str(exc)))
            raise
        finally:
            await self._tasks.cancel()

    async def _load(self) -> LoadedModel:
        spec = self._spec
        config = config_to_load(spec.repository / spec.model, spec.kept_configs)
        folder = spec.repository / spec.model / str(spec.version)
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "load")  # native libraries keep a pool for it: it ends, and theirs with it
        try:
            runtime = await loop.run_in_executor(
                thread, lambda: load(folder, config, device=config.device or spec.device, threads=spec.threads)
            )
            await loop.run_in_executor(thread, runtime.warm)
            keep_config(spec.repository / spec.model, spec.kept_configs)
        finally:
            thread.shutdown(wait=False)
        return LoadedModel(config, spec.version, runtime)

    async def _serve(self, model: LoadedModel) -> None:
        spec = self._spec
        metrics = self._metrics = ProcessorMetrics(self._registry, spec.model, spec.version)
        settings = PipelineSettings(instance=spec.instance, grace_s=spec.grace_s)
        pipeline = self._pipeline = Pipeline(self._broker, model, self._endpoints, settings, metrics, self._cancels)
        lane = self._broker.channels.retry(pipeline.queue)
        try:
            await self._broker.declare(pipeline.queue, spec.limits)
            await self._broker.declare(lane)
            self._full = dict(describe(model.config, [spec.version]))
            while not self._stop.is_set():
                await self._serve_queue(pipeline, lane)
                if not self._stop.is_set():
                    await self._serve_lane(pipeline, lane)
        finally:
            pipeline.close()
        await self._announcer.set_state("stopped")
        model.runtime.unload()

    async def _serve_queue(self, pipeline: Pipeline, lane: str) -> None:
        """Serve the main queue until the lane has something or the replica is stopped."""
        consumer = self._broker.consume(pipeline.queue, pipeline.prefetch)
        saying = self._tasks.spawn(self._say_whether_ready(consumer), "ready-watch")
        watch = self._tasks.spawn(self._wait_for_lane(lane), "lane-watch")
        stopped = self._tasks.spawn(self._stop.wait(), "stop-watch")

        async def interrupt() -> None:
            await asyncio.wait((watch, stopped), return_when=asyncio.FIRST_COMPLETED)
            await consumer.stop()

        interrupting = self._tasks.spawn(interrupt(), "interrupt")
        try:
            await pipeline.run(consumer)
        finally:
            self._queue_trouble = ""
            for task in (watch, stopped, interrupting, saying):
                task.cancel()

    async def _say_whether_ready(self, consumer: Consumer) -> None:
        """Announce that the queue can be taken from, and that it cannot: a queue that vanished is not served.

        A replica that was ready never says that it has failed for this: requests for it wait until it is back.
        """
        said, since_s = "", time.monotonic()  # since when there is a trouble
        while True:
            self._queue_trouble = consumer.trouble
            if not self._queue_trouble:
                since_s = time.monotonic()
                if said != "ready":
                    said, self._was_ready = "ready", True
                    await self._announcer.set_state("ready", full=self._full)
            elif not said or said == "ready":
                said = await self._say_not_ready(said, time.monotonic() - since_s)
            await asyncio.sleep(READY_EVERY_S if not said else LOOK_EVERY_S)

    async def _say_not_ready(self, said: str, waited_s: float) -> str:
        """Announce that the queue cannot be taken from, if it has been so for long; returns what is announced."""
        if waited_s <= (LOST_AFTER_S if said else NEVER_CAME_AFTER_S):
            return said
        if self._was_ready:
            await self._announcer.set_state("loading", full=self._full)
            return "loading"
        await self._announcer.set_state("failed", error=clean(self._queue_trouble))
        return "failed"

    def _troubles(self) -> list[str]:
        rows = self._pipeline.trouble if self._pipeline else ""
        return [trouble for trouble in (rows, self._queue_trouble if self._was_ready else "") if trouble]

    async def _wait_for_lane(self, lane: str) -> None:
        while not await self._lane_depth(lane):  # noqa: ASYNC110 - brokers tell depth only when asked
            await asyncio.sleep(LANE_EVERY_S)

    async def _serve_lane(self, pipeline: Pipeline, lane: str) -> None:
        """Run what came back, each request alone and with nothing else in hand."""
        consumer = self._broker.consume(lane, 1)
        try:
            while not self._stop.is_set() and await self._lane_depth(lane):
                try:
                    async with asyncio.timeout(LANE_WAIT_S):
                        deliveries = await consumer.take(1)
                except TimeoutError:
                    continue
                for delivery in deliveries:
                    await pipeline.run_alone(delivery)
        finally:
            await consumer.stop()
        # A broker that sends ahead has counted the last one as taken before it was.
        while deliveries := await consumer.take(1):
            for delivery in deliveries:
                await pipeline.run_alone(delivery)

    async def _lane_depth(self, lane: str) -> int:
        try:
            return (await self._broker.depth(lane)).messages
        except TryAgain:
            return 0

    def _fold(self, record: Record) -> None:
        declared = read_declared(record)
        if declared is None:
            return
        if declared.declaration is None:
            self._endpoints.pop(declared.endpoint, None)
        else:
            self._endpoints[declared.endpoint] = declared.declaration
