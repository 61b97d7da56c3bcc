"""Looking at what is there: one reading of the `declared` and `status` logs, from outside of every part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.base import Broker, Since
from broker.delivery.log_follower import LogFollower
from broker.errors import Misconfigured
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from broker.records.status import FULL_EVERY_S
from processors.config import CONFIG_FILE
from processors.repository import scan
from router.state.view import View


def _nothing(_: Record) -> None:
    """Stand where nobody else wants to see the records of `declared`."""


async def read_view(connection: Broker, declared: Callable[[Record], None] = _nothing) -> View:
    """Read both logs, and listen for one heartbeat; `declared` sees every record of that log, too.

    A log that is not there has said nothing: who only looks makes none.
    """
    view = View(b"")
    channels = connection.channels

    def fold(record: Record) -> None:
        view.fold_declared(record)
        declared(record)

    lately = Since(now_us() - int(2 * FULL_EVERY_S * 1e6))
    wanted = (
        (channels.declared, LogFollower(connection, channels.declared, 0, fold)),
        (channels.status, LogFollower(connection, channels.status, lately, view.fold_status)),
    )
    logs = [following for log, following in wanted if await connection.exists(log)]
    tasks = [asyncio.create_task(log.run()) for log in logs]
    for log in logs:
        await log.caught_up.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return view


def left_out(repository: Path) -> list[str]:
    """Return what in a model repository is not served, and why; nothing where the repository is on another machine."""
    try:
        snapshot = scan(repository)
    except Misconfigured:
        return []
    return [*map(str, snapshot.problems.values()), *snapshot.left_out()]


def withheld_arms(endpoints: Iterable[Endpoint], repository: Path) -> list[str]:
    """Return the arms whose version is in the repository and not served, by the model's version policy."""
    try:
        models = scan(repository).models
    except Misconfigured:
        return []
    return [
        f"endpoint {endpoint.endpoint}: arm {arm} names {target.model}@{target.version}, which the version_policy of "
        f"{target.model} does not serve: add version_policy {{ all {{}} }} to its {CONFIG_FILE}"
        for endpoint in endpoints
        for arm, target in endpoint.arms.items()
        if target.model in models and target.version in models[target.model].withheld
    ]
