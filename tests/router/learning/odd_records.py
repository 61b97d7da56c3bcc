"""Helpers of `test_hostile.py` that other tests use, too."""

from __future__ import annotations

from typing import Any

from broker.messages import Record
from broker.protocol.ids import derived_uid
from broker.records.merges import Merge, write_merge
from broker.records.routing import (
    OperatorCommand,
    write_operator_command,
)
from router.learning.canary import CanaryExperiment, GuardrailWatch
from router.learning.interleaving import InterleavingExperiment
from router.policies.canary import Canary
from router.policies.interleaving import Interleaving
from tests.router.learning.traces import START_US, TracedRequest, feedback

CANARY = CanaryExperiment(canary=Canary(canary=2, stable=(1.0, 1.0, 0.0)), watches=(GuardrailWatch(),))
RANKED = InterleavingExperiment(declared=Interleaving(arms=3, rankers=(0, 1), reward="clicked"))


def order(word: Any, experiment: str = "x", **weights: float) -> Record:
    body, headers = write_operator_command(
        OperatorCommand(word=word, author="me", at_us=START_US, experiment=experiment, weights=weights)
    )
    return Record(0, body, headers)


def merged(number: int, rankers: tuple[str, ...], accepted_us: int = START_US) -> Record:
    placed = [1.0 if place == 0 else 0.0 for place in range(len(rankers))]
    merge = Merge(
        uid=derived_uid(b"merge", str(number).encode()),
        key="",
        policy="interleave",
        snapshot=0,
        mask=7,
        method="team_draft",
        rankers=rankers,
        used=rankers,
        items=("i",),
        ranks=(tuple(1 for _ in rankers),),
        credits=(tuple(placed),),
        accepted_us=accepted_us,
        at_us=accepted_us,
    )
    body, headers = write_merge(merge)
    return Record(0, body, headers)


def click(number: int) -> Record:
    record = feedback(TracedRequest(number=1, arm="a"), START_US, item="i")
    uid = derived_uid(b"merge", str(number).encode()).hex().encode()
    mine = TracedRequest(number=1, arm="a").uid.hex().encode()
    text = record.body.replace(b"-", b"").replace(mine, uid)
    return Record(0, text, record.headers)
