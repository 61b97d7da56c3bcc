"""An embedded broker for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from broker.base import Broker
from broker.channels import Channels
from broker.sqlite.adapter import SqliteBroker


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as opened:
        yield opened
