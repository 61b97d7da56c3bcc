"""What the logs say about the routing of one endpoint: its policy, who leads, what is served, and how it ended."""

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
    read_verdict,
    write_order,
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
    """What only this reading of `declared` wants: the newest claim, and of each endpoint its verdict and its author."""

    claim: LeadershipClaim | None = None
    verdict: ExperimentResult | None = None
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedEndpoint:
    """One endpoint. `silent_s` is for how long its learner has said nothing, None if nobody leads."""

    endpoint: Endpoint
    view: View
    claim: LeadershipClaim | None
    silent_s: float | None
    verdict: ExperimentResult | None
    author: str

    @property
    def said(self) -> SnapshotRecord | None:
        """The newest snapshot of the experiment as it is declared now."""
        return self.view.snapshot_of(self.endpoint.endpoint)

    @property
    def is_led(self) -> bool:
        """Tell whether a learner leads and speaks."""
        return self.silent_s is not None and self.silent_s < SILENT_AFTER_S

    @property
    def may_be_led(self) -> bool:
        """Tell whether a learner runs: if none leads yet, it may claim in a moment."""
        parts = [
            said for said, _ in self.view.processes.newest.values() if said.part == "learner" and said.state == "ready"
        ]
        return any(now_us() - said.at_us < SILENT_AFTER_S * 1e6 for said in parts)

    @property
    def learns(self) -> bool:
        """Tell whether the policy follows from what is learnt."""
        return read_policy(self.endpoint).learns


async def look_at(connection: Broker, name: str) -> RoutedEndpoint:
    """Return what there is to know of an endpoint; raises NotFound naming those that are declared."""
    claims = DeclaredResults()

    def fold(record: Record) -> None:
        _fold(claims, name, record)

    view = await read_view(connection, fold)
    endpoint = view.declaration(name)
    if endpoint is None:
        declared = [one for one in view.endpoints() if view.declaration(one) is not None]
        raise NotFound(f"no endpoint {name!r} is declared; there is: {', '.join(declared) or 'none'}")
    verdict = claims.verdict
    if verdict is not None and verdict.experiment != experiment_of(endpoint):
        verdict = None
    return RoutedEndpoint(
        endpoint=endpoint,
        view=view,
        claim=claims.claim,
        silent_s=_silence_s(view, claims.claim),
        verdict=verdict,
        author=claims.author,
    )


async def look_at_led(connection: Broker, name: str) -> RoutedEndpoint:
    """Return the same once a learner leads; sooner if none runs that could, or none has in `BEGUN_S`.

    A learner claims a moment after the first endpoint that it can learn for is declared, and not before.
    """
    until_s = time.monotonic() + BEGUN_S
    while True:
        routed = await look_at(connection, name)
        if routed.is_led or not routed.may_be_led or time.monotonic() > until_s:
            return routed
        await asyncio.sleep(LOOK_S)


async def give(
    connection: Broker,
    routed: RoutedEndpoint,
    order: OperatorCommand,
    is_followed: Callable[[SnapshotRecord], bool],
    wait_s: float,
) -> SnapshotRecord:
    """Append an order to the endpoint's event log; returns the first snapshot that follows it.

    Raises Unavailable when nobody leads, when the order was not taken, and when no snapshot follows it in time.
    """
    name = routed.endpoint.endpoint
    if not routed.is_led:
        raise Unavailable(f"no learner leads, so nobody would obey: {START_ONE}")
    channels = connection.channels
    logs = ((channels.declared, routed.view.fold_declared), (channels.status, routed.view.fold_status))
    follows = [LogFollower(connection, log, await connection.end(log), fold) for log, fold in logs]
    tasks = [asyncio.create_task(one.run(), name="follow") for one in follows]
    try:
        with contextlib.suppress(TimeoutError):  # who has just been declared is learnt of in a moment, and not before
            async with asyncio.timeout(BEGUN_S):
                while routed.said is None:  # noqa: ASYNC110 - a fold
                    await asyncio.sleep(LOOK_S)
        before = routed.said
        await _append(connection, name, order)
        async with asyncio.timeout(wait_s):
            while (said := routed.said) is None or said is before or not is_followed(said):  # noqa: ASYNC110 - a fold
                await asyncio.sleep(LOOK_S)
            return said
    except TimeoutError as exc:
        raise Unavailable(
            f"no snapshot follows the order within {wait_s:g} s; it is in the log, unless another one has overruled it:"
            f" see `millrace route show {name}`"
        ) from exc
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _append(connection: Broker, name: str, order: OperatorCommand) -> None:
    log = connection.channels.events(name)
    await connection.declare(log)
    body, headers = write_order(order)
    outcome = (await connection.append(log, [body], headers))[0]
    if not outcome.safe:
        raise Unavailable(f"the order was not taken: {outcome}")


def _fold(claims: DeclaredResults, name: str, record: Record) -> None:
    claim, verdict, declared = read_claim(record), read_verdict(record), read_declared(record)
    if claim is not None:
        claims.claim = claim
    if verdict is not None and verdict.endpoint == name:
        claims.verdict = verdict
    if declared is not None and declared.endpoint == name:
        claims.author = declared.author


def _silence_s(view: View, claim: LeadershipClaim | None) -> float | None:
    """Return for how long the learner of the newest claim has been silent; None if it is not there at all."""
    heard = None if claim is None else view.processes.newest.get(claim.instance)
    if heard is None or heard[0].state == "stopped":
        return None
    return max(0.0, (now_us() - heard[0].at_us) / 1e6)
