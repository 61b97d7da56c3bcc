"""Event logs of a known world, as its gateways, processors and clients would have written them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from broker.messages import Record
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.routing import experiment_of, write_checkpoint
from router.evidence.recorder import Evidence, Recorder
from router.learning.declared import read_experiment
from router.learning.experiment import Experiment, spec_of
from router.learning.fold import ExperimentFold
from router.learning.fold_document import checkpoint_of
from tests.router.learning.traces import START_US, TracedRequest, feedback, numbered, rows, tick

ARMS = {"a": "m@1", "b": "m@2", "c": "m@3"}
CLICKED = {"rewards": {"clicked": {"default": 0, "horizon": "5s"}}}
MEANS = {"a": 0.2, "b": 0.5, "c": 0.35}
SPLIT = {"split": {"a": 50, "b": 30, "c": 20}}
THOMPSON = {"bandit": "thompson", "reward": "clicked", "floor": "5%", "refresh": "5s"}
LATER_US = START_US + 10**12


def endpoint(policy: dict[str, Any], feedback: dict[str, Any] | None = None, **more: Any) -> Endpoint:
    """Return the declaration of an endpoint with three arms."""
    declaration = {"endpoint": "e", "arms": ARMS, "feedback": feedback or CLICKED, "policy": policy, **more}
    return read_endpoint(declaration, source="test")


def split_log(
    requests: int,
    seed: int,
    *,
    weights: Sequence[float] = (0.5, 0.3, 0.2),
    at_once: int = 20,
    a_second: int = 10,
    liked: Callable[[str, int], float] = lambda arm, _: MEANS[arm],
    reports: Callable[[str, bool], bool] | None = None,
) -> list[Record]:
    """Return a log of decisions drawn from fixed weights.

    `liked` is the probability of a reward by arm and number of the request; `told`, whether a reward (of 0 or 1) is
    fed back: those of 1 if not said.
    """
    random, records = np.random.default_rng(seed), list[Record]()
    for begin in range(0, requests, at_once):
        shown = []
        for number in range(begin, min(begin + at_once, requests)):
            arm = int(random.choice(3, p=weights))
            at_us = START_US + number * 1_000_000 // a_second
            shown.append(
                TracedRequest(number=number, arm="abc"[arm], policy="split", propensity=weights[arm], accepted_us=at_us)
            )
        records.append(rows(shown))
        for one in shown:
            like = bool(random.random() < liked(one.arm, one.number))
            if like if reports is None else reports(one.arm, like):
                at_us = one.accepted_us + 100_000
                records.append(feedback(one, at_us, values={"clicked": float(like)}))
    return numbered(records)


def learner_log(
    declared: Endpoint, seconds: int, seed: int, *, a_second: int = 5, keep_every: int = 10_000
) -> tuple[list[Record], ExperimentFold[Any]]:
    """Return the log of an endpoint with a learner: its checkpoint, ticks, decisions from its snapshots, and clicks.

    A checkpoint comes every `keep_every` seconds. Beside the log the fold that the learner has.
    """
    random = np.random.default_rng(seed)
    experiment: Experiment[Any] | None = read_experiment(declared)
    assert experiment is not None
    fold: ExperimentFold[Any] = ExperimentFold(spec_of(declared), experiment)
    body, headers = write_checkpoint(checkpoint_of(fold))
    records, number = [Record(0, body, headers)], 0
    for second in range(1, seconds + 1):
        new, shown = [tick(second)], []
        weights = fold.snapshot.weights
        for _ in range(a_second):
            arm = int(random.choice(3, p=weights))
            at_us = START_US + second * 1_000_000
            shown.append(
                TracedRequest(
                    number=number,
                    arm="abc"[arm],
                    policy=experiment.policy,
                    propensity=weights[arm],
                    snapshot=fold.snapshot.number,
                    accepted_us=at_us,
                )
            )
            number += 1
        new.append(rows(shown))
        new += [feedback(one, one.accepted_us + 50_000) for one in shown if random.random() < MEANS[one.arm]]
        for record in numbered(new, len(records)):
            records.append(record)
            fold.apply(record)
        if second % keep_every == 0:
            body, headers = write_checkpoint(checkpoint_of(fold))
            records.append(Record(len(records), body, headers))
            fold.apply(records[-1])
    assert fold.spec.experiment == experiment_of(declared)
    return records, fold


def recorded(declared: Endpoint, records: Sequence[Record], **more: Any) -> Evidence:
    """Return the evidence of a log without a learner, or with one that began at the first record."""
    recorder = Recorder(declared, LATER_US, **{"is_led": False, **more})
    for record in records:
        recorder.apply(record)
    return recorder.finish()
