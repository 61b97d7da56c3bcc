"""Waits until a whole installation is ready.

It is ready when every part has announced itself ready, and every model of the repository is served or has failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from broker.base import Broker
from broker.delivery.log_follower import LogFollower, follow_status
from broker.errors import Misconfigured, Unavailable
from broker.support.tasks import Tasks
from deploy.operations.inspection import withheld_arms
from deploy.supervision.supervisor import Supervisor, wait_until_ready
from deploy.wiring import Installation
from processors.repository import RepositorySnapshot, scan
from router.state.view import View

EVERY_S = 0.1
PART_OF_ANNOUNCEMENT = {"catalog": "processors"}  # where the name in an announcement differs from the part's name


async def wait_until_served(
    installation: Installation, supervisor: Supervisor, limit_s: float, still: Callable[[], bool]
) -> list[str]:
    """Wait until the installation is ready, while `still` holds.

    Returns the problems: models and arms that are not served, with the reason. Raises Unavailable with the missing
    parts and models after `limit_s` seconds.
    """
    until = time.monotonic() + limit_s
    async with installation.broker() as broker:
        view, tasks = View(b""), Tasks()
        await _follow(broker, view, tasks)
        try:
            problems = await _settled(installation, supervisor, view, until, still)
        finally:
            await tasks.cancel()
        served = [name for name in view.endpoints() if view.versions.mask(view.router(name).endpoint)]
        while still() and await broker.missing([broker.channels.requests(name) for name in served]):
            if time.monotonic() > until:
                break
            await asyncio.sleep(EVERY_S)  # the router declares them soon; a queue client must not be earlier
    gateway = installation.settings.gateway
    for name in served:
        limit_s = max(0.0, until - time.monotonic())
        await wait_until_ready(gateway.http_port, gateway.host, limit_s, still, path=f"/v2/models/{name}/ready")
    return problems


async def _follow(broker: Broker, view: View, tasks: Tasks) -> None:
    channels = broker.channels
    for log in (channels.declared, channels.status):
        await broker.declare(log)
    tasks.spawn(LogFollower(broker, channels.declared, 0, view.fold_declared).run(), channels.declared)
    tasks.spawn(follow_status(broker, view.fold_status).run(), channels.status)


async def _settled(
    installation: Installation, supervisor: Supervisor, view: View, until: float, still: Callable[[], bool]
) -> list[str]:
    repository = installation.settings.repository_folder
    while still():
        found = await asyncio.to_thread(_repository, installation)
        missing = [*_parts(supervisor, view), *_models(found, view)]
        if not missing:
            break
        if time.monotonic() > until:
            raise Unavailable(f"still waiting for {', '.join(missing)}; see millrace status")
        await asyncio.sleep(EVERY_S)
    withheld = withheld_arms(view.declarations(), repository)
    return [*map(str, _repository(installation).problems.values()), *withheld, *_failed(view)]


def _parts(supervisor: Supervisor, view: View) -> Iterator[str]:
    """Yield the parts that have not announced themselves ready; announcements of earlier processes do not count."""
    ready = {
        (PART_OF_ANNOUNCEMENT.get(announcement.part, announcement.part), announcement.pid)
        for announcement, _ in view.processes.newest.values()
        if announcement.state == "ready"
    }
    for child in supervisor.children.values():
        if child.process is None or (child.part, child.process.pid) not in ready:
            yield child.part


def _models(found: RepositorySnapshot, view: View) -> Iterable[str]:
    for model in found.models.values():
        for version in model.versions:
            name = model.config.name
            served = view.versions.by_model.get(name, {}).get(version.number)
            if not view.versions.is_ready(name, version.number) and not (served and served.error):
                yield f"model {name}@{version.number}"


def _repository(installation: Installation) -> RepositorySnapshot:
    """Scan the repository; a missing folder is a snapshot without models and with the problem."""
    try:
        return scan(installation.settings.repository_folder)
    except Misconfigured as exc:
        return RepositorySnapshot(models={}, problems={"": exc})


def _failed(view: View) -> Iterator[str]:
    for versions in view.versions.by_model.values():
        for served in versions.values():
            if served.error and not view.versions.is_ready(served.model, served.version):
                yield f"model {served.model}@{served.version}: {served.error}"
