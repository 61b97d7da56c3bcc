"""What people order is in the next snapshot, and nothing is said of it before; whoever wins, an abort is an abort."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from broker.channels import Channels
from broker.connect import connect
from broker.declared import endpoint_declared
from broker.endpoint import Endpoint, read_endpoint
from broker.ids import now_us
from broker.messages import Record
from broker.rewards import Reward
from broker.routing import Checkpoint, Order, Place, Said, experiment_of, read_snapshot, write_order
from router.learning.bandit import Bandit
from router.learning.interleaved import Interleaved
from router.learning.joins import Join, Told, write_join
from router.packing import packed
from router.policies.base import one_run
from router.policies.interleaving import Interleaving
from router.policies.linear import LinUcb
from router.policies.thompson import Thompson
from router.view import View
from tests.router.learning.test_hostile import click, merged, order
from tests.router.learning.test_service import BANDIT, CANARY, declare, learning, requests, send, until, viewing
from tests.router.learning.traces import START_US, folded, numbered, subject_of, tick

THOMPSON = Bandit(learning=Thompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked", refresh_ticks=10)
RANKED = Interleaved(declared=Interleaving(arms=3, rankers=(0, 1), reward="clicked"))


@pytest.mark.parametrize("held", [order("set", b=1), order("pause")])
def test_an_order_is_in_the_snapshot_of_the_next_tick(held: Record) -> None:
    """Not in that of the next refresh: who aborts does not want to wait for that."""
    assert folded(THOMPSON, numbered([held])).is_ordered
    fold = folded(THOMPSON, numbered([held, tick(1)]))
    assert not fold.is_ordered
    assert fold.snapshot.number == (1 if fold.set else 0)


def test_an_order_survives_being_written_before_its_snapshot() -> None:
    fold, other = folded(THOMPSON, numbered([order("set", b=1)])), folded(THOMPSON, [])
    other.restore(fold.document(), Place(offset=1, number=0, at_us=0))
    for one in (fold, other):
        one.apply(replace(tick(1), offset=1))
        assert one.snapshot.weights == (0.0, 1.0, 0.0)
    assert fold.canonical() == other.canonical()


def test_an_abort_outweighs_what_was_proven() -> None:
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
    fold = folded(RANKED, numbered([merged(1, ("a", "b")), seen, clicked, tick(20)]), subject_of(clicked=reward))
    assert int(fold.state.votes.units[0]) == votes


def test_a_click_that_was_taken_back_is_none() -> None:
    join = Join(0, 0)
    for number, value in enumerate((1.0, -1.0)):
        assert join.take_item("i", "sum", START_US, value, str(number)) is Told.JOINED
    assert join.clicked() == []


async def test_what_is_said_after_an_order_is_its_result(tmp_path: Path) -> None:
    """No snapshot has the new phase and the old weights."""
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        endpoint = await declare(broker, CANARY)
        async with viewing(broker) as view, learning(broker, tmp_path):
            await until(lambda: (said := view.snapshot_of("e")) and said.phase == "step 1 of 2")
            begin = await broker.end(broker.channels.status)
            abort = Order(word="abort", author="test", at_us=now_us(), experiment=experiment_of(endpoint))
            body, headers = write_order(abort)
            await broker.append(broker.channels.events("e"), [body], headers)
            await until(lambda: (said := view.snapshot_of("e")) and said.phase == "aborted")
        reader, said = broker.read(broker.channels.status, begin), list[Said]()
        async with asyncio.timeout(10):
            while not any(one.phase == "aborted" for one in said):
                said += [one for record in await reader.read(100) if (one := read_snapshot(record))]
        await reader.close()
        assert next(one.weights for one in said if one.phase == "aborted") == (1.0, 0.0, 0.0)


async def test_an_experiment_that_comes_back_at_once_knows_what_it_knew(tmp_path: Path) -> None:
    """The ledger has room for one an endpoint: who is declared anew leaves a checkpoint."""
    edited = {**BANDIT, "experiment": "edited"}
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view, learning(broker, tmp_path):
            await until(lambda: view.endpoints() and view.term >= 0)
            await send(broker, requests(view, 0, 60))
            await until(lambda: (said := view.snapshot_of("e")) and sum(said.about["pulls"]) == 60)
            other = await declare(broker, edited)
            await until(lambda: (said := view.snapshot_of("e")) and said.experiment == experiment_of(other))
            first = await declare(broker, BANDIT)
            await until(lambda: (said := view.snapshot_of("e")) and said.experiment == experiment_of(first))
            await until(lambda: (said := view.snapshot_of("e")) and sum(said.about["pulls"]) == 60)


async def test_who_is_declared_anew_while_no_learner_runs_comes_back_with_what_it_knew(tmp_path: Path) -> None:
    """A stop leaves a checkpoint, too: the next learner begins with another declaration."""
    edited = {**BANDIT, "experiment": "edited"}
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view:
            async with learning(broker, tmp_path):
                await until(lambda: view.endpoints() and view.term >= 0)
                await send(broker, requests(view, 0, 60))
                await until(lambda: (said := view.snapshot_of("e")) and sum(said.about["pulls"]) == 60)
            other = await declare(broker, edited)
            async with learning(broker, tmp_path, "learner-2"):
                await until(lambda: (said := view.snapshot_of("e")) and said.experiment == experiment_of(other))
                first = await declare(broker, BANDIT)
                await until(lambda: (said := view.snapshot_of("e")) and said.experiment == experiment_of(first))
                await until(lambda: (said := view.snapshot_of("e")) and said.term == view.term)
                await until(lambda: (said := view.snapshot_of("e")) and sum(said.about["pulls"]) == 60)


def smash(path: Path) -> None:
    """Write over the page that a table of the ledger begins on."""
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'leader'").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(data)


def foreign(path: Path) -> None:
    """Put the database of another program in its place."""
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE leader (a, b, c)")
    connection.commit()
    connection.close()


def unreadable(path: Path) -> None:
    """Change what is written in a row: it is no damage that a database would see."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE experiments SET document = 'what is this?'")
    connection.execute("UPDATE joins SET data = '5'")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("harm", "is_aside"), [(smash, True), (foreign, True), (unreadable, False)])
async def test_whatever_becomes_of_the_ledger_the_log_is_read(
    tmp_path: Path, harm: Callable[[Path], None], is_aside: bool
) -> None:
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view:
            async with learning(broker, tmp_path):
                await until(lambda: view.endpoints() and view.term >= 0)
                await send(broker, requests(view, 0, 60))
                await until(lambda: (said := view.snapshot_of("e")) and sum(said.about["pulls"]) == 60)
            term = view.term
            harm(tmp_path / "learner.db")
            async with learning(broker, tmp_path, "learner-2"):
                await until(lambda: view.term > term)
                await until(lambda: (said := view.snapshot_of("e")) and said.term == view.term)
                said = view.snapshot_of("e")
                assert said is not None
                assert sum(said.about["pulls"]) == 60
        assert bool(list(tmp_path.glob("learner.db.damaged-*"))) is is_aside  # noqa: ASYNC240 - as below


@pytest.mark.parametrize("how", ["first", "last", "max"])
def test_values_and_labels_become_one_in_any_order_to_the_byte(how: str) -> None:
    said = [(START_US + at, value) for at in (0, 1) for value in (0.5, 1.0)]
    found = set()
    for order_ in permutations(said):
        join = Join(0, 0)
        for at_us, value in order_:
            join.take("clicked", how, at_us, value, None)
            join.take_item("i", how, at_us, value, None)
            join.take_truth("last" if how == "max" else how, at_us, [value])
        found.add(orjson.dumps(write_join(join)))
    assert len(found) == 1


async def test_a_ledger_that_is_no_database_is_put_aside_and_the_log_is_read(tmp_path: Path) -> None:
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view:
            async with learning(broker, tmp_path):
                await until(lambda: view.endpoints() and view.term >= 0)
                await send(broker, requests(view, 0, 60))
                await until(lambda: (said := view.snapshot_of("e")) and sum(said.about["pulls"]) == 60)
            term = view.term
            (tmp_path / "learner.db").write_bytes(b"what is this? " * 1000)
            async with learning(broker, tmp_path, "learner-2"):
                await until(lambda: view.term > term)
                await until(lambda: (said := view.snapshot_of("e")) and said.term == view.term)
                said = view.snapshot_of("e")
                assert said is not None
                assert sum(said.about["pulls"]) == 60
        (aside,) = tmp_path.glob("learner.db.damaged-*")  # noqa: ASYNC240 - a folder of ten files
        assert aside.read_bytes().startswith(b"what is this?")


def test_who_starts_without_a_learner_weighs_by_the_checkpoints_models() -> None:
    policy: dict[str, Any] = {"bandit": "linucb", "reward": "clicked", "features": ["x"], "floor": "5%"}
    view, endpoint = declared({**BANDIT, "policy": policy})
    learnt = LinUcb(arms=3, dimensions=2)
    seen = one_run([0, 1, 2] * 20, [0.0, 1.0, 0.0] * 20, [1.0] * 60)
    models = packed(learnt.fold(learnt.start(1), seen, np.ones((60, 2))))
    place = Place(offset=0, number=0, at_us=0)
    kept = Checkpoint(
        experiment=experiment_of(endpoint), at=place, rebuild=place, number=4, weights=(1 / 3,) * 3,
        state={"models": models},
    )  # fmt: skip
    view.fold_checkpoint("e", kept)
    assert view.router("e").plan(bytes(16), 0b010, vector=[1.0, 1.0]).snapshot == 4
    weights = [view.router("e").plan(bytes([at]) * 16, 0b111, vector=[1.0, 1.0]).legs[0] for at in range(200)]
    assert sum(leg.arm == "b" for leg in weights) > 150
    huge = {"root": [[[1e200, 0.0], [0.0, 1.0]]] * 3, "rewarded": [[0.0, 0.0]] * 3}
    for models in ({"root": "?"}, {"root": [huge["root"]], "rewarded": [huge["rewarded"]]}, 10**400):
        view, _ = declared({**BANDIT, "policy": policy})
        view.fold_checkpoint("e", replace(kept, state={"models": models}))  # of another form: it says nothing
        assert view.router("e").snapshot.number == 0


@pytest.mark.parametrize("broken", [{"keys": [1]}, {"keys": {"a": [5]}}, {"counts": [1]}, {"published": []}])
def test_a_checkpoint_of_another_form_is_refused(broken: dict[str, Any]) -> None:
    fold = folded(THOMPSON, numbered([tick(1)]))
    kept = fold.checkpoint()
    with pytest.raises(ValueError, match=r"no state|no keys"):
        folded(THOMPSON, []).resume(replace(kept, state={**kept.state, **broken}))


def declared(data: dict[str, Any]) -> tuple[View, Endpoint]:
    view, endpoint = View(b"key"), read_endpoint(data, source="test")
    view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), {}))
    return view, endpoint


def changed(body: bytes, value: float, event: str, at_us: int) -> bytes:
    """Return a piece of feedback with another value, id and time."""
    data = orjson.loads(body)
    return orjson.dumps({**data, "values": {"clicked": value}, "event_id": event, "at_us": at_us})
