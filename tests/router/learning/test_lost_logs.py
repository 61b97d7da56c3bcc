"""A deleted log loses the open joins and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.sqlite.adapter import SqliteBroker
from router.learning.checkpoint_search import CheckpointSearch
from router.learning.ledger import Ledger
from tests.router.learning.learner_bench import Bench
from tests.router.learning.live_learner import BROKERS, declare, learning, viewing
from tests.router.learning.traces import START_US, TracedRequest, feedback, rows, spec_of, tick
from tests.waiting import until

BANDIT: dict[str, Any] = {
    "endpoint": "e",
    "arms": {"a": "m@1", "b": "m@2"},
    "policy": {"bandit": "thompson", "reward": "r"},
    "feedback": {"rewards": {"r": {"default": 0}}},
}


@pytest.fixture(params=["sqlite", "rabbitmq", "kafka"])
async def brokers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Broker, Broker]]:
    """Two processes' brokers on the same channels."""
    url = f"sqlite:///{tmp_path}/broker.db" if request.param == "sqlite" else BROKERS[request.param]()
    channels = Channels(f"test.{secrets.token_hex(4)}.")
    async with connect(url, channels) as one, connect(url, channels) as other:
        yield one, other
        for channel in (channels.events("e"), channels.declared, channels.status):
            await one.delete(channel)


async def test_an_event_log_that_was_deleted_ends_no_learning(tmp_path: Path) -> None:
    async with (
        SqliteBroker(tmp_path / "broker.db", Channels()) as opened,
        SqliteBroker(tmp_path / "broker.db", Channels()) as other,
    ):
        ledger = Ledger(tmp_path / "learner.db")
        await ledger.open()
        await ledger.lead(1)
        bench = Bench(opened, ledger)
        shown = [TracedRequest(number=at, arm="a", policy="thompson") for at in range(4)]
        await bench.append([rows(shown[:2]), feedback(shown[0], START_US), feedback(shown[1], START_US), tick(1)])
        async with bench.learning() as learner:
            await until(lambda: learner.fold.progress.tick == 1)
            known = learner.fold.state
            await other.delete(opened.channels.events("e"))
            await until(lambda: learner.fold.progress.offset <= 1 and learner.fold.progress.tick == 1)
            found = await CheckpointSearch(opened, opened.channels.events("e"), spec_of().experiment).run()
            assert found.checkpoint is not None
            assert not learner.has_gap
            assert repr(learner.fold.state) == repr(known)
            await bench.append([rows(shown[2:3]), feedback(shown[2], START_US), tick(2)])
            await until(lambda: learner.fold.progress.tick == 2)
        await ledger.close()


async def test_declarations_are_written_again_and_leadership_is_claimed_again(
    brokers: tuple[Broker, Broker], tmp_path: Path
) -> None:
    broker, other = brokers
    await declare(broker, BANDIT)
    async with learning(broker, tmp_path), viewing(broker) as before:
        await until(lambda: before.snapshot_of("e") is not None)
        await other.delete(broker.channels.declared)
        async with viewing(other) as after:
            await until(lambda: after.snapshot_of("e") is not None)
            assert after.declaration("e") == before.declaration("e")
            await until(lambda: before.learned.term == after.learned.term)
            assert before.snapshot_of("e") is not None
