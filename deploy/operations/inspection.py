"""Reads the state of an installation from the logs `declared` and `status`, from outside its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from broker.base import Broker
from broker.delivery.log_follower import LogFollower, follow_status
from broker.errors import Misconfigured
from broker.messages import Record
from broker.records.endpoint import Endpoint
from processors.config import CONFIG_FILE
from processors.repository import scan
from router.state.view import View


def _nothing(_: Record) -> None:
    """Ignore a record."""


async def read_view(connection: Broker, declared: Callable[[Record], None] = _nothing) -> View:
    """Read `declared` from its start and the recent records of `status`, up to their present ends.

    `declared` is also called with every record of that log. A log that does not exist counts as empty and is not
    created.
    """
    view = View(b"")
    channels = connection.channels

    def fold(record: Record) -> None:
        view.fold_declared(record)
        declared(record)

    wanted = (
        (channels.declared, LogFollower(connection, channels.declared, 0, fold)),
        (channels.status, follow_status(connection, view.fold_status)),
    )
    logs = [following for log, following in wanted if await connection.exists(log)]
    tasks = [asyncio.create_task(log.run()) for log in logs]
    for log in logs:
        await log.caught_up.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return view


class LeftOut(NamedTuple):
    """The parts of a model repository that are not served, each with its reason."""

    broken: list[str]  # models whose config is wrong or missing
    ignored: list[str]  # folders that are no complete version


def left_out(repository: Path) -> LeftOut:
    """List the parts of a model repository that are not served; none if there is no such folder here."""
    try:
        snapshot = scan(repository)
    except Misconfigured:
        return LeftOut([], [])
    return LeftOut([*map(str, snapshot.problems.values())], snapshot.left_out())


def withheld_arms(endpoints: Iterable[Endpoint], repository: Path) -> list[str]:
    """List the arms whose version is in the repository but excluded by the model's version policy."""
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
