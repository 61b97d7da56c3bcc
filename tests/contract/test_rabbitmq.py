"""RabbitMQ keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.broker_contract import BrokerContract
from tests.contract.site import Site
from tests.servers import rabbitmq_url


class TestRabbitmq(BrokerContract):
    """On the node that the tests are given."""

    @pytest.fixture
    async def site(self) -> AsyncIterator[Site]:
        async with Site(rabbitmq_url(), user="guest") as site:
            yield site
