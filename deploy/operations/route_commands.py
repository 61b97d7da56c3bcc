"""Reads the routing of one endpoint from the logs, and sends operator commands to the learner."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.base import Broker
from broker.delivery.log_follower import LogFollower
from broker.errors import NotFound, Unavailable
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.declared import read_declared
from broker.records.endpoint import Endpoint
from broker.records.routing import (
    ExperimentResult,
    LeadershipClaim,
    OperatorCommand,
    SnapshotRecord,
    experiment_of,
    read_claim,
    read_experiment_result,
    write_operator_command,
)
from broker.records.status import SILENT_AFTER_S
from deploy.operations.inspection import read_view
from router.policies.declared import read_policy
from router.state.view import View

LOOK_S = 0.05
BEGUN_S = 5.0
START_ONE = "start one with `millrace learner`, or all parts with `millrace up`"


@dataclass(slots=True)
class DeclaredResults:
    """Records of `declared` that a `View` does not keep: the newest claim, the endpoint's result and its author."""

    claim: LeadershipClaim | None = None
    result: ExperimentResult | None = None
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedEndpoint:
    """The routing of one endpoint.

    `silent_s` is the time in seconds since the last heartbeat of the leading learner, None if no learner leads.
    `result` is the result of the experiment as it is declared now.
    """

    endpoint: Endpoint
    view: View
    claim: LeadershipClaim | None
    silent_s: float | None
    result: ExperimentResult | None
    author: str

    @property
    def snapshot(self) -> SnapshotRecord | None:
        """The newest snapshot of the experiment as it is declared now, None before the first."""
        return self.view.snapshot_of(self.endpoint.endpoint)

    @property
    def is_led(self) -> bool:
        """True if a learner leads and sends heartbeats."""
        return self.silent_s is not None and self.silent_s < SILENT_AFTER_S

    @property
    def may_be_led(self) -> bool:
        """True if a learner runs: it may claim leadership soon, even if none leads yet."""
        return any(
            announcement.part == "learner"
            and announcement.state == "ready"
            and now_us() - announcement.at_us < SILENT_AFTER_S * 1e6
            for announcement, _ in self.view.processes.newest.values()
        )

    @property
    def learns(self) -> bool:
        """True if the learner sets the weights of this policy."""
        return read_policy(self.endpoint).learns


async def inspect_endpoint(connection: Broker, name: str) -> RoutedEndpoint:
    """Read an endpoint's routing from the logs; raises NotFound, listing the declared endpoints."""
    claims = DeclaredResults()

    def fold(record: Record) -> None:
        _fold(claims, name, record)

    view = await read_view(connection, fold)
    endpoint = view.declaration(name)
    if endpoint is None:
        declared = [one for one in view.endpoints() if view.declaration(one) is not None]
        raise NotFound(f"no endpoint {name!r} is declared; declared: {', '.join(declared) or 'none'}")
    result = claims.result
    if result is not None and result.experiment != experiment_of(endpoint):
        result = None
    return RoutedEndpoint(
        endpoint=endpoint,
        view=view,
        claim=claims.claim,
        silent_s=_silence_s(view, claims.claim),
        result=result,
        author=claims.author,
    )


async def wait_for_leader(connection: Broker, name: str, *, begun_s: float = BEGUN_S) -> RoutedEndpoint:
    """Read an endpoint's routing once a learner leads; wait up to `begun_s`, and not at all if no learner runs.

    A learner claims leadership only after an endpoint with a learning policy is declared.
    """
    until_s = time.monotonic() + begun_s
    while True:
        routed = await inspect_endpoint(connection, name)
        if routed.is_led or not routed.may_be_led or time.monotonic() > until_s:
            return routed
        await asyncio.sleep(LOOK_S)


async def send_command(
    connection: Broker,
    routed: RoutedEndpoint,
    command: OperatorCommand,
    is_followed: Callable[[SnapshotRecord], bool],
    wait_s: float,
) -> SnapshotRecord:
    """Append an operator command to the endpoint's event log; returns the first snapshot that follows it.

    Raises Unavailable if no learner leads, if the broker did not accept the command, or if no snapshot follows it
    within `wait_s` seconds.
    """
    name = routed.endpoint.endpoint
    if not routed.is_led:
        raise Unavailable(f"no learner leads, so the command would have no effect: {START_ONE}")
    channels = connection.channels
    logs = ((channels.declared, routed.view.fold_declared), (channels.status, routed.view.fold_status))
    follows = [LogFollower(connection, log, await connection.end(log), fold) for log, fold in logs]
    tasks = [asyncio.create_task(one.run(), name="follow") for one in follows]
    try:
        with contextlib.suppress(TimeoutError):  # a new endpoint has its first snapshot after a moment
            async with asyncio.timeout(BEGUN_S):
                while routed.snapshot is None:  # noqa: ASYNC110 - set by a fold
                    await asyncio.sleep(LOOK_S)
        before = routed.snapshot
        await _append(connection, name, command)
        async with asyncio.timeout(wait_s):
            while True:
                snapshot = routed.snapshot
                if snapshot is not None and snapshot is not before and is_followed(snapshot):
                    return snapshot
                await asyncio.sleep(LOOK_S)
    except TimeoutError as exc:
        raise Unavailable(
            f"no snapshot follows the command within {wait_s:g} s; the command is in the log, and a later command may "
            f"have replaced it: see `millrace route show {name}`"
        ) from exc
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _append(connection: Broker, name: str, command: OperatorCommand) -> None:
    log = connection.channels.events(name)
    await connection.declare(log)
    body, headers = write_operator_command(command)
    outcome = (await connection.append(log, [body], headers))[0]
    if not outcome.safe:
        raise Unavailable(f"the broker did not accept the command: {outcome}")


def _fold(claims: DeclaredResults, name: str, record: Record) -> None:
    claim, result, declared = read_claim(record), read_experiment_result(record), read_declared(record)
    if claim is not None:
        claims.claim = claim
    if result is not None and result.endpoint == name:
        claims.result = result
    if declared is not None and declared.endpoint == name:
        claims.author = declared.author


def _silence_s(view: View, claim: LeadershipClaim | None) -> float | None:
    """Return the seconds since the last heartbeat of the learner with the newest claim; None if it has stopped."""
    found = None if claim is None else view.processes.newest.get(claim.instance)
    if found is None or found[0].state == "stopped":
        return None
    return max(0.0, (now_us() - found[0].at_us) / 1e6)
