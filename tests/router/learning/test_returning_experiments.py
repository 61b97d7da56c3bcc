"""The learnt state returns after another experiment or learner, a damaged ledger, or from a checkpoint alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.messages import Record
from broker.records.declared import endpoint_declared
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.routing import LearnerCheckpoint, LogPosition, experiment_of
from router.learning.bandit import BanditExperiment
from router.learning.fold_document import checkpoint_of, resume
from router.policies.learning import one_run
from router.policies.linear import LinUcb
from router.policies.thompson import Thompson
from router.state.view import View
from router.stats.packing import packed
from tests.router.learning.live_learner import BANDIT, declare, learning, requests, send, viewing
from tests.router.learning.traces import folded, numbered, tick
from tests.waiting import until

THOMPSON = BanditExperiment(learning=Thompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked", refresh_ticks=10)


async def learn(broker: Broker, view: View) -> None:
    """Send 60 requests with their feedback, and wait until they are counted."""
    await until(lambda: view.endpoints() and view.learned.term >= 0)
    await send(broker, requests(view, 0, 60))
    await until(lambda: pulls(view) == 60)


def pulls(view: View) -> float:
    latest = view.snapshot_of("e")
    return -1.0 if latest is None else float(sum(latest.about["pulls"]))


async def test_an_experiment_that_returns_at_once_has_its_old_state(tmp_path: Path) -> None:
    """The ledger holds one experiment an endpoint: the one that is replaced leaves a checkpoint."""
    edited = {**BANDIT, "experiment": "edited"}
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view, learning(broker, tmp_path):
            await learn(broker, view)
            other = await declare(broker, edited)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.experiment == experiment_of(other))
            first = await declare(broker, BANDIT)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.experiment == experiment_of(first))
            await until(lambda: pulls(view) == 60)


async def test_an_experiment_that_returns_while_no_learner_runs_has_its_old_state(tmp_path: Path) -> None:
    """A stop leaves a checkpoint, too: the next learner begins with another declaration."""
    edited = {**BANDIT, "experiment": "edited"}
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view:
            async with learning(broker, tmp_path):
                await learn(broker, view)
            other = await declare(broker, edited)
            async with learning(broker, tmp_path, "learner-2"):
                await until(lambda: (latest := view.snapshot_of("e")) and latest.experiment == experiment_of(other))
                first = await declare(broker, BANDIT)
                await until(lambda: (latest := view.snapshot_of("e")) and latest.experiment == experiment_of(first))
                await until(lambda: (latest := view.snapshot_of("e")) and latest.term == view.learned.term)
                await until(lambda: pulls(view) == 60)


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
    """Change the content of a row: the database does not detect such damage."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE experiments SET document = 'what is this?'")
    connection.execute("UPDATE joins SET data = '5'")
    connection.commit()
    connection.close()


def garbage(path: Path) -> None:
    """Write a file that is no database."""
    path.write_bytes(b"what is this? " * 1000)


@pytest.mark.parametrize(("harm", "is_aside"), [(garbage, True), (smash, True), (foreign, True), (unreadable, False)])
async def test_the_log_is_read_after_any_damage_to_the_ledger(
    tmp_path: Path, harm: Callable[[Path], None], is_aside: bool
) -> None:
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, BANDIT)
        async with viewing(broker) as view:
            async with learning(broker, tmp_path):
                await learn(broker, view)
            term = view.learned.term
            harm(tmp_path / "learner.db")
            async with learning(broker, tmp_path, "learner-2"):
                await until(lambda: view.learned.term > term)
                await until(lambda: (latest := view.snapshot_of("e")) and latest.term == view.learned.term)
                assert pulls(view) == 60
        assert bool(list(tmp_path.glob("learner.db.damaged-*"))) is is_aside  # noqa: ASYNC240 - a folder of ten files


def test_a_gateway_that_starts_without_a_learner_weighs_by_the_checkpoints_models() -> None:
    policy: dict[str, Any] = {"bandit": "linucb", "reward": "clicked", "features": ["x"], "floor": "5%"}
    view, endpoint = declared({**BANDIT, "policy": policy})
    learnt = LinUcb(arms=3, dimensions=2)
    seen = one_run([0, 1, 2] * 20, [0.0, 1.0, 0.0] * 20, [1.0] * 60)
    models = packed(learnt.fold(learnt.start(1), seen, np.ones((60, 2))))
    place = LogPosition(offset=0, number=0, at_us=0)
    saved = LearnerCheckpoint(
        experiment=experiment_of(endpoint),
        at=place,
        rebuild=place,
        number=4,
        weights=(1 / 3,) * 3,
        state={"models": models},
    )
    view.fold_checkpoint("e", saved)
    assert view.router("e").plan(bytes(16), 0b010, vector=[1.0, 1.0]).snapshot == 4
    weights = [view.router("e").plan(bytes([at]) * 16, 0b111, vector=[1.0, 1.0]).legs[0] for at in range(200)]
    assert sum(leg.arm == "b" for leg in weights) > 150
    huge = {"root": [[[1e200, 0.0], [0.0, 1.0]]] * 3, "rewarded": [[0.0, 0.0]] * 3}
    for models in ({"root": "?"}, {"root": [huge["root"]], "rewarded": [huge["rewarded"]]}, 10**400):
        view, _ = declared({**BANDIT, "policy": policy})
        view.fold_checkpoint("e", replace(saved, state={"models": models}))  # of another form: it is ignored
        assert view.router("e").snapshot.number == 0


@pytest.mark.parametrize("broken", [{"keys": [1]}, {"keys": {"a": [5]}}, {"counts": [1]}, {"published": []}])
def test_a_checkpoint_of_another_form_is_refused(broken: dict[str, Any]) -> None:
    fold = folded(THOMPSON, numbered([tick(1)]))
    saved = checkpoint_of(fold)
    with pytest.raises(ValueError, match=r"no state|no keys"):
        resume(folded(THOMPSON, []), replace(saved, state={**saved.state, **broken}))


def declared(data: dict[str, Any]) -> tuple[View, Endpoint]:
    view, endpoint = View(b"key"), read_endpoint(data, source="test")
    view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), {}))
    return view, endpoint
