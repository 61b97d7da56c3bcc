"""Finds queues whose arguments differ from the settings, and migrates them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.base import Broker
from broker.channels import NO_LIMITS, Kind, Limits
from broker.errors import Misconfigured
from deploy.operations.dead_queues import find_dead_queues
from deploy.operations.inspection import read_view


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferingQueue:
    """A channel whose arguments differ from the settings (`how`), and the limits that it should have."""

    queue: str
    how: str
    limits: Limits
    is_log: bool


async def find_differing(broker: Broker, repository: Path, limits: Limits) -> list[DifferingQueue]:
    """Return the channels that exist with other arguments than the settings give."""
    dead_queues = await find_dead_queues(broker, repository)
    versions = [(model, version) for model, found in dead_queues.models.items() for version in found]
    found = []
    for channel, wanted in _wanted(broker, list(dead_queues.endpoints), versions, limits):
        if how := await broker.difference(channel, wanted):
            is_log = broker.channels.kind(channel) is Kind.LOG
            found.append(DifferingQueue(queue=channel, how=how, limits=wanted, is_log=is_log))
    return found


async def check_stopped(broker: Broker) -> None:
    """Raise Misconfigured if parts of the installation run: messages that they publish could be lost."""
    view = await read_view(broker)
    if running := sorted({announcement.part for announcement, _ in view.processes.live()}):
        raise Misconfigured(f"{', '.join(running)} of this installation still run: stop them first")


async def migrate(broker: Broker, differing: DifferingQueue, moved: Callable[[int], None]) -> int:
    """Recreate a queue with the limits of the settings, keeping its messages; returns how many were lost.

    `moved` is called with the number of each batch of moved messages; every message moves twice.
    """
    return await broker.migrate(differing.queue, differing.limits, moved)


def _wanted(
    broker: Broker, endpoints: list[str], versions: list[tuple[str, int]], limits: Limits
) -> Iterator[tuple[str, Limits]]:
    channels = broker.channels
    for endpoint in endpoints:
        requests = channels.requests(endpoint)
        yield requests, limits
        yield channels.dead(requests), NO_LIMITS
        yield channels.results(endpoint), NO_LIMITS
        yield channels.events(endpoint), NO_LIMITS
    for model, version in versions:
        inputs = channels.inputs(model, version)
        yield inputs, limits
        yield channels.retry(inputs), NO_LIMITS
        yield channels.dead(inputs), NO_LIMITS
