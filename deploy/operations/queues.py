"""The queues of an installation whose arguments differ from its settings, and how they get them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.base import Broker
from broker.channels import NO_LIMITS, Kind, Limits
from broker.errors import Misconfigured
from deploy.operations.dead_queues import find_grounds
from deploy.operations.inspection import read_view


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferingQueue:
    """A queue that is there with other arguments, and the limits that it should have."""

    queue: str
    how: str
    limits: Limits
    is_log: bool


async def find_differing(broker: Broker, repository: Path, limits: Limits) -> list[DifferingQueue]:
    """Return the channels whose arguments are not those of these settings."""
    grounds = await find_grounds(broker, repository)
    versions = [(model, version) for model, found in grounds.models.items() for version in found]
    found = []
    for channel, wanted in _wanted(broker, list(grounds.endpoints), versions, limits):
        if how := await broker.difference(channel, wanted):
            is_log = broker.channels.kind(channel) is Kind.LOG
            found.append(DifferingQueue(queue=channel, how=how, limits=wanted, is_log=is_log))
    return found


async def check_stopped(broker: Broker) -> None:
    """Raise Misconfigured if parts of the installation run: what they publish meanwhile could be lost."""
    view = await read_view(broker)
    if running := sorted({said.part for said, _ in view.processes.live()}):
        raise Misconfigured(f"{', '.join(running)} of this installation still run: stop them first")


async def migrate(broker: Broker, differing: DifferingQueue, moved: Callable[[int], None]) -> int:
    """Give a queue the arguments that it should have; returns how many messages were lost."""
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
