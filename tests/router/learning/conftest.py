"""Fixtures of the learner's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.sqlite.adapter import SqliteBroker
from router.learning.ledger import Ledger
from tests.router.learning.learner_bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        ledger = Ledger(tmp_path / "learner.db")
        await ledger.open()
        await ledger.lead(1)
        await broker.declare(broker.channels.status)
        yield Bench(broker, ledger)
        await ledger.close()
