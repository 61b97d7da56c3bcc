"""Event logs made by chance, as gateways, processors and a leader write them: records with offsets, always the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from broker.messages import Record
from broker.protocol.header import Request, Route, Status
from broker.protocol.ids import derived_uid
from broker.records.events import EndedRequests, write_event
from broker.records.feedback import Feedback, write_feedback
from broker.records.rewards import Reward
from broker.records.routing import Tick, write_tick
from router.learning.experiment import Experiment, ExperimentSpec
from router.learning.fold import ExperimentFold

START_US = 1_700_000_000_000_000
ARMS = ("a", "b", "c")
CLICKED = Reward.model_validate({"type": "bool", "horizon": "20s", "default": 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    """One request of a trace."""

    number: int
    arm: str
    policy: str = "thompson"
    snapshot: int = 0
    propensity: float = 1 / 3
    status: Status = Status.OK
    key: str = ""
    accepted_us: int = START_US
    latency_us: int = 5000
    outputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uid(self) -> bytes:
        """The request's own, made from its number."""
        return derived_uid(b"trace", str(self.number).encode())


def spec_of(**rewards: Reward) -> ExperimentSpec:
    """Return an endpoint with three arms; its rows may come twice for half a minute."""
    return ExperimentSpec(
        endpoint="e", experiment="x", arms=ARMS, rewards=rewards or {"clicked": CLICKED}, dedupe_us=30_000_000
    )


def rows(shown: Sequence[TracedRequest], offset: int = 0) -> Record:
    """Return one event with a row for each request."""
    ended = []
    for one in shown:
        route = Route(
            endpoint="e",
            arm=one.arm,
            model="m",
            version=ARMS.index(one.arm) + 1,
            policy=one.policy,
            snapshot=one.snapshot,
            mask=7,
        )
        request = Request(route=route, uid=one.uid, accepted_us=one.accepted_us, propensity=one.propensity, key=one.key)
        published_us = one.accepted_us + one.latency_us
        ended.append(
            EndedRequests(
                requests=[request], rows=[1], taken_us=[one.accepted_us], status=one.status, published_us=published_us
            )
        )
    outputs = [{name: np.array([value])} for one in shown for name, value in one.outputs.items()]
    body, headers = write_event(ended, [], outputs if len(outputs) == len(shown) else [], source="/trace")
    return Record(offset, body, headers)


def feedback(one: TracedRequest, at_us: int, offset: int = 0, **more: Any) -> Record:
    """Return feedback for a request."""
    body, headers = write_feedback(Feedback(uid=one.uid, at_us=at_us, **{"values": {"clicked": 1.0}, **more}))
    return Record(offset, body, headers)


def tick(number: int, at_us: int | None = None, offset: int = 0) -> Record:
    """Return a tick; a second of the clock is a second of time."""
    body, headers = write_tick(Tick(number=number, at_us=START_US + number * 1_000_000 if at_us is None else at_us))
    return Record(offset, body, headers)


def numbered(records: Sequence[Record], begin: int = 0) -> list[Record]:
    """Return the records with the offsets that a log gives them."""
    return [replace(record, offset=begin + place) for place, record in enumerate(records)]


def trace(requests: int, seed: int, *, policy: str = "thompson", keys: int = 0, quiet: int = 40) -> list[Record]:
    """Return a log of so many requests, three a second, in events of one to four rows.

    Half of them are rewarded: in time, too late, twice, or before their row; one in twenty fails. Some rows come twice,
    some requests were pinned. At its end `quiet` seconds pass.
    """
    random = np.random.default_rng(seed)
    timed: list[tuple[float, Record]] = [(float(second), tick(second)) for second in range(1, requests // 3 + quiet)]
    means = {"a": 0.3, "b": 0.5, "c": 0.45}
    group: list[TracedRequest] = []
    for number in range(requests):
        second = number / 3.0
        arm = ARMS[int(random.integers(3))]
        pinned, failed = random.random() < 0.05, random.random() < 0.05
        one = TracedRequest(
            number=number,
            arm=arm,
            policy="pinned" if pinned else policy,
            propensity=0.0 if pinned else 1 / 3,
            status=Status.FAILED if failed else Status.OK,
            key=f"k{random.integers(keys)}" if keys else "",
            accepted_us=START_US + int(second * 1e6),
            latency_us=int(random.exponential(20_000)),
        )
        group.append(one)
        if random.random() < 0.5 or number == requests - 1:
            timed.append((second + 0.01, rows(group)))
            if random.random() < 0.1:
                timed.append((second + random.exponential(5.0), rows(group)))
            group = []
        if random.random() < means[arm]:
            for _ in range(1 + (random.random() < 0.2)):
                delay = random.exponential(8.0) - 0.5
                timed.append((second + delay, feedback(one, START_US + int((second + delay) * 1e6))))
    timed.sort(key=lambda item: item[0])
    return numbered([record for _, record in timed])


def folded(
    experiment: Experiment[Any], records: Sequence[Record], subject: ExperimentSpec | None = None
) -> ExperimentFold[Any]:
    """Return the fold of a log."""
    fold: ExperimentFold[Any] = ExperimentFold(subject or spec_of(), experiment)
    for record in records:
        fold.apply(record)
    return fold
