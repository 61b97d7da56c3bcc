"""Fixtures of the learner's tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.sqlite.adapter import SqliteBroker
from router.learning.ledger import Ledger
from tests.router.learning.learner_bench import Bench
from tests.router.learning.live_learner import BROKERS


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        ledger = Ledger(tmp_path / "learner.db")
        await ledger.open()
        await ledger.lead(1)
        await broker.declare(broker.channels.status)
        yield Bench(broker, ledger)
        await ledger.close()


@pytest.fixture(params=["sqlite", "rabbitmq", "kafka"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    url = f"sqlite:///{tmp_path}/broker.db" if request.param == "sqlite" else BROKERS[request.param]()
    async with connect(url, Channels(f"test.{secrets.token_hex(4)}.")) as opened:
        yield opened
        for channel in (opened.channels.events("e"), opened.channels.declared, opened.channels.status):
            await opened.delete(channel)
