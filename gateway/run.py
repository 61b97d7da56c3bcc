"""A whole gateway: the logs that it follows, the routes that it serves, and the order in which it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.messages import Record
from broker.records.agreement import write_agreement
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
    view, metrics = View(key), GatewayMetrics(registry)
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
    heartbeat = Heartbeat(
        broker,
        instance=settings.instance,
        part="gateway",
        metrics_port=settings.metrics_port,
        troubles=lambda: [core.rows.trouble] if core.rows.trouble else [],
    )
    member = Membership(broker, heartbeat)
    await _follow(core, member)
    await core.pending.open()
    await stored.open()
    infer = InferRoute(core, sending, stored)
    await member.announce("ready", full=write_agreement(settings.agreement) if settings.agreement else None)
    member.spawn(keep_comparing(view.members, heartbeat, registry), "agreement")
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
        await member.leave()


async def _follow(core: Core, member: Membership) -> None:
    view = core.view

    def fold_status(record: Record) -> None:
        view.fold_status(record)
        core.computed.fold(record)

    for name, follower in (await member.follow(declared=view.fold_declared, status=fold_status)).items():
        core.readiness.follow(name, follower)
    member.spawn(CheckpointBootstrap(core.broker, view).run(), "checkpoint bootstrap")


async def _within(grace_s: float, work: Awaitable[None], subject: str) -> None:
    """Wait for the last writes, for at most `grace_s` seconds: the broker may be gone."""
    try:
        async with asyncio.timeout(grace_s):
            await work
    except TimeoutError:
        logger.warning("stopped after %.0f s, before the broker had confirmed all %s", grace_s, subject)
