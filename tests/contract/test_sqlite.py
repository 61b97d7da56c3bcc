"""The embedded broker keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.broker_contract import BrokerContract
from tests.contract.installation import Installation


class TestSqlite(BrokerContract):
    """In a new file for each test."""

    @pytest.fixture
    async def installation(self, tmp_path: Path) -> AsyncIterator[Installation]:
        async with Installation(f"sqlite:///{tmp_path / 'broker.db'}", user="anybody") as installation:
            yield installation
