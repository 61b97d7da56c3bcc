"""A whole gateway: the logs that it follows, the routes that it serves, and the order in which it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.log_follower import LogFollower, follow_status
from broker.messages import Record
from broker.records.agreement import write_agreement
from broker.support.tasks import Tasks
from gateway.core.core import Core, GatewaySettings
from gateway.core.metrics import GatewayMetrics
from gateway.core.sending import RequestSender
from gateway.results.store import ResultsStore
from gateway.results.stored_requests import StoredRequests
from gateway.routes.app import front
from gateway.routes.infer import InferRoute
from gateway.server import serve
from router.state.checkpoint_bootstrap import CheckpointBootstrap
from router.state.members import keep_comparing
from router.state.view import View

logger = logging.getLogger(__name__)


async def run(
    broker: Broker,
    settings: GatewaySettings,
    key: bytes,
    results: ResultsStore,
    registry: CollectorRegistry,
    stop: asyncio.Event,
    *,
    on_started: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve HTTP until `stop`.

    `key` is the secret with which arms are drawn. `results` stores asynchronous requests. `on_started` is called with
    the port, before the gateway is ready: /v2/health/ready lists the things that it still waits for.
    """
    view, metrics, tasks = View(key), GatewayMetrics(registry), Tasks()
    view.members.introduce(settings.instance, settings.agreement)
    core = Core(broker, view, settings, metrics)
    sending = RequestSender(core)
    stored = StoredRequests(core, results, sending)
    metrics.watch(
        pending=lambda: len(core.pending),
        unclaimed=lambda: core.pending.unclaimed + core.pending.answers.unreadable,
        stored=lambda: len(stored.waits),
        used=lambda: stored.used_bytes,
    )
    metrics.watch_door(
        connections=lambda: len(core.door.connections),
        arriving=lambda: core.door.arriving_bytes,
        held=lambda: core.door.held_bytes,
    )
    await _follow(core, tasks)
    await core.pending.open()
    await stored.open()
    infer = InferRoute(core, sending, stored)
    heartbeat = Heartbeat(
        broker,
        instance=settings.instance,
        part="gateway",
        metrics_port=settings.metrics_port,
        troubles=lambda: [core.rows.trouble] if core.rows.trouble else [],
    )
    await heartbeat.set_state("ready", full=write_agreement(settings.agreement) if settings.agreement else None)
    tasks.spawn(heartbeat.beat(), "heartbeat")
    tasks.spawn(keep_comparing(view.members, heartbeat, registry), "agreement")
    try:
        await serve(
            core,
            front(core, infer, stored),
            (core.pending, stored.waits),
            host=settings.host,
            port=settings.port,
            stop=stop,
            on_started=on_started,
        )
    finally:
        await _within(settings.grace_s, infer.drain(), "requests that were accepted")
        await _within(settings.grace_s, core.rows.drain(), "rows of refused requests")
        await _within(settings.grace_s, core.cancels.drain(), "cancels")
        await core.pending.close()
        await stored.close()
        await results.close()
        await heartbeat.set_state("stopped")
        await tasks.cancel()


async def _follow(core: Core, tasks: Tasks) -> None:
    broker, view = core.broker, core.view
    declared, status = broker.channels.declared, broker.channels.status
    await broker.declare(declared)
    await broker.declare(status)

    def fold_status(record: Record) -> None:
        view.fold_status(record)
        core.computed.fold(record)

    for name, follower in (
        ("declared", LogFollower(broker, declared, 0, view.fold_declared)),
        ("status", follow_status(broker, fold_status)),
    ):
        core.readiness.follow(name, follower)
        tasks.spawn(follower.run(), name)
    tasks.spawn(CheckpointBootstrap(broker, view).run(), "checkpoint-bootstrap")


async def _within(grace_s: float, work: Awaitable[None], subject: str) -> None:
    """Wait for the last writes, for at most `grace_s` seconds: the broker may be gone."""
    try:
        async with asyncio.timeout(grace_s):
            await work
    except TimeoutError:
        logger.warning("stopped after %.0f s, before the broker had confirmed all %s", grace_s, subject)
