"""Helpers of `test_service.py` that other tests use, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.delivery.log_follower import LogFollower
from broker.protocol.ids import now_us
from broker.records.declared import endpoint_declared
from broker.records.endpoint import Endpoint, read_endpoint
from router.learning.declared import read_experiment
from router.learning.service import run
from router.learning.settings import LearnerSettings
from router.state.view import View
from tests.router.learning.traces import TracedRequest, feedback, rows
from tests.servers import kafka_url, rabbitmq_url
from tests.waiting import in_background

TICK_S = 0.02
WITHIN_S = 30.0
ARMS = {"a": "m@1", "b": "m@2", "c": "m@3"}
BANDIT = {
    "endpoint": "e",
    "arms": ARMS,
    "policy": {"bandit": "thompson", "reward": "clicked", "refresh": "2s"},
    "feedback": {"rewards": {"clicked": {"default": 0, "horizon": "5s"}}},
}
CANARY = {
    "endpoint": "e",
    "arms": ARMS,
    "policy": {"canary": "c", "stable": "a", "steps": ["5%", "50%"], "hold": {"canary_requests": 5, "time": "60s"}},
}
BROKERS: dict[str, Callable[[], str]] = {"rabbitmq": rabbitmq_url, "kafka": kafka_url}


@asynccontextmanager
async def learning(broker: Broker, folder: Path, name: str = "learner-1") -> AsyncIterator[CollectorRegistry]:
    """Run a learner as long as the block."""
    stop, registry = asyncio.Event(), CollectorRegistry()
    settings = LearnerSettings(instance=name, tick_s=TICK_S)
    task = asyncio.create_task(run(broker, settings, folder / "learner.db", read_experiment, registry, stop))
    try:
        yield registry
    finally:
        stop.set()
        await task


@asynccontextmanager
async def viewing(broker: Broker) -> AsyncIterator[View]:
    """Follow the logs as a gateway does."""
    view = View(b"key")
    for log in (broker.channels.declared, broker.channels.status):
        await broker.declare(log)
    async with in_background(
        LogFollower(broker, broker.channels.declared, 0, view.fold_declared).run(),
        LogFollower(broker, broker.channels.status, 0, view.fold_status).run(),
    ):
        yield view


async def declare(broker: Broker, data: dict[str, Any]) -> Endpoint:
    endpoint = read_endpoint(data, source="test")
    await broker.declare(broker.channels.declared)
    await broker.append(broker.channels.declared, [endpoint_declared(endpoint, "test")])
    await broker.declare(broker.channels.events("e"))
    return endpoint


def requests(view: View, begin: int, number: int, better: str = "b") -> list[tuple[TracedRequest, bool]]:
    """Return requests as a gateway would decide them now, and whether each was liked: those of `better` are."""
    found = []
    for at in range(begin, begin + number):
        router = view.router("e")
        uid = TracedRequest(number=at, arm="a").uid
        plan = router.plan(uid, 0b111)
        leg = plan.legs[0]
        shown = TracedRequest(
            number=at,
            arm=leg.arm,
            policy=plan.policy,
            snapshot=plan.snapshot,
            propensity=plan.propensity,
            accepted_us=now_us(),
        )
        found.append((shown, leg.arm == better))
    return found


async def send(broker: Broker, shown: list[tuple[TracedRequest, bool]]) -> None:
    log = broker.channels.events("e")
    record = rows([one for one, _ in shown])
    await broker.append(log, [record.body], dict(record.headers))
    feedbacks = [feedback(one, now_us()) for one, liked in shown if liked]
    if feedbacks:
        await broker.append(log, [one.body for one in feedbacks], dict(feedbacks[0].headers))
