"""An operator command takes effect in the next snapshot, and an abort overrides any winner."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import orjson
import pytest

from broker.channels import Channels
from broker.connect import connect
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.rewards import Reward
from broker.records.routing import (
    LogPosition,
    OperatorCommand,
    SnapshotRecord,
    experiment_of,
    read_snapshot,
    write_operator_command,
)
from router.learning.bandit import BanditExperiment
from router.learning.canary import CanaryExperiment, GuardrailWatch
from router.learning.fold_document import canonical, document_of, restore
from router.learning.interleaving import InterleavingExperiment
from router.learning.joins import FeedbackOutcome, Join, write_join
from router.policies.canary import Canary
from router.policies.interleaving import Interleaving
from router.policies.thompson import Thompson
from router.stats.arrays import ONE
from tests.router.learning.live_learner import CANARY, declare, learning, viewing
from tests.router.learning.odd_records import click, merged, order
from tests.router.learning.traces import START_US, TracedRequest, feedback, folded, numbered, rows, spec_of, tick
from tests.waiting import until

THOMPSON = BanditExperiment(learning=Thompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked", refresh_ticks=10)
RANKED = InterleavingExperiment(declared=Interleaving(arms=3, rankers=(0, 1), reward="clicked"))


@pytest.mark.parametrize("held", [order("set", b=1), order("pause")])
def test_a_command_is_in_the_snapshot_of_the_next_tick(held: Record) -> None:
    """And not only in that of the next refresh: an abort must not wait for it."""
    assert folded(THOMPSON, numbered([held])).hold.is_pending
    fold = folded(THOMPSON, numbered([held, tick(1)]))
    assert not fold.hold.is_pending
    assert fold.snapshot.number == (1 if fold.hold.weights else 0)


def test_a_command_survives_being_written_before_its_snapshot() -> None:
    fold, other = folded(THOMPSON, numbered([order("set", b=1)])), folded(THOMPSON, [])
    restore(other, document_of(fold), LogPosition(offset=1, number=0, at_us=0))
    for one in (fold, other):
        one.apply(replace(tick(1), offset=1))
        assert one.snapshot.weights == (0.0, 1.0, 0.0)
    assert canonical(fold) == canonical(other)


def test_a_paused_canary_stays_at_its_step_and_its_hold_continues_when_it_is_resumed() -> None:
    canary = Canary(canary=2, stable=(1.0, 1.0, 0.0), steps=(0.1, 0.5), hold_requests=1, hold_ticks=10)
    staged = CanaryExperiment(canary=canary, watches=(GuardrailWatch(),))
    log = [
        rows([TracedRequest(number=1, arm="c", policy="canary")]),
        tick(5),
        order("pause"),
        tick(40),
        order("resume"),
    ]
    for number, step in ((44, "step 1 of 2"), (45, "step 2 of 2")):
        assert staged.phase(folded(staged, numbered([*log, tick(number)])).state) == step


def test_a_paused_bandit_does_not_forget() -> None:
    fading = BanditExperiment(learning=Thompson(arms=3, half_life=30.0), arms=3, among=(0, 1, 2), reward="clicked")
    one = TracedRequest(number=1, arm="a")
    log = [rows([one]), feedback(one, START_US), order("pause"), tick(50), order("resume"), tick(80)]
    paused, resumed = (folded(fading, numbered(log[:end])).state for end in (4, 6))
    assert (paused.pulls[0, 0], paused.rewards[0, 0]) == (ONE, ONE)
    assert resumed.rewards[0, 0] / ONE == pytest.approx(0.5, rel=1e-3)


def test_an_abort_overrides_a_proven_winner() -> None:
    fold = folded(RANKED, numbered([tick(1)]))
    fold.state = replace(fold.state, alone=np.ones(1, np.int64), proven=np.ones(1, np.int64))
    for offset, record in enumerate([tick(2), order("abort"), tick(3)], 1):
        fold.apply(replace(record, offset=offset))
    assert RANKED.phase(fold.state) == "ended without a winner"
    assert fold.snapshot.weights == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("how", "votes"), [("first", 0), ("last", 1), ("max", 1), ("sum", 1)])
def test_clicks_on_an_item_are_reduced_as_declared(how: str, votes: int) -> None:
    """First it was shown, then clicked."""
    reward = Reward.model_validate({"type": "real", "default": 0, "horizon": "5s", "duplicates": how})
    seen, clicked = click(1), click(1)
    seen = replace(seen, body=changed(seen.body, 0.0, "seen", START_US))
    clicked = replace(clicked, body=changed(clicked.body, 1.0, "clicked", START_US + 1))
    fold = folded(RANKED, numbered([merged(1, ("a", "b")), seen, clicked, tick(20)]), spec_of(clicked=reward))
    assert int(fold.state.votes.units[0]) == votes


def test_a_click_that_was_taken_back_is_none() -> None:
    join = Join(0, 0)
    for number, value in enumerate((1.0, -1.0)):
        assert join.add_item("i", "sum", START_US, value, str(number)) is FeedbackOutcome.JOINED
    assert join.clicked() == []


async def test_the_snapshot_after_an_operator_command_shows_its_effect(tmp_path: Path) -> None:
    """No snapshot has the new phase and the old weights."""
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        endpoint = await declare(broker, CANARY)
        async with viewing(broker) as view, learning(broker, tmp_path):
            await until(lambda: (latest := view.snapshot_of("e")) and latest.phase == "step 1 of 2")
            begin = await broker.end(broker.channels.status)
            abort = OperatorCommand(word="abort", author="test", at_us=now_us(), experiment=experiment_of(endpoint))
            body, headers = write_operator_command(abort)
            await broker.append(broker.channels.events("e"), [body], headers)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.phase == "aborted")
        reader, snapshots = broker.read(broker.channels.status, begin), list[SnapshotRecord]()
        async with asyncio.timeout(10):
            while not any(one.phase == "aborted" for one in snapshots):
                snapshots += [one for record in await reader.read(100) if (one := read_snapshot(record))]
        await reader.close()
        assert next(one.weights for one in snapshots if one.phase == "aborted") == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("how", ["first", "last", "max"])
def test_values_and_labels_become_one_in_any_order_to_the_byte(how: str) -> None:
    values = [(START_US + at, value) for at in (0, 1) for value in (0.5, 1.0)]
    found = set()
    for order_ in permutations(values):
        join = Join(0, 0)
        for at_us, value in order_:
            join.add("clicked", how, at_us, value, None)
            join.add_item("i", how, at_us, value, None)
            join.add_truth("last" if how == "max" else how, at_us, [value])
        found.add(orjson.dumps(write_join(join)))
    assert len(found) == 1


def changed(body: bytes, value: float, event: str, at_us: int) -> bytes:
    """Return a piece of feedback with another value, id and time."""
    data = orjson.loads(body)
    return orjson.dumps({**data, "values": {"clicked": value}, "event_id": event, "at_us": at_us})
