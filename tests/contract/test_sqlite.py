"""The embedded broker keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.broker_contract import BrokerContract
from tests.contract.site import Site


class TestSqlite(BrokerContract):
    """In a file of each test's own."""

    @pytest.fixture
    async def site(self, tmp_path: Path) -> AsyncIterator[Site]:
        async with Site(f"sqlite:///{tmp_path / 'broker.db'}", user="anybody") as site:
            yield site
